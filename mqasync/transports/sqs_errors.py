"""What aiobotocore raises and what AWS answers, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as aws

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused

# the queue, the topic
ABSENT = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "NotFound", "NotFoundException")
# not now: too many requests or deliveries, an error inside AWS, a queue deleted less than a minute ago
BUSY = (
    "Throttl",
    "RequestThrottled",
    "RequestLimitExceeded",
    "TooManyRequests",
    "KMSThrottling",
    "KmsThrottled",
    "OverLimit",
    "AWS.SimpleQueueService.OverLimit",
    "QueueDeletedRecently",
    "AWS.SimpleQueueService.QueueDeletedRecently",
    "InternalError",
    "InternalFailure",
    "ServiceUnavailable",
    "RequestTimeout",
)
# nobody has told who we are, or what says so cannot be read
UNKNOWN = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
    aws.ConfigNotFound,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.LoginError,
    aws.MissingDependencyException,
)
MAX_TEXT = 300


@contextmanager
def broker_errors() -> Iterator[None]:
    """Say what aiobotocore raises in the words of mqasync.errors."""
    try:
        yield
    except aws.ClientError as error:
        # without its cause: AWS repeats a wrongly signed request, the session token included
        raise _answer(error) from None
    except UNKNOWN as error:
        raise BrokerRefused(f"the AWS credentials cannot be had from the environment: {error}") from error
    except aws.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise BrokerLost(_first_line(str(error))) from error
        raise BrokerRefused(f"{_first_line(str(error))}; AWS_CA_BUNDLE names a file of trusted ones") from error
    except (aws.ParamValidationError, aws.ValidationError, aws.EndpointProviderError) as error:
        raise BrokerRefused(_first_line(str(error))) from error
    except (aws.BotoCoreError, OSError, RuntimeError) as error:
        raise BrokerLost(_first_line(str(error)) or "no answer in time") from error


def absent(error: BrokerLost) -> bool:
    """True if AWS is there, but the queue or the topic is not."""
    answer = error.__context__
    return isinstance(answer, aws.ClientError) and answer.response.get("Error", {}).get("Code") in ABSENT


@contextmanager
def if_there() -> Iterator[None]:
    """Pass over the answer that the queue or the topic is not there; the rest of the block is left out."""
    try:
        yield
    except BrokerLost as error:
        if not absent(error):
            raise


@contextmanager
def settling_errors() -> Iterator[None]:
    """Around a settlement: BrokerLost, whatever the reason, since the delivery comes back by itself."""
    try:
        yield
    except BrokerError as error:
        raise BrokerLost(str(error)) from error


def check_batch(answer: Mapping[str, Any], sent: int) -> None:
    """Raise unless a batch request that was answered took all of its `sent` entries."""
    failed = answer.get("Failed", [])
    taken = len(answer.get("Successful", []))
    for entry in failed:
        code, text = str(entry.get("Code", "")), _first_line(str(entry.get("Message", "")))
        if entry.get("SenderFault") and not code.startswith(BUSY):
            raise BrokerRefused(f"{code}: {text}")
    if taken != sent:
        reasons = ", ".join(sorted({str(entry.get("Code", "")) for entry in failed})) or "it does not say why"
        raise BrokerBusy(f"AWS took {taken} of {sent} messages: {reasons}")


def _answer(error: aws.ClientError) -> BrokerError:
    """The error for an answer that says no."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    text = f"{code}: {_first_line(str(error.response.get('Error', {}).get('Message', '')))}"
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in ABSENT:
        return BrokerLost(f"{error.operation_name}: {text}")
    if code.startswith(BUSY) or status >= 500 or status == 429:
        return BrokerBusy(f"{error.operation_name}: {text}")
    return BrokerRefused(f"{error.operation_name}: {text}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:MAX_TEXT]
