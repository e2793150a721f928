"""Every exception mqasync raises, by whose fault it is; no other module defines one."""

import re

from .masking import hide

AN_OBJECT = re.compile(r"<(?:\w+\.)*(\w+)[^<>]*(?:\b0x[0-9a-f]+|\bfd=\d+)[^<>]*>", re.IGNORECASE)
AN_OS_ERROR = re.compile(r"""(?:\b\w*Error)?\(-?\d+, (["'])(.*?)\1\)""")


class MqasyncError(Exception):
    """Base of every exception here, so that one `except` can catch them all. Its text shows no secret."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(hide(text) if isinstance(text, str) else text for text in arguments))


class ConfigurationError(MqasyncError):
    """The user's mistake in code, config.yml, environment or command line; the text names the value.

    `keys` is where in config.yml, if it is there; loading the file turns them into a line number.
    """

    def __init__(self, problem: str, *keys: str) -> None:
        super().__init__(problem)
        self.keys = keys


class MessageError(MqasyncError):
    """The fault lies in one message; the others are not affected."""


class Reject(MessageError):
    """Raise it in a handler: the message goes to the dead letters at once, without a retry."""


class Retry(MessageError):
    """Raise it in a handler: the message comes back after `delay`, "60s" or a number of seconds or a little later.

    It is no failed attempt and spends none, however often; the consumer's `max_age` can bound that.
    """

    def __init__(self, delay: float | str, reason: str = "") -> None:
        super().__init__(reason or f"once more in {delay}")
        self.delay = delay


class Expired(MessageError):
    """The message was published longer ago than the consumer's `max_age`; it is not handled."""


class InvalidMessage(MessageError):
    """A body does not decode, or is not what the handler's annotation says; never retried."""


class MessageTooLarge(MessageError):
    """A body or its headers are larger than the broker takes; raised before anything is sent."""


class Unroutable(MessageError):
    """No queue is bound to the exchange, so publishing there would lose the message."""


class RequestFailed(MessageError):
    """The handler that was asked by a Requester raised; the text quotes what."""


class BrokerError(MqasyncError):
    """The fault lies with the broker or the way to it. Where a client library names a Python object it says words."""

    def __init__(self, problem: str = "") -> None:
        super().__init__(AN_OS_ERROR.sub(r"\2", AN_OBJECT.sub(r"\1", problem)))


class BrokerLost(BrokerError):
    """The connection, channel or file is gone for now; the core connects again and repeats."""


class NoSuchQueue(BrokerLost):
    """One queue is gone, the connection is not; the core declares the queue again."""


class BrokerBusy(BrokerError):
    """The broker does not let us in or take a message for now (a full queue); the core repeats it after a pause."""


class BrokerDamaged(BrokerError):
    """What the broker stores is damaged: nothing helps but a person, and the text says what to do; the process ends."""


class BrokerRefused(BrokerError):
    """The broker said no for good: wrong password, missing permission, a queue with other arguments."""
