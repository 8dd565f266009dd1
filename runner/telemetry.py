"""Sets up the SDK as the environment asks, instruments torch, and sees to it that all is delivered."""

from __future__ import annotations

import importlib
import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_cudagraph import CudaGraphInstrumentor
from otel_cudagraph.testing import OtlpReceiver
from runner.delivery import CountingMetricExporter, CountingSpanExporter, Delivery, QuietExporters
from runner.otlp_settings import SettingsError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from runner.otlp_settings import OtlpSettings, Target

_DEFAULT_SERVICE_NAME = "otel-cudagraph-runner"
_SAMPLING = frozenset({"OTEL_TRACES_SAMPLER", "TRACEPARENT", "traceparent"})
"""Variables by which spans may be left out on purpose."""
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
"""With delta the last export does not hold the whole sum."""
_QUEUE_SIZE = 65_536
"""Spans that may wait for the exporter; the SDK's default of 2,048 is less than one trigger may have."""
_UNSUPPORTED_MEDIA_TYPE = 415
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
        return self._settings.is_off or self.is_external

    @property
    def off_because(self) -> str:
        """Why there is nothing to deliver from here."""
        if not self.is_external:
            return "OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER switch it off"
        if hasattr(trace.get_tracer_provider(), "force_flush"):
            return "opentelemetry-instrument exports it"
        return "opentelemetry-instrument has set up no SDK; install opentelemetry-distro"

    @property
    def expected_signals(self) -> frozenset[str]:
        """The signals that must arrive whole: those exported, spans only where none is sampled out."""
        signals = {target.signal for target in self._settings.targets}
        if os.environ.keys() & _SAMPLING:
            signals.discard("traces")
        if _TEMPORALITY in os.environ:
            signals.discard("metrics")
        return frozenset(signals)

    @property
    def reason(self) -> str:
        """What the exporters said last of a failed delivery."""
        return self._quiet.reason

    def __enter__(self) -> Self:
        """Set everything up.

        Raises:
            SettingsError: the SDK refuses a variable.
        """
        if self.is_off:
            return self
        if self._settings.uses_receiver:
            self.receiver = self._stack.enter_context(OtlpReceiver())
        try:
            self._set_up()
        except Exception as error:  # of many kinds: whatever the SDK makes of its variables
            self._stack.close()
            raise SettingsError(
                f"the SDK refuses an OTEL_* variable: {type(error).__name__}: {error}"
            ) from error
        return self

    def _set_up(self) -> None:
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

    def deliver(self) -> None:
        """Export everything; returns when it is delivered or it is too late."""
        if self.is_off:
            return
        grace_s = max(_GRACE_S, *(2 * target.timeout_s for target in self._settings.targets))
        deadline = time.monotonic() + grace_s
        for delivery in self.deliveries:
            delivery.deadline = deadline
        CudaGraphInstrumentor().hand_over()
        shutdowns = [
            threading.Thread(target=provider.shutdown, daemon=True)
            for provider in (self._tracer_provider, self._meter_provider)
        ]
        for thread in shutdowns:
            thread.start()
        for thread in shutdowns:
            thread.join(max(0.0, deadline - time.monotonic()))
        unfinished = {
            what for what, thread in zip(("spans", "metrics"), shutdowns, strict=True) if thread.is_alive()
        }
        for delivery in self.deliveries:
            delivery.is_unfinished = delivery.what in unfinished

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
        shown = _without_password(target.endpoint) if target.endpoint else "the runner's own receiver"
        delivery = Delivery(noun, shown)
        self.deliveries.append(delivery)
        return delivery

    def _exporter(self, target: Target) -> Any:
        options: dict[str, Any] = {"timeout": target.timeout_s}
        if target.endpoint is None:
            options["endpoint"] = self._receiver_endpoint(target)
        if target.protocol == "grpc":
            # A proxy is for the world outside, not for a receiver of our own.
            options["channel_options"] = (("grpc.enable_http_proxy", int(target.endpoint is not None)),)
        else:
            options["session"] = _http_session(use_proxy=target.endpoint is not None)
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


def _http_session(*, use_proxy: bool) -> requests.Session:
    """Return a session that takes an answer for OTLP only if it is one (OTLP/HTTP response)."""
    session = requests.Session()
    session.trust_env = use_proxy
    session.hooks["response"].append(_refuse_web_pages)
    return session


def _refuse_web_pages(response: requests.Response, **_: Any) -> None:
    content = response.headers.get("Content-Type", "application/x-protobuf").partition(";")[0]
    if response.ok and content not in ("application/x-protobuf", "application/json"):
        response.status_code = _UNSUPPORTED_MEDIA_TYPE
        response.reason = f"no OTLP receiver: it answered with {content}"


def _without_password(endpoint: str) -> str:
    url = urlsplit(endpoint)
    return endpoint.replace(f"{url.username}:{url.password}@", "") if url.password else endpoint


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: _DEFAULT_SERVICE_NAME}))
    return resource
