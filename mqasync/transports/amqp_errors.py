"""What aio-pika and aiormq raise, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiormq import exceptions as amqp

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, Unroutable

REPLY_SECONDS = 10.0  # a broker that is starting may never answer a request
NO_REASON = (Exception, StopAsyncIteration)  # what aiormq raises for a closed channel where it knows no reason
REFUSALS = (
    amqp.AuthenticationError,
    amqp.ProbableAuthenticationError,
    amqp.ConnectionNotAllowed,
    amqp.ChannelAccessRefused,
    amqp.ChannelPreconditionFailed,
)


@asynccontextmanager
async def replies() -> AsyncIterator[None]:
    """broker_errors, and BrokerBusy when the block takes longer than REPLY_SECONDS.

    Not BrokerLost: one queue that does not answer (a quorum queue without a leader,
    github.com/rabbitmq/rabbitmq-server/issues/10070) must not take the connection from the others,
    and a connection that is dead is noticed by its heartbeat.
    """
    with broker_errors():
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                yield
        except TimeoutError as error:
            raise BrokerBusy(f"no answer within {REPLY_SECONDS:g} s") from error


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
    except amqp.InvalidFrameError as error:
        if "Connection.Close" not in str(error):
            raise BrokerLost(str(error)) from error
        raise BrokerRefused("there is no such virtual host, or no permission for it") from error
    except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerLost(str(error) or "no answer in time") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise  # somebody asked for it
        raise BrokerLost("the connection ended") from error  # aiormq cancels who waits for a dead connection
    except Exception as error:
        if type(error) not in NO_REASON:
            raise
        raise BrokerLost("the channel was closed") from error


@contextmanager
def settling_errors() -> Iterator[None]:
    """broker_errors, but a channel that the broker closes under a settlement is lost, whatever it says."""
    try:
        with broker_errors():
            yield
    except BrokerRefused as error:
        raise BrokerLost(str(error)) from error
