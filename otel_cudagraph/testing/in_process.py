"""The captures that this process makes, recorded with providers of the test's own."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from otel_cudagraph import Config, CudaGraphInstrumentor
from otel_cudagraph.testing.block import Block, Start
from otel_cudagraph.testing.captures import Captures
from otel_cudagraph.testing.received import Received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from opentelemetry.sdk.trace import ReadableSpan
    from typing_extensions import Self


__tracebackhide__ = True  # pytest shows the test, not the lines in here that raise for it

_NO_TORCH = "torch is not imported in this process, so nothing here captured with torch.cuda.CUDAGraph"


class InProcessCaptures(Captures):
    """The captures that this process makes while this is used as a context manager.

    It instruments with providers of its own, so every count starts at zero. An
    instrumentation that is on already is taken out meanwhile and put back afterwards,
    with the arguments that it had. The environment has no influence.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = Received()
        self._instrumentor = CudaGraphInstrumentor()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Instrument.

        Raises:
            RuntimeError: That failed; the log says why.
        """
        before = self._instrumentor.arguments
        self._remove()
        self._set_up_providers()
        self._stack.callback(self._restore, before)
        self._stack.callback(self._remove)
        self._instrumentor.instrument(
            tracer_provider=self._tracer_provider, meter_provider=self._meter_provider, config=Config()
        )
        if not self._is_on:
            self._stack.close()
            raise RuntimeError("CUDA graphs could not be instrumented; the log of otel_cudagraph says why")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is None:
            self.check_that_all_began()

    def begin(self, timeout_s: float) -> Start:  # noqa: ARG002  nothing is waited for here
        """Return what there is when a block begins.

        Raises:
            RuntimeError: A trigger or a capture is under way: the block would hold half of it.
        """
        self._check_that_it_is_on()
        self._check_that_nothing_is_captured("beginning")
        self.catch_up()
        start = Start.of(self.received)
        if Block(self.received, start).open_triggers:
            raise RuntimeError("a capture trigger is under way; put the whole of it into the `expect` block")
        return start

    def conclude(self, start: Start, look: Callable[[Block], bool], timeout_s: float) -> bool:  # noqa: ARG002
        """Look once: everything is here at once.

        Raises:
            RuntimeError: A capture is under way: nobody knows yet how it ends.
        """
        self._check_that_it_is_on()
        self._check_that_nothing_is_captured("end")
        self.catch_up()
        look(Block(self.received, start))
        return True

    def catch_up(self) -> None:
        """Make spans of what has been recorded, and read the counters."""
        self._instrumentor.hand_over()
        data = self._reader.get_metrics_data()
        if data is not None:
            encoded = encode_metrics(data).SerializeToString()
            self.received.metrics_data.append(MetricsData.FromString(encoded))

    def hints(self) -> list[str]:
        """Return what to check where nothing was captured."""
        return [
            "does the engine capture in another process? Then use the fixture cudagraphs_otlp (OtlpCaptures)",
            "was the capture reached? Eager mode, CUDA graph mode NONE and a warm engine capture nothing",
            *([] if "torch" in sys.modules else [_NO_TORCH]),
        ]

    @property
    def _is_on(self) -> bool:
        arguments = self._instrumentor.arguments
        return arguments is not None and arguments.get("tracer_provider") is self._tracer_provider

    def _check_that_nothing_is_captured(self, moment: str) -> None:
        if self._instrumentor.is_capturing:
            raise RuntimeError(
                f"a graph is being captured at the {moment} of the `expect` block; put all of it in"
            )

    def _check_that_it_is_on(self) -> None:
        if not self._is_on:
            raise RuntimeError(
                "the instrumentation of this test was taken out meanwhile: something called "
                "CudaGraphInstrumentor().uninstrument(), or the test is over"
            )

    def _set_up_providers(self) -> None:
        self._reader = InMemoryMetricReader()
        with _unset("OTEL_SDK_DISABLED"):  # many test environments switch exports off by it
            self._tracer_provider = TracerProvider(
                sampler=ALWAYS_ON, resource=Resource.get_empty(), shutdown_on_exit=False
            )
            self._meter_provider = MeterProvider(
                [self._reader], resource=Resource.get_empty(), shutdown_on_exit=False
            )
        self._tracer_provider.add_span_processor(SimpleSpanProcessor(_Keeping(self.received)))
        self._stack.callback(self._tracer_provider.shutdown)
        self._stack.callback(self._meter_provider.shutdown)

    def _remove(self) -> None:
        """Take out whoever is in: the test may have instrumented anew."""
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()

    def _restore(self, arguments: dict[str, object] | None) -> None:
        if arguments is not None:
            self._instrumentor.instrument(**arguments, skip_dep_check=True)


class _Keeping(SpanExporter):
    """Keeps spans as if they had arrived over OTLP."""

    def __init__(self, received: Received) -> None:
        self._received = received

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep `spans`."""
        self._received.traces.append(TracesData.FromString(encode_spans(spans).SerializeToString()))
        return SpanExportResult.SUCCESS


@contextmanager
def _unset(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
