"""mqasync: asyncio microservices on existing message brokers. The public names, nothing else."""

from .errors import (
    BrokerError,
    BrokerLost,
    BrokerRefused,
    ConfigurationError,
    InvalidMessage,
    MessageError,
    MessageTooLarge,
    MqasyncError,
    Reject,
    RequestFailed,
    Retry,
    Unroutable,
)
from .handler import producer
from .message import Message, Out
from .program import Consumer, Producer, consumer
from .service.request import Requester

__version__ = "0.1.0"
__all__ = [
    "BrokerError",
    "BrokerLost",
    "BrokerRefused",
    "ConfigurationError",
    "Consumer",
    "InvalidMessage",
    "Message",
    "MessageError",
    "MessageTooLarge",
    "MqasyncError",
    "Out",
    "Producer",
    "Reject",
    "RequestFailed",
    "Requester",
    "Retry",
    "Unroutable",
    "consumer",
    "producer",
]
