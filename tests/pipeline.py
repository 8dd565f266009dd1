"""The real way from a capture to what a test looks at: instrumentation, SDK, OTLP, receiver."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_cudagraph import Config, CudaGraphInstrumentor
from otel_cudagraph.testing import Metric, OtlpReceiver, Received, Span

if TYPE_CHECKING:
    from typing_extensions import Self

TRIGGER = "cuda.graph.capture_trigger"
CAPTURE = "cuda.graph.capture"


class Pipeline:
    """Instrumented while used as a context manager."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config
        self._receiver = OtlpReceiver()
        self.instrumentor = CudaGraphInstrumentor()

    def __enter__(self) -> Self:
        self._receiver.__enter__()
        endpoint = self._receiver.grpc_endpoint
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint), 3_600_000)
        self.meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        self.instrumentor.instrument(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, config=self._config
        )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.force_flush()
            self.instrumentor.uninstrument()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self._receiver.__exit__(exc_type, error, tb)

    @property
    def received(self) -> Received:
        """What has arrived."""
        return self._receiver.received

    def captures(self) -> list[Span]:
        """Deliver, and return the capture spans."""
        self.instrumentor.force_flush()
        return self.received.spans(CAPTURE)

    def wait_for_captures(self, number: int) -> None:
        """Wait until capture spans have been made by themselves and arrived; nothing is hurried here."""
        arrived = False
        deadline = time.monotonic() + 4
        while not arrived and time.monotonic() < deadline:
            self.tracer_provider.force_flush()
            arrived = self._receiver.wait_for(lambda r: len(r.spans(CAPTURE)) >= number, timeout_s=0.1)
        assert arrived

    def triggers(self) -> list[Span]:
        """Deliver, and return the trigger spans."""
        self.instrumentor.force_flush()
        return self.received.spans(TRIGGER)

    def metrics(self) -> dict[str, Metric]:
        """Deliver, and return the newest metrics."""
        self.instrumentor.force_flush()
        return self.received.metrics()

    def total(self, name: str, **attributes: object) -> float:
        """Deliver, and return the total of a metric, 0 where it has no points yet."""
        metric = self.metrics().get(name)
        return 0 if metric is None else metric.total(**attributes)
