"""Traces: publish, attempt and output are spans that know of each other; `mqasync run` sends them."""

import asyncio
import gzip
import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, get_current_span

from mqasync import Consumer, Message, MessageTooLarge, Out, Unroutable, consumer
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.masking import conceal
from mqasync.message import new_id
from mqasync.observe.tracing import TracedBrokers
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner

from .commands import CommandLine
from .conftest import url_of


class Traced:
    """Consumers at work on a broker, and the spans that came of it."""

    def __init__(self, url: str, *consumers: Consumer) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        names = {name for each in consumers for name in (each.exchange, *each.options.to)}
        exchanges = {name: ExchangeSettings(optional=True) for name in names}
        settings = Settings(brokers={"main": url}, exchanges=exchanges)
        self.brokers = TracedBrokers(settings, self.provider)
        service = Service("test", list(consumers), [], None)
        self.runner = Runner([service], settings, brokers=self.brokers, around=[self.brokers.around])

    async def handle(self, *messages: Message) -> None:
        """Publish them and wait until everything that comes of it is handled."""
        async with self.runner:
            await asyncio.gather(*map(self.brokers.publish, messages))
            await self.runner.idle()

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


def ids(context: SpanContext | None) -> tuple[int, int]:
    """What the header carries of a span."""
    assert context
    return context.trace_id, context.span_id


@pytest.fixture
def exchange() -> str:
    return f"E{new_id()[:8]}"


@pytest.mark.parametrize("kind", ["memory", "rabbitmq"])
async def test_a_trace_goes_from_publish_to_handler_to_output_by_way_of_the_broker(
    kind: str, exchange: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def tracer() -> Any:
        return traced.provider.get_tracer("service")

    @consumer(exchange=exchange, id="parse", to=f"{exchange}.parsed")
    async def parse(event: dict[str, Any], message: Message) -> Out:
        with tracer().start_as_current_span("mine"):
            return Out(event, headers=message.headers)  # and with them the trace of what it came from

    @consumer(exchange=f"{exchange}.parsed", id="show")
    async def show(event: dict[str, Any], message: Message) -> None:
        headers.append(message.headers)

    headers: list[dict[str, str]] = []
    traced = Traced(url_of(kind, request, tmp_path), parse, show)
    await traced.handle(Message(body=b"{}", exchange=exchange, id="one", headers={"own": "header"}))
    # Then each span is the child of the one before
    (published,) = traced.spans(f"publish {exchange}")
    (parsed,) = traced.spans(f"process {exchange}")
    (mine,) = traced.spans("mine")
    (output,) = traced.spans(f"publish {exchange}.parsed")
    (shown,) = traced.spans(f"process {exchange}.parsed")
    assert published.parent is None
    for child, parent in ((parsed, published), (mine, parsed), (output, parsed), (shown, output)):
        assert ids(child.parent) == ids(parent.get_span_context())
    # And the message carries the last publish, as W3C trace context says
    trace_id, span_id = ids(output.get_span_context())
    (got,) = headers
    assert re.fullmatch(f"00-{trace_id:032x}-{span_id:016x}-0[13]", got.pop("traceparent"))
    assert got == {"own": "header"}
    # And the attributes are those of the conventions
    assert (published.kind, parsed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    shared = {"messaging.system": kind, "messaging.destination.name": exchange, "messaging.message.id": "one"}
    assert published.attributes == shared | {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    assert parsed.attributes == shared | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "parse",
        "mqasync.attempt": 1,
    }


async def test_every_attempt_is_a_span_and_the_error_is_recorded(exchange: str) -> None:
    @consumer(exchange=exchange, id="q", backoff=0.0)
    async def handle(event: dict[str, Any], message: Message) -> None:
        if message.attempt < 3:
            raise LookupError("not yet, hunter2")

    conceal("hunter2")
    traced = Traced(f"memory:{new_id()}", handle)
    await traced.handle(Message(body=b"{}", exchange=exchange))
    (published,) = traced.spans(f"publish {exchange}")
    attempts = traced.spans(f"process {exchange}")
    assert [(span.attributes or {})["mqasync.attempt"] for span in attempts] == [1, 2, 3]
    for span in attempts:
        assert ids(span.parent) == ids(published.get_span_context())
    first, _, last = attempts
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "LookupError: not yet, ***")
    assert (first.attributes or {})["error.type"] == "LookupError"
    (event,) = first.events
    recorded = event.attributes or {}
    assert (event.name, recorded["exception.message"]) == ("exception", "not yet, ***")
    assert "in handle" in str(recorded["exception.stacktrace"]) and "hunter2" not in str(recorded)
    assert (last.status.status_code, last.events) == (StatusCode.UNSET, ())


async def test_a_batch_is_one_span_with_a_link_to_each_publish(exchange: str) -> None:
    @consumer(exchange=exchange, id="q", batch_size=3, batch_wait=10.0)
    async def handle(events: list[dict[str, Any]]) -> None: ...

    traced = Traced(f"memory:{new_id()}", handle)
    await traced.handle(*(Message(body=b"{}", exchange=exchange) for _ in range(3)))
    (batch,) = traced.spans(f"process {exchange}")
    assert batch.parent is None
    assert {ids(link.context) for link in batch.links} == {
        ids(span.get_span_context()) for span in traced.spans(f"publish {exchange}")
    }
    assert (batch.attributes or {})["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in (batch.attributes or {})


@pytest.mark.parametrize("header", [None, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_message_without_a_trace_begins_one(exchange: str, header: str | None) -> None:
    @consumer(exchange=exchange, id="q")
    async def handle(event: dict[str, Any]) -> None:
        assert get_current_span().get_span_context().is_valid

    traced = Traced(f"memory:{new_id()}", handle)
    async with traced.runner:
        headers = {"traceparent": header} if header else {}
        message = Message(body=b"{}", exchange=exchange, headers=headers)
        await traced.brokers.route(exchange).publish(exchange, message)  # as a stranger does
        await traced.runner.idle()
    (span,) = traced.spans(f"process {exchange}")
    assert (span.parent, span.links, span.status.status_code) == (None, (), StatusCode.UNSET)


async def test_a_publish_that_failed_is_an_error_but_one_that_found_no_queue_is_no_span(exchange: str) -> None:
    traced = Traced(f"memory:{new_id()}")
    for message, error in (
        (Message(body=b"{}", exchange=exchange), Unroutable),
        (Message(body=b"{}", exchange=exchange, headers={"large": "x" * 65 * 1024}), MessageTooLarge),
    ):
        with pytest.raises(error):
            await traced.brokers.publish(message)
    await traced.brokers.close()
    (span,) = traced.spans(f"publish {exchange}")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "MessageTooLarge"


PROGRAM = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from mqasync import Producer, Requester, Unroutable, consumer

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

@consumer(exchange="notes", id="q")
async def echo(note: dict):
    return note

async def main():
    consuming = asyncio.create_task(echo.consume())
    async with Producer(exchange="notes", id="p") as p, Requester() as request:
        with trace.get_tracer("program").start_as_current_span("program"):
            while True:
                try:
                    await p.produce({})
                    break
                except Unroutable:
                    await asyncio.sleep(0.05)
            await request("notes", {})
            await request("notes", {}, to="q")
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    names = {span.context.span_id: span.name for span in exporter.get_finished_spans()}
    for span in exporter.get_finished_spans():
        print(f"{names.get(span.parent.span_id) if span.parent else None} > {span.name}")

asyncio.run(main())
"""


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.environment["MQASYNC_LOG"] = "json"
    cli.file("service.py", SERVICE)
    return cli


def test_a_program_that_has_set_up_opentelemetry_is_traced_by_itself(cli: CommandLine) -> None:
    cli.file("program.py", PROGRAM)
    done = cli.run("program.py", program=[sys.executable])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(lines) == sorted(
        ["program > publish notes", "publish notes > process notes"] * 3 + ["None > program"]
    )


SERVICE = """
import logging
import sys
from mqasync import consumer, producer

@producer(exchange="lines", id="file")
async def read():
    yield {"n": 1}

@consumer(exchange="lines", id="find")
async def find(line: dict):
    logging.getLogger("service").info("handled")
    print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """What stands in for an OpenTelemetry collector: its endpoint, and what it has got."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", [None, "hunting"])
def test_run_sends_its_traces_to_where_the_standard_variables_say(cli: CommandLine, name: str | None) -> None:
    if name:
        cli.environment["OTEL_SERVICE_NAME"] = name
    with collector() as (endpoint, got):
        cli.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        done = cli.run("run", "service", "--until-idle")
        assert done.returncode == 0, done.stderr
    resources = [resource for request in got for resource in request.resource_spans]
    for each in resources:
        service = {attribute.key: attribute.value.string_value for attribute in each.resource.attributes}
        assert service["service.name"] == (name or "service")
    spans = {span.name: span for each in resources for scope in each.scope_spans for span in scope.spans}
    assert spans.keys() == {"publish lines", "process lines"}
    assert spans["process lines"].parent_span_id == spans["publish lines"].span_id
    # And the log says to which trace its lines belong
    (line,) = [line for line in map(json.loads, done.stderr.splitlines()) if line["message"] == "handled"]
    assert line["trace_id"] == spans["process lines"].trace_id.hex()


def test_nothing_of_opentelemetry_is_loaded_where_nobody_asks_for_it(cli: CommandLine) -> None:
    done = cli.run("run", "service", "--until-idle")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert "trace_id" not in done.stderr


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from mqasync.cli import main; main()"


@pytest.mark.parametrize(
    ("variable", "value", "program", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "otlp", ["-c", WITHOUT], "that needs opentelemetry: pip install 'mqasync[telemetry]'"),
        ("OTEL_TRACES_EXPORTER", "otpl", ["-m", "mqasync"], "OTEL_TRACES_EXPORTER is 'otpl'; valid values: otlp, con"),
    ],
    ids=["not installed", "unknown exporter"],
)
def test_what_stands_in_the_way_of_traces_is_a_warning_and_stops_nothing(
    cli: CommandLine, variable: str, value: str, program: list[str], told: str
) -> None:
    cli.environment[variable] = value
    done = cli.run("run", "service", "--until-idle", program=[sys.executable, *program])
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "handled" in [line["message"] for line in lines]
    (warning,) = [line["message"] for line in lines if line["level"] == "WARNING"]
    assert warning.startswith(f"no traces are sent: {told}")
