"""All exceptions that mqasync raises, by cause; no other module defines one."""

import re

from .masking import hide

AN_OBJECT = re.compile(r"<(?:\w+\.)*(\w+)[^<>]*(?:\b0x[0-9a-f]+|\bfd=\d+)[^<>]*>", re.IGNORECASE)
AN_OS_ERROR = re.compile(r"""(?:\b\w*Error)?\(-?\d+, (["'])(.*?)\1\)""")


class MqasyncError(Exception):
    """The base of all exceptions of mqasync, so that one `except` can catch them. Its text contains no secret."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(hide(text) if isinstance(text, str) else text for text in arguments))


class ConfigurationError(MqasyncError):
    """A user's mistake in code, config.yml, environment or command line; the text names the value.

    `keys` are its path in config.yml, if it is there; loading the file turns them into a line number.
    """

    def __init__(self, problem: str, *keys: str) -> None:
        super().__init__(problem)
        self.keys = keys


class MessageError(MqasyncError):
    """Something is wrong with one message; other messages are not affected."""


class Reject(MessageError):
    """Raise it in a handler to move the message to the dead-letter queue immediately, without a retry."""


class Retry(MessageError):
    """Raise it in a handler to requeue the message with a `delay`, "60s" or a number of seconds; it may come later.

    It does not count as an attempt, however often it is raised; the consumer's `max_age` can limit that.
    """

    def __init__(self, delay: float | str, reason: str = "") -> None:
        super().__init__(reason or f"requeued with a delay of {delay}")
        self.delay = delay


class Expired(MessageError):
    """The message was published longer ago than the consumer's `max_age`; it is not handled."""


class InvalidMessage(MessageError):
    """The body cannot be decoded, or does not match the handler's annotation; never retried."""


class MessageTooLarge(MessageError):
    """The body or the headers are larger than the broker accepts; raised before anything is sent."""


class Unroutable(MessageError):
    """No queue is bound to the exchange, so publishing there would lose the message."""


class RequestFailed(MessageError):
    """The handler of a request (see Requester) raised an exception; the text quotes it."""


class BrokerError(MqasyncError):
    """Something is wrong with the broker or the connection to it.

    A client library's text is shown without the reprs of Python objects in it.
    """

    def __init__(self, problem: str = "") -> None:
        super().__init__(AN_OS_ERROR.sub(r"\2", AN_OBJECT.sub(r"\1", problem)))


class BrokerLost(BrokerError):
    """The connection, channel or file is lost for now; the core reconnects and repeats the call."""


class NoSuchQueue(BrokerLost):
    """A queue does not exist any more, but the connection does; the core declares the queue again."""


class BrokerBusy(BrokerError):
    """The broker accepts no connection or no message for now (a full queue); the core tries again after a pause."""


class BrokerDamaged(BrokerError):
    """The broker's storage is damaged and a person must repair it: the text says how, and the process ends."""


class BrokerRefused(BrokerError):
    """The broker refused permanently: wrong password, missing permission, a queue with other arguments."""
