"""The spans of messages, by OpenTelemetry and its conventions for messaging; imported only where traces are wanted."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_trace_id

from ..brokers.broker import Brokers
from ..config.settings import Settings
from ..errors import Unroutable
from ..handler import Binding
from ..handlers import failure
from ..handlers.current_message import HANDLING
from ..handlers.step import Run
from ..message import Message
from ..transports import SCHEMES

SYSTEMS = {"sqs": "aws_sqs", "postgres": "postgresql"}  # where the conventions' name is not our module's


class TracedBrokers(Brokers):
    """Brokers whose messages carry a trace in their headers (W3C trace context), each publish being a span.

    `around` is for channels: it makes each attempt at a message a span, a child of the publish. The span of a
    batch has no parent and a link to each publish. `provider` makes the spans, by default the program's.
    """

    def __init__(self, settings: Settings, provider: trace.TracerProvider | None = None) -> None:
        super().__init__(settings)
        self._tracer = trace.get_tracer("mqasync", tracer_provider=provider)

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Brokers.publish, in a span."""
        span, message = self._outgoing(message)
        publishing = super().publish(message)
        publishing.add_done_callback(partial(_end, span))
        return publishing

    async def send(self, message: Message, id: str) -> bool:
        """Brokers.send, in a span."""
        span, message = self._outgoing(message)
        sending = asyncio.ensure_future(super().send(message, id))
        sending.add_done_callback(partial(_end, span))
        return await sending

    def _outgoing(self, message: Message) -> tuple[Span, Message]:
        """The span of a publish, and the message that carries it."""
        attributes = self._about(message.exchange, "publish", "send") | {"messaging.message.id": message.id}
        span = self._tracer.start_span(f"publish {message.exchange}", kind=SpanKind.PRODUCER, attributes=attributes)
        headers = dict(message.headers)
        inject(headers, trace.set_span_in_context(span))
        return span, msgspec.structs.replace(message, headers=headers)

    def _about(self, exchange: str, name: str, type: str) -> dict[str, Any]:
        """The attributes that all spans of an exchange have."""
        scheme = self.settings.brokers[self.settings.broker_of(exchange)].partition(":")[0]
        module = SCHEMES[scheme][0] if scheme in SCHEMES else scheme
        return {
            "messaging.system": SYSTEMS.get(module, module),
            "messaging.destination.name": exchange,
            "messaging.operation.name": name,
            "messaging.operation.type": type,
        }

    def around(self, consumer: Binding, run: Run) -> Run:
        """Step.run, in a span that is the parent of what the handler publishes."""
        about = self._about(consumer.exchange, "process", "process")
        about["messaging.consumer.group.name"] = consumer.id

        async def in_a_span(messages: Sequence[Message]) -> Any:
            contexts = [extract(message.headers, Context()) for message in messages]
            token = attach(contexts[0] if len(messages) == 1 else Context())
            try:
                with self._tracer.start_as_current_span(
                    f"process {consumer.exchange}",
                    kind=SpanKind.CONSUMER,
                    attributes=about | _about_these(messages),
                    links=[Link(where) for where in map(_span_context, contexts) if where.is_valid],
                    record_exception=False,
                    set_status_on_exception=False,
                ) as span:
                    if handling := HANDLING.get():
                        handling.trace_id = format_trace_id(span.get_span_context().trace_id)
                    try:
                        return await run(messages)
                    except Exception as error:
                        _fail(span, error)
                        raise
            finally:
                detach(token)

        return in_a_span


def _about_these(messages: Sequence[Message]) -> dict[str, Any]:
    if len(messages) > 1:
        return {"messaging.batch.message_count": len(messages)}
    return {"messaging.message.id": messages[0].id, "mqasync.attempt": messages[0].attempt}


def _span_context(context: Context) -> trace.SpanContext:
    return trace.get_current_span(context).get_span_context()


def _end(span: Span, publishing: asyncio.Future[Any]) -> None:
    """End the span of a publish."""
    error = asyncio.CancelledError() if publishing.cancelled() else publishing.exception()
    if isinstance(error, Unroutable):  # nothing was published; who waits for a queue tries four times a second
        return
    if error:
        _fail(span, error)
    span.end()


def _fail(span: Span, error: BaseException) -> None:
    """Record `error` as OpenTelemetry does, but without secrets."""
    name, said = type(error).__qualname__, failure.text(error)
    about = {"exception.type": name, "exception.message": said, "exception.stacktrace": failure.trace(error)}
    span.set_attribute("error.type", name)
    span.add_event("exception", about)
    span.set_status(Status(StatusCode.ERROR, f"{name}: {said}"))
