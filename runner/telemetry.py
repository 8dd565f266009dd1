"""Sets up the SDK as the environment asks, instruments torch, and sees to it that all is delivered."""

from __future__ import annotations

import importlib
import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_cudagraph import CudaGraphInstrumentor
from otel_cudagraph.testing import OtlpReceiver
from runner.delivery import CountingMetricExporter, CountingSpanExporter, Delivery, QuietExporters

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from runner.otlp_settings import OtlpSettings, Target

_DEFAULT_SERVICE_NAME = "otel-cudagraph-runner"
_QUEUE_SIZE = 65_536
"""Spans that may wait for the exporter; the SDK's default of 2,048 is less than one trigger may have."""
_GRACE_S = 6.0
"""After the work, how long deliveries are tried; a timeout set by the user counts instead if longer."""


class RunnerTelemetry:
    """Telemetry of one run; a context manager. Providers are its own, not the global ones."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._quiet = QuietExporters()
        self.receiver: OtlpReceiver | None = None
        """The embedded receiver, where no endpoint is named."""
        self.deliveries: list[Delivery] = []
        self.is_external = CudaGraphInstrumentor().is_instrumented_by_opentelemetry
        """``opentelemetry-instrument`` has set everything up: nothing is ours to do."""

    @property
    def is_off(self) -> bool:
        """There is nothing to deliver from here."""
        return self._settings.is_disabled or self.is_external

    @property
    def reason(self) -> str:
        """What the exporters said last of a failed delivery."""
        return self._quiet.reason

    def __enter__(self) -> Self:
        if self.is_off:
            return self
        if self._settings.uses_receiver:
            self.receiver = self._stack.enter_context(OtlpReceiver())
        resource = _resource()
        self._tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        readers = []
        for target in self._settings.targets:
            if target.signal == "traces":
                self._tracer_provider.add_span_processor(self._span_processor(target))
            else:
                readers.append(self._metric_reader(target))
        self._meter_provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        CudaGraphInstrumentor().instrument(
            tracer_provider=self._tracer_provider, meter_provider=self._meter_provider
        )
        self._stack.callback(CudaGraphInstrumentor().uninstrument)
        return self

    def deliver(self) -> None:
        """Export everything; returns when it is delivered or it is too late."""
        if self.is_off:
            return
        grace_s = max(_GRACE_S, *(2 * target.timeout_s for target in self._settings.targets), 0.0)
        for delivery in self.deliveries:
            delivery.deadline = time.monotonic() + grace_s
        CudaGraphInstrumentor().hand_over()
        shutdowns = [
            threading.Thread(target=provider.shutdown, daemon=True)
            for provider in (self._tracer_provider, self._meter_provider)
        ]
        for thread in shutdowns:
            thread.start()
        for thread in shutdowns:
            thread.join(grace_s)

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()

    def _span_processor(self, target: Target) -> BatchSpanProcessor:
        exporter = CountingSpanExporter(self._exporter(target), self._delivery(target))
        chosen = "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ
        return BatchSpanProcessor(exporter, max_queue_size=None if chosen else _QUEUE_SIZE)

    def _metric_reader(self, target: Target) -> PeriodicExportingMetricReader:
        exporter = CountingMetricExporter(self._exporter(target), self._delivery(target))
        return PeriodicExportingMetricReader(exporter)

    def _delivery(self, target: Target) -> Delivery:
        noun = "spans" if target.signal == "traces" else "metrics"
        delivery = Delivery(noun, target.endpoint or self._receiver_endpoint(target))
        self.deliveries.append(delivery)
        return delivery

    def _exporter(self, target: Target) -> Any:
        options: dict[str, Any] = {"timeout": target.timeout_s}
        if target.endpoint is None:
            options["endpoint"] = self._receiver_endpoint(target)
        return _exporter_class(target)(**options)

    def _receiver_endpoint(self, target: Target) -> str:
        assert self.receiver is not None
        if target.protocol == "grpc":
            return self.receiver.grpc_endpoint
        return f"{self.receiver.http_endpoint}/v1/{target.signal}"


def _exporter_class(target: Target) -> Any:
    """Import only what is used: each exporter brings a client library of its own."""
    transport = "grpc" if target.protocol == "grpc" else "http"
    package = f"opentelemetry.exporter.otlp.proto.{transport}"
    if target.signal == "traces":
        return importlib.import_module(f"{package}.trace_exporter").OTLPSpanExporter
    return importlib.import_module(f"{package}.metric_exporter").OTLPMetricExporter


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: _DEFAULT_SERVICE_NAME}))
    return resource
