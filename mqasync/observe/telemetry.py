"""Traces by OpenTelemetry: whether there are any, and its SDK set up for `mqasync run`; the spans are in tracing.py."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..brokers.broker import Brokers
from ..config.settings import Settings
from ..handlers.step import Around

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("mqasync")

EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTERS = ("otlp", "console", "none")


def traced(settings: Settings) -> tuple[Brokers, Sequence[Around]]:
    """Brokers, and what goes around handlers: both make spans where the program has loaded OpenTelemetry's SDK."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return Brokers(settings), ()
    from .tracing import TracedBrokers

    brokers = TracedBrokers(settings)
    return brokers, [brokers.around]


@contextmanager
def sending_traces(service: str) -> Iterator[None]:
    """In the block spans go where OpenTelemetry's standard variables say, the last of them at its end.

    `service` is its name where OTEL_SERVICE_NAME gives none. Nothing happens if no variable asks for it or the
    program has set up the SDK itself; a problem with traces is logged as a warning, and stops nothing.
    """
    provider = _provider(service)
    try:
        yield
    finally:
        if provider:
            provider.shutdown()


def _provider(service: str) -> TracerProvider | None:
    """OpenTelemetry's SDK, set up as its variables say."""
    exporter = os.environ.get(EXPORTER) or ("otlp" if any(map(os.environ.get, ENDPOINTS)) else "none")
    if exporter not in EXPORTERS:
        log.warning("no traces are sent: %s is %r; valid values: %s", EXPORTER, exporter, ", ".join(EXPORTERS))
    if exporter not in ("otlp", "console"):
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ModuleNotFoundError as error:
        log.warning("no traces are sent: that needs %s: pip install 'mqasync[telemetry]'", error.name)
        return None
    if isinstance(trace.get_tracer_provider(), TracerProvider):  # `opentelemetry-instrument mqasync run`
        return None
    named = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
