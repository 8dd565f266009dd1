"""Triggers: what is one, whose child it is, and what it says at its end."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace

from otel_cudagraph import capture_trigger
from tests.conftest import StandIn
from tests.pipeline import Pipeline

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_captures_are_children_of_the_trigger(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine", runtime_mode="FULL_AND_PIECEWISE"):
        first, second = stand_in.capture(), stand_in.capture()

    (trigger,) = pipeline.triggers()
    captures = pipeline.captures()
    assert [capture.parent_id for capture in captures] == [trigger.span_id] * 2
    assert all(trigger.start_ns <= c.start_ns <= c.end_ns <= trigger.end_ns for c in captures)
    assert trigger.attributes["cuda.graph.engine"] == "mine"
    assert trigger.attributes["cuda.graph.runtime_mode"] == "FULL_AND_PIECEWISE"
    assert trigger.attributes["cuda.graph.phase"] == "startup"
    assert trigger.attributes["cuda.graph.captured"] == 2
    assert trigger.attributes["cuda.graph.failed"] == 0
    assert trigger.attributes["cuda.device.index"] == 0
    assert trigger.attributes["code.function.name"].endswith("test_captures_are_children_of_the_trigger")
    assert {c.attributes["cuda.graph.engine"] for c in captures} == {"mine"}
    assert {c.attributes["cuda.graph.phase"] for c in captures} == {"startup"}
    assert "cuda.graph.runtime_mode" not in captures[0].attributes
    assert pipeline.total("cuda.graph.capture_triggers", engine="mine") == 1
    assert pipeline.total("cuda.graph.count") == 2
    del first, second


def test_parts_add_up_to_the_duration(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        stand_in.capture()
        stand_in.capture()

    (trigger,) = pipeline.triggers()
    parts = ("prepare", "record", "instantiate", "other")
    total = sum(trigger.attributes[f"cuda.graph.{part}_time"] for part in parts)
    assert total == pytest.approx(trigger.duration_s, abs=1e-6)
    for part in parts[:3]:
        of_captures = sum(c.attributes[f"cuda.graph.{part}_time"] for c in pipeline.captures())
        assert trigger.attributes[f"cuda.graph.{part}_time"] == pytest.approx(of_captures)


def test_a_plain_mode_is_the_mode_of_its_graphs(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine", runtime_mode="PIECEWISE"):
        stand_in.capture()

    assert pipeline.captures()[0].attributes["cuda.graph.runtime_mode"] == "PIECEWISE"


def test_as_decorator(pipeline: Pipeline, stand_in: StandIn) -> None:
    @capture_trigger(engine="mine")
    def capture_model(number: int) -> int:
        """Capture."""
        stand_in.capture()
        return number + 1

    assert capture_model(1) == 2
    assert capture_model(number=2) == 3
    assert capture_model.__doc__ == "Capture."
    triggers = pipeline.triggers()
    assert len(triggers) == 2
    assert triggers[0].attributes["code.function.name"] == (
        f"{__name__}.test_as_decorator.<locals>.capture_model"
    )


def test_decorator_with_nothing_to_capture(pipeline: Pipeline) -> None:
    """A skipped capture is no trigger."""

    @capture_trigger(engine="mine", when=len)
    def capture_model(sizes: list[int]) -> str:
        return "done"

    assert capture_model([]) == "done"
    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.capture_triggers") == 0


@pytest.mark.parametrize("kind", ["coroutine", "generator", "asynchronous generator"])
def test_decorator_refuses_what_does_not_run_when_called(kind: str) -> None:
    async def coroutine() -> None: ...

    def generator():
        yield

    async def asynchronous_generator():
        yield

    functions = (coroutine, generator, asynchronous_generator)
    function = {each.__name__.replace("_", " "): each for each in functions}[kind]
    with pytest.raises(TypeError, match=r"use `with capture_trigger\(\.\.\.\)`"):
        capture_trigger(engine="mine")(function)


def test_decorator_of_a_partial_and_of_an_object(pipeline: Pipeline) -> None:
    import functools

    class Capturer:
        def __call__(self, number: int) -> int:
            return number

    assert capture_trigger(engine="mine")(functools.partial(max, 3))(5) == 5
    assert capture_trigger(engine="mine")(Capturer())(5) == 5
    assert len(pipeline.triggers()) == 2


def test_nested_trigger_is_part_of_the_outer(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="outer"), capture_trigger(engine="inner"):
        stand_in.capture()

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["cuda.graph.engine"] == "outer"
    assert pipeline.captures()[0].parent_id == trigger.span_id
    assert pipeline.total("cuda.graph.capture_triggers") == 1


def test_the_count_is_up_before_the_first_capture(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        assert pipeline.total("cuda.graph.capture_triggers") == 1
        assert pipeline.total("cuda.graph.capture_trigger.active") == 1
        stand_in.capture()
        assert pipeline.total("cuda.graph.captures") == 1

    assert pipeline.total("cuda.graph.capture_trigger.active") == 0


def test_trigger_that_fails_before_its_first_capture(pipeline: Pipeline) -> None:
    error = RuntimeError("no memory for the KV cache")

    with pytest.raises(RuntimeError) as seen, capture_trigger(engine="mine"):
        raise error

    assert seen.value is error
    (trigger,) = pipeline.triggers()
    assert trigger.is_error
    assert trigger.attributes["error.type"] == "RuntimeError"
    assert trigger.attributes["cuda.graph.captured"] == 0
    assert pipeline.total("cuda.graph.capture_triggers") == 1
    assert pipeline.total("cuda.graph.capture_trigger.active") == 0
    (point,) = pipeline.metrics()["cuda.graph.capture_trigger.duration"].points
    assert point.attributes["error.type"] == "RuntimeError"


def test_trigger_failed_by_a_capture_has_its_root_cause(pipeline: Pipeline, stand_in: StandIn) -> None:
    with pytest.raises(stand_in.module.StreamCaptureInvalidated), capture_trigger(engine="mine"):
        stand_in.capture(body=lambda x: x.sum().item())

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["error.type"] == "runner.stand_in.StreamCaptureUnsupported"
    assert trigger.attributes["cuda.graph.failed"] == 1


def test_trigger_failed_by_an_error_that_wraps_a_capture_s(pipeline: Pipeline, stand_in: StandIn) -> None:
    def capture_model() -> None:
        try:
            stand_in.capture(body=lambda x: x.sum().item())
        except Exception as error:
            raise RuntimeError(f"Capture cuda graph failed: {error}") from error

    with pytest.raises(RuntimeError, match="Capture cuda graph failed"), capture_trigger(engine="mine"):
        capture_model()

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["error.type"] == "runner.stand_in.StreamCaptureUnsupported"
    root, outcome = (event.attributes for event in trigger.events)
    assert root["exception.type"] == "runner.stand_in.StreamCaptureUnsupported"
    assert "not permitted" in root["exception.message"]
    assert outcome["exception.type"] == "RuntimeError"
    assert outcome["exception.message"].startswith("Capture cuda graph failed")


def test_failed_capture_that_the_engine_survives(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        with pytest.raises(ZeroDivisionError):
            stand_in.capture(body=lambda x: 1 / 0)
        stand_in.capture()

    (trigger,) = pipeline.triggers()
    assert not trigger.is_error
    assert (trigger.attributes["cuda.graph.captured"], trigger.attributes["cuda.graph.failed"]) == (1, 1)


def test_parent_is_the_current_span(pipeline: Pipeline, stand_in: StandIn, monkeypatch) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE_ID}-{SPAN_ID}-01")
    tracer = pipeline.tracer_provider.get_tracer("engine")
    with tracer.start_as_current_span("startup") as startup, capture_trigger(engine="mine"):
        with tracer.start_as_current_span("Capture model") as own:
            stand_in.capture()
        stand_in.capture()
    context = startup.get_span_context()

    (trigger,) = pipeline.triggers()
    below_own, below_trigger = pipeline.captures()
    assert int(trigger.parent_id, 16) == context.span_id
    assert int(trigger.trace_id, 16) == context.trace_id
    assert int(below_own.parent_id, 16) == own.get_span_context().span_id
    assert below_trigger.parent_id == trigger.span_id


@pytest.mark.parametrize("name", ["TRACEPARENT", "traceparent"])
def test_parent_from_the_environment(pipeline: Pipeline, monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, f"00-{TRACE_ID}-{SPAN_ID}-01")
    with capture_trigger(engine="mine"):
        pass

    (trigger,) = pipeline.triggers()
    assert (trigger.trace_id, trigger.parent_id) == (TRACE_ID, SPAN_ID)


def test_upper_case_environment_comes_first(pipeline: Pipeline, monkeypatch) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE_ID}-{SPAN_ID}-01")
    monkeypatch.setenv("traceparent", f"00-{TRACE_ID[::-1]}-{SPAN_ID}-01")
    with capture_trigger(engine="mine"):
        pass

    assert pipeline.triggers()[0].trace_id == TRACE_ID


def test_malformed_environment_makes_a_root(pipeline: Pipeline, monkeypatch) -> None:
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    with capture_trigger(engine="mine"):
        pass

    assert pipeline.triggers()[0].parent_id == ""


def test_threads_that_the_trigger_started(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        for _ in range(2):
            thread = threading.Thread(target=stand_in.capture)
            thread.start()
            thread.join()

    (trigger,) = pipeline.triggers()
    captures = pipeline.captures()
    assert [capture.parent_id for capture in captures] == [trigger.span_id] * 2
    assert {capture.attributes["cuda.graph.engine"] for capture in captures} == {"mine"}
    assert trigger.attributes["cuda.graph.captured"] == 2


def test_two_runners_in_two_threads_are_two_triggers(pipeline: Pipeline, stand_in: StandIn) -> None:
    """Whichever thread starts first: only a trigger of the same context is an outer one."""

    def run(engine: str) -> None:
        with capture_trigger(engine=engine):
            stand_in.capture()

    with capture_trigger(engine="one"):
        thread = threading.Thread(target=run, args=("two",))
        thread.start()
        thread.join()
        stand_in.capture()

    triggers = {span.attributes["cuda.graph.engine"]: span for span in pipeline.triggers()}
    assert set(triggers) == {"one", "two"}
    assert {span.attributes["cuda.graph.engine"]: span.parent_id for span in pipeline.captures()} == {
        engine: span.span_id for engine, span in triggers.items()
    }


def test_one_trigger_object_in_two_threads(pipeline: Pipeline, stand_in: StandIn) -> None:
    shared = capture_trigger(engine="mine")
    inside, outside = threading.Event(), threading.Event()

    def run() -> None:
        with shared:
            inside.set()
            outside.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    inside.wait(10)
    with shared:
        assert trace.get_current_span().get_span_context().is_valid
    assert not trace.get_current_span().get_span_context().is_valid
    outside.set()
    thread.join()

    assert len(pipeline.triggers()) == 2


def test_thread_that_ran_before_is_not_the_trigger_s(pipeline: Pipeline, stand_in: StandIn) -> None:
    go = threading.Event()

    def serve() -> None:
        go.wait()
        stand_in.capture()

    server = threading.Thread(target=serve)
    server.start()
    with capture_trigger(engine="mine"):
        go.set()
        server.join()

    (trigger,) = pipeline.triggers()
    (capture,) = pipeline.captures()
    assert capture.parent_id == ""
    assert capture.attributes["cuda.graph.phase"] == "runtime"
    assert trigger.attributes["cuda.graph.captured"] == 0


def test_the_context_is_as_before_afterwards(pipeline: Pipeline) -> None:
    before = trace.get_current_span()
    with capture_trigger(engine="mine"):
        assert trace.get_current_span() is not before

    assert trace.get_current_span() is before


@pytest.mark.parametrize("rank", ["3", "three"])
def test_rank_of_the_launcher(pipeline: Pipeline, stand_in: StandIn, monkeypatch, rank: str) -> None:
    monkeypatch.setenv("RANK", rank)
    with capture_trigger(engine="mine"):
        stand_in.capture()

    expected = 3 if rank == "3" else None
    assert pipeline.triggers()[0].attributes.get("cuda.graph.rank") == expected
    assert pipeline.captures()[0].attributes.get("cuda.graph.rank") == expected


def test_without_instrumentation_nothing_happens(stand_in: StandIn) -> None:
    with capture_trigger(engine="mine"):
        stand_in.capture().replay()


def test_simulated_graphs_are_labelled_everywhere(pipeline: Pipeline, stand_in: StandIn) -> None:
    with capture_trigger(engine="mine", simulated=True):
        stand_in.capture().replay()

    spans = pipeline.triggers() + pipeline.captures()
    assert all(span.attributes["cuda.graph.simulated"] is True for span in spans)
    points = [point for metric in pipeline.metrics().values() for point in metric.points]
    assert len(points) == 7
    assert all(point.attributes["cuda.graph.simulated"] is True for point in points)


def raise_while_handling(*, explicitly: bool) -> None:
    try:
        raise MemoryError("no room")
    except MemoryError as error:
        if explicitly:
            raise RuntimeError("the warm-up failed") from error
        raise RuntimeError("the clean-up failed")  # noqa: B904  that is the case to look at


@pytest.mark.parametrize(("explicitly", "root"), [(True, "MemoryError"), (False, "RuntimeError")])
def test_an_error_before_any_capture_has_its_explicit_cause(pipeline, *, explicitly: bool, root: str) -> None:
    with pytest.raises(RuntimeError), capture_trigger(engine="test"):
        raise_while_handling(explicitly=explicitly)

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["error.type"] == root
    assert [event.attributes["exception.type"] for event in trigger.events] == list(
        dict.fromkeys([root, "RuntimeError"])
    )
