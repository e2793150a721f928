"""What aiokafka raises, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import errors as kafka

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, MessageTooLarge

REPLY_SECONDS = 10.0
REFUSALS = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.ClusterAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.IncompatibleBrokerVersion,
    kafka.InconsistentGroupProtocolError,
    kafka.InvalidConfigurationError,
    kafka.InvalidPartitionsError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidRequestError,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTopicError,
    kafka.PolicyViolationError,
    kafka.SaslAuthenticationFailed,
    kafka.TopicAuthorizationFailedError,
    kafka.UnsupportedSaslMechanismError,
    kafka.UnsupportedVersionError,
)
BUSY = (
    kafka.IllegalGenerationError,
    kafka.NotEnoughReplicasAfterAppendError,
    kafka.NotEnoughReplicasError,
    kafka.RebalanceInProgressError,
    kafka.UnknownMemberIdError,
)
TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)


@contextmanager
def broker_errors() -> Iterator[None]:
    """Say what aiokafka raises in the words of mqasync.errors."""
    try:
        yield
    except REFUSALS as error:
        raise BrokerRefused(_words(error)) from error
    except BUSY as error:
        raise BrokerBusy(_words(error)) from error
    except TOO_LARGE as error:
        raise MessageTooLarge("Kafka does not take it: it is larger than max.message.bytes of its topic") from error
    except (kafka.KafkaError, kafka.ConsumerStoppedError, kafka.IllegalOperation, OSError, TimeoutError) as error:
        raise BrokerLost(_words(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise  # somebody asked for it
        raise BrokerLost("the connection ended") from error


async def stopped(stopping: Coroutine[Any, Any, None], client: Any) -> None:
    """Wait for a stop() of aiokafka, which in an outage raises what its own tasks raise, and leaves `client` open."""
    task = asyncio.ensure_future(stopping)
    await asyncio.wait([task])
    if task.cancelled() or task.exception():
        await asyncio.wait([asyncio.ensure_future(client.close())])


def _words(error: Exception) -> str:
    """What it says, with its name where that says more."""
    name, said = type(error).__name__.removesuffix("Error"), ", ".join(str(part) for part in error.args)
    return f"{name}: {said}" if said else f"{name}: {getattr(error, 'description', '') or 'no answer in time'}"
