"""What aio-pika and aiormq raise, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiormq import exceptions as amqp

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, Unroutable

REPLY_SECONDS = 10.0  # a broker that is starting may never answer a request
REFUSALS = (
    amqp.AuthenticationError,
    amqp.ProbableAuthenticationError,
    amqp.ConnectionNotAllowed,
    amqp.ChannelAccessRefused,
    amqp.ChannelPreconditionFailed,
)


@asynccontextmanager
async def replies() -> AsyncIterator[None]:
    """broker_errors, and BrokerLost when the block takes longer than REPLY_SECONDS."""
    with broker_errors():
        async with asyncio.timeout(REPLY_SECONDS):
            yield


@contextmanager
def broker_errors() -> Iterator[None]:
    """Say what aio-pika and aiormq raise in the words of mqasync.errors."""
    try:
        yield
    except amqp.PublishError as error:
        raise Unroutable(f"no queue is bound to exchange {getattr(error.frame, 'exchange', '')!r}") from error
    except amqp.DeliveryError as error:
        raise BrokerBusy("the broker did not take the message: a queue is full or not ready") from error
    except REFUSALS as error:
        raise BrokerRefused(str(error)) from error
    except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerLost(str(error) or f"no answer within {REPLY_SECONDS:g} s") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise  # somebody asked for it
        raise BrokerLost("the connection ended") from error  # aiormq cancels who waits for a dead connection
