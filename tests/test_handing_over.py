"""When facts become spans: not while anybody captures, and never lost in an orderly end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_cudagraph import Config, CudaGraphInstrumentor, capture_trigger
from otel_cudagraph.testing import OtlpReceiver, Received
from tests.backends import eventually
from tests.conftest import StandIn
from tests.pipeline import CAPTURE, TRIGGER, Pipeline

ROOT = Path(__file__).parents[1]

INSTRUMENT = """
import sys
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_cudagraph import CudaGraphInstrumentor, capture_trigger, register_graph_family
from tests import plain_graphs

register_graph_family(plain_graphs.FAMILY)
CudaGraphInstrumentor().instrument()

def capture():
    graph = plain_graphs.PlainGraph()
    with plain_graphs.capture(graph):
        pass
    return graph

"""
SET_UP = """
tracer_provider = TracerProvider()
tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(tracer_provider)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))

"""


def run_to_its_end(ending: str) -> tuple[subprocess.CompletedProcess[str], OtlpReceiver]:
    """Run a program that instruments before it sets up its providers; return what arrived."""
    with OtlpReceiver() as receiver:
        return run_program(INSTRUMENT + SET_UP + textwrap.dedent(ending), receiver), receiver


def run_program(program: str, receiver: OtlpReceiver) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('unhandled')", 1),
        ("raise KeyboardInterrupt", -2),
    ],
    ids=["end", "exit", "unhandled exception", "Ctrl-C"],
)
def test_an_orderly_end_loses_nothing(ending: str, code: int) -> None:
    """Captures outside a trigger and a trigger right before the end, the default of 5 s not reached."""
    run, receiver = run_to_its_end(
        f"""
        kept = [capture(), capture()]
        with capture_trigger(engine="mine"):
            kept.append(capture())
        {ending}
        """
    )

    assert run.returncode == code, run.stderr
    received = receiver.received
    assert len(received.spans(CAPTURE)) == 3
    assert len(received.spans(TRIGGER)) == 1
    assert received.metrics()["cuda.graph.captures"].total() == 3
    assert received.metrics()["cuda.graph.capture.duration"].total() == 3


def test_a_trigger_that_fails_the_program_loses_nothing() -> None:
    run, receiver = run_to_its_end(
        """
        with capture_trigger(engine="mine"):
            capture()
            raise MemoryError("no more")
        """
    )

    assert run.returncode == 1, run.stderr
    assert "MemoryError: no more" in run.stderr
    (trigger,) = receiver.received.spans(TRIGGER)
    assert trigger.attributes["error.type"] == "MemoryError"
    assert len(receiver.received.spans(CAPTURE)) == 1


def test_a_trigger_that_never_ends_is_told_at_the_end() -> None:
    """On a thread that the exit does not wait for."""
    run, receiver = run_to_its_end(
        """
        import threading
        inside = threading.Event()

        def hang():
            with capture_trigger(engine="mine"):
                capture()
                inside.set()
                threading.Event().wait()

        threading.Thread(target=hang, daemon=True).start()
        inside.wait()
        """
    )

    assert run.returncode == 0, run.stderr
    (trigger,) = receiver.received.spans(TRIGGER)
    assert trigger.attributes["error.type"] == "CaptureAbandoned"
    assert trigger.attributes["cuda.graph.captured"] == 1
    assert len(receiver.received.spans(CAPTURE)) == 1


def test_a_graph_that_died_capturing_is_told_at_the_end() -> None:
    run, receiver = run_to_its_end("plain_graphs.PlainGraph().capture_begin()")

    assert run.returncode == 0, run.stderr
    (span,) = receiver.received.spans(CAPTURE)
    assert span.attributes["error.type"] == "CaptureAbandoned"


def test_a_provider_set_up_after_the_first_capture_gets_the_last() -> None:
    """Exit hooks run last in, first out: ours must come before that of a provider that came later."""
    program = INSTRUMENT + "early = capture()\n" + SET_UP + "kept = capture()"
    with OtlpReceiver() as receiver:
        run = run_program(program, receiver)

    assert run.returncode == 0, run.stderr
    assert len(receiver.received.spans(CAPTURE)) == 2  # the early one had not been handed over yet


def test_a_forked_child_starts_from_zero() -> None:
    run, receiver = run_to_its_end(
        """
        import os
        kept = capture()
        with capture_trigger(engine="parent"):
            capture()
            pid = os.fork()
            if pid == 0:
                trace.get_tracer_provider().resource  # inherited, as vLLM's engine core does
                with capture_trigger(engine="child"):
                    capture()
                CudaGraphInstrumentor().force_flush()
                os._exit(0)
            os.waitpid(pid, 0)
        """
    )

    assert run.returncode == 0, run.stderr
    engines = sorted(span.attributes["cuda.graph.engine"] for span in receiver.received.spans(TRIGGER))
    assert engines == ["child", "parent"]
    assert len(receiver.received.spans(CAPTURE)) == 3
    childs = [
        span for span in receiver.received.spans(CAPTURE) if span.attributes["cuda.graph.engine"] == "child"
    ]
    assert len(childs) == 1


class Watching(SpanProcessor):
    """Notes what is under way whenever a capture's span is made."""

    def __init__(self) -> None:
        self.capturing = False
        self.seen: list[tuple[str, bool, str]] = []
        self.made = threading.Event()

    def on_start(self, span, parent_context=None) -> None:
        self.seen.append((span.name, self.capturing, threading.current_thread().name))
        if span.name == CAPTURE:
            self.made.set()


@pytest.fixture
def watching(stand_in: StandIn):
    provider = TracerProvider(shutdown_on_exit=False)
    processor = Watching()
    provider.add_span_processor(processor)
    CudaGraphInstrumentor().instrument(tracer_provider=provider)
    yield processor
    CudaGraphInstrumentor().uninstrument()


def test_no_span_is_made_while_a_trigger_is_open(watching: Watching, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        watching.capturing = True
        kept = [stand_in.capture() for _ in range(20)]
        assert not watching.made.wait(0.3)
        watching.capturing = False

    assert watching.made.wait(10)
    CudaGraphInstrumentor().force_flush()
    names = [name for name, _, _ in watching.seen]
    assert names == [TRIGGER] + [CAPTURE] * 20
    assert not any(capturing for _, capturing, _ in watching.seen)
    del kept


def test_spans_outside_a_trigger_are_made_on_another_thread(watching: Watching, stand_in: StandIn) -> None:
    stand_in.capture()

    assert watching.made.wait(10)
    ((name, _, thread),) = watching.seen
    assert (name, thread) == (CAPTURE, "otel-cudagraph-outbox")


def test_a_capture_under_way_holds_back_the_spans_of_others(watching: Watching, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    open_now = stand_in.graph()
    graph.capture_begin()
    graph.capture_end()
    open_now.capture_begin()
    assert not watching.made.wait(0.3)
    open_now.capture_end()

    assert watching.made.wait(10)


class QueueOf2048(SpanProcessor):
    """Drops as the SDK's own queue does when nobody empties it."""

    def __init__(self) -> None:
        self.held = self.taken = self.dropped = 0

    def on_end(self, span) -> None:
        if self.held == 2048:
            self.dropped += 1
        else:
            self.held += 1
            self.taken += 1

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.held = 0
        return True


def test_more_spans_than_the_sdk_s_queue_holds(stand_in: StandIn) -> None:
    """5,000 graphs in one trigger, somebody else's provider: it is asked to deliver in between."""
    provider, queue = TracerProvider(shutdown_on_exit=False), QueueOf2048()
    provider.add_span_processor(queue)
    CudaGraphInstrumentor().instrument(tracer_provider=provider)
    with capture_trigger(engine="mine"):
        for _ in range(5000):
            graph = stand_in.graph()
            graph.capture_begin()
            graph.capture_end()

    eventually(lambda: queue.taken + queue.dropped == 5001)
    CudaGraphInstrumentor().uninstrument()
    assert queue.dropped == 0


def test_what_waits_outside_a_trigger_is_bounded(stand_in: StandIn) -> None:
    with Pipeline(Config(max_pending=10)) as pipeline:
        holding = stand_in.graph()
        kept = [stand_in.graph() for _ in range(30)]
        threading.Thread(target=holding.capture_begin).start()  # holds back the spans of the others
        for graph in kept:
            graph.capture_begin()
            graph.capture_end()

        assert len(pipeline.captures()) == 10
        assert pipeline.total("cuda.graph.captures") == 30


def test_what_waits_is_bounded(stand_in: StandIn, caplog) -> None:
    with Pipeline(Config(max_pending=10)) as pipeline:
        with capture_trigger(engine="mine"):
            kept = [stand_in.capture() for _ in range(30)]

        (trigger,) = pipeline.triggers()
        assert trigger.attributes["cuda.graph.captured"] == 30
        assert len(pipeline.captures()) == 9
        assert pipeline.total("cuda.graph.captures") == 30
    assert caplog.text.count("OTEL_PYTHON_CUDAGRAPH_MAX_PENDING") == 1
    del kept


def test_uninstrument_hands_over_what_was_recorded(stand_in: StandIn) -> None:
    with Pipeline() as pipeline:
        stand_in.capture()
        pipeline.instrumentor.uninstrument()
        pipeline.tracer_provider.force_flush()
        pipeline.meter_provider.force_flush()

        assert len(pipeline.received.spans(CAPTURE)) == 1
        assert pipeline.received.metrics()["cuda.graph.captures"].total() == 1
        last = Received(metrics_data=pipeline.received.metrics_data[-1:]).metrics()
        assert "cuda.graph.captures" in last
        assert "cuda.graph.count" not in last


def test_a_span_can_be_read_back_from_otlp_json(pipeline: Pipeline, stand_in: StandIn) -> None:
    stand_in.capture()
    pipeline.metrics()

    text = pipeline.received.to_json_lines()
    again = Received.from_json_lines(text)
    assert again.spans() == pipeline.received.spans()
    assert again.metrics() == pipeline.received.metrics()
    span = json.loads(text.splitlines()[0])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert span["traceId"] == pipeline.received.spans()[0].trace_id


class Hanging(SpanProcessor):
    """Blocks whoever ends a span until it is let go."""

    def __init__(self) -> None:
        self.is_in, self.let_go, self.is_out = (threading.Event() for _ in range(3))

    def on_end(self, span) -> None:
        self.is_in.set()
        self.let_go.wait(10)
        self.is_out.set()


def test_a_processor_that_hangs_holds_up_nobody_for_long(stand_in: StandIn, monkeypatch) -> None:
    """What hands over at the end of a process gives up on a hand-over that another thread has begun."""
    monkeypatch.setattr("otel_cudagraph.outbox._EXIT_S", 0.1)
    hanging = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(hanging)
    instrumentor = CudaGraphInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        stand_in.capture()
        assert hanging.is_in.wait(10)
        instrumentor.hand_over()
        assert not hanging.is_out.is_set()
    finally:
        hanging.let_go.set()
        instrumentor.uninstrument()


class BetweenTriggers(SpanProcessor):
    """Lets the next trigger begin while the last one is handed over, and watches for deliveries in it."""

    def __init__(self) -> None:
        self.handing_over, self.next_has_begun = threading.Event(), threading.Event()
        self.flushed, self.next_has_ended = threading.Event(), threading.Event()
        self.flushed_too_early = False

    def on_end(self, span) -> None:
        self.handing_over.set()
        self.next_has_begun.wait(10)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.flushed_too_early |= not self.next_has_ended.is_set()
        self.flushed.set()
        return True


def test_nothing_is_delivered_while_the_next_trigger_captures(stand_in: StandIn) -> None:
    """Deliveries take the GIL in the middle of somebody's capture."""
    watch = BetweenTriggers()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(watch)
    instrumentor = CudaGraphInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with capture_trigger(engine="test"):
            stand_in.capture()
        assert watch.handing_over.wait(10)
        with capture_trigger(engine="test"):
            watch.next_has_begun.set()
            watch.flushed.wait(0.5)
            watch.next_has_ended.set()
        assert watch.flushed.wait(10)
        assert not watch.flushed_too_early
    finally:
        instrumentor.uninstrument()
