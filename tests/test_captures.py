"""What counts as a captured graph, and what its span says."""

from __future__ import annotations

import gc
import time

import pytest

from otel_cudagraph import batch_descriptor, capture_trigger
from tests.conftest import StandIn
from tests.pipeline import Pipeline


def test_a_capture_is_a_span_and_a_count(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()

    (span,) = pipeline.captures()
    assert span.name == "cuda.graph.capture"
    assert not span.is_error
    assert span.attributes == {
        "cuda.graph.engine": "torch",
        "cuda.graph.purpose": "serving",
        "cuda.graph.phase": "runtime",
        "cuda.graph.simulated": True,
        "cuda.device.index": 0,
        "hw.type": "cpu",
        "hw.name": stand_in.module.get_device_properties(0).name,
        "code.function.name": span.attributes["code.function.name"],
        "cuda.graph.pool_id": str(graph.pool()),
        "cuda.graph.prepare_time": span.attributes["cuda.graph.prepare_time"],
        "cuda.graph.record_time": span.attributes["cuda.graph.record_time"],
        "cuda.graph.instantiate_time": span.attributes["cuda.graph.instantiate_time"],
    }
    assert span.attributes["code.function.name"].endswith("capture")
    assert pipeline.total("cuda.graph.captures") == 1


def test_what_the_engine_says_of_a_graph_is_on_its_span(pipeline: Pipeline, stand_in: StandIn) -> None:
    with (
        batch_descriptor("BatchDescriptor(8)", runtime_mode="FULL", batch_size=8, num_tokens=16),
        batch_descriptor(purpose="profiling", engine="mine"),
    ):
        stand_in.capture()
    stand_in.capture()

    described, plain = pipeline.captures()
    assert described.attributes["cuda.graph.key"] == "BatchDescriptor(8)"
    assert described.attributes["cuda.graph.runtime_mode"] == "FULL"
    assert described.attributes["cuda.graph.batch_size"] == 8
    assert described.attributes["cuda.graph.num_tokens"] == 16
    assert described.attributes["cuda.graph.purpose"] == "profiling"
    assert described.attributes["cuda.graph.engine"] == "mine"
    assert "cuda.graph.key" not in plain.attributes
    assert pipeline.total("cuda.graph.captures", purpose="profiling") == 1
    assert pipeline.total("cuda.graph.captures", purpose="serving") == 1


def test_times_are_those_of_the_parts(pipeline: Pipeline, stand_in: StandIn) -> None:
    before = time.time_ns()
    stand_in.capture(body=lambda x: time.sleep(0.02))
    after = time.time_ns()

    (span,) = pipeline.captures()
    parts = [span.attributes[f"cuda.graph.{part}_time"] for part in ("prepare", "record", "instantiate")]
    assert parts[1] >= 0.02
    assert sum(parts) <= span.duration_s
    assert sum(parts) == pytest.approx(span.duration_s, abs=0.005)
    assert before <= span.start_ns < span.end_ns <= after
    assert pipeline.metrics()["cuda.graph.capture.duration"].points[0].sum == pytest.approx(span.duration_s)


def test_a_wall_clock_that_is_set_back_tears_nothing_apart(
    pipeline: Pipeline, stand_in: StandIn, monkeypatch
) -> None:
    clock = iter(range(10**18, 0, -(10**12)))
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    with capture_trigger(engine="mine"):
        stand_in.capture()
        stand_in.capture()
    monkeypatch.undo()

    (trigger,) = pipeline.triggers()
    first, second = pipeline.captures()
    assert (
        trigger.start_ns <= first.start_ns < first.end_ns <= second.start_ns < second.end_ns <= trigger.end_ns
    )


def test_rank_outside_a_trigger(pipeline: Pipeline, stand_in: StandIn, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "5")
    stand_in.capture()

    assert pipeline.captures()[0].attributes["cuda.graph.rank"] == 5


def test_python_error_in_the_body_is_a_failed_capture(pipeline: Pipeline, stand_in: StandIn) -> None:
    """Ending the capture goes well after it, and the graph can be replayed: it failed all the same."""
    error = ValueError("not today")

    def body(x):
        raise error

    with pytest.raises(ValueError, match="not today") as seen:
        stand_in.capture(body=body)

    assert seen.value is error
    assert error.__context__ is None
    (span,) = pipeline.captures()
    assert span.is_error
    assert span.status_message == "ValueError: not today"
    assert span.attributes["error.type"] == "ValueError"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert "in body" in event.attributes["exception.stacktrace"]
    assert pipeline.total("cuda.graph.captures") == 0
    assert pipeline.total("cuda.graph.count") == 0
    (point,) = pipeline.metrics()["cuda.graph.capture.duration"].points
    assert (point.value, point.attributes["error.type"]) == (1, "ValueError")


def test_the_root_cause_is_what_the_body_raised(pipeline: Pipeline, stand_in: StandIn) -> None:
    """A call that waits for the device invalidates the capture; the host sees what ending it raises."""
    with pytest.raises(stand_in.module.StreamCaptureInvalidated) as seen:
        stand_in.capture(body=lambda x: x.sum().item())

    assert isinstance(seen.value.__context__, stand_in.module.StreamCaptureUnsupported)
    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "runner.stand_in.StreamCaptureUnsupported"
    assert [event.attributes["exception.type"] for event in span.events] == [
        "runner.stand_in.StreamCaptureUnsupported",
        "runner.stand_in.StreamCaptureInvalidated",
    ]


def test_the_next_capture_works_after_a_failed_one(pipeline: Pipeline, stand_in: StandIn) -> None:
    with pytest.raises(stand_in.module.StreamCaptureInvalidated):
        stand_in.capture(body=lambda x: x.sum().item())
    stand_in.capture().replay()

    assert [span.is_error for span in pipeline.captures()] == [True, False]
    assert pipeline.total("cuda.graph.captures") == 1


def test_keyboard_interrupt_in_the_body(pipeline: Pipeline, stand_in: StandIn) -> None:
    def body(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stand_in.capture(body=body)

    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "KeyboardInterrupt"


def test_exception_whose_str_raises(pipeline: Pipeline, stand_in: StandIn) -> None:
    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    def body(x):
        raise Mute

    with pytest.raises(Mute):
        stand_in.capture(body=body)

    (span,) = pipeline.captures()
    assert span.attributes["error.type"].endswith("Mute")


def test_exception_that_would_wait_for_the_device_when_printed(pipeline: Pipeline, stand_in: StandIn) -> None:
    """It is described after the end of the capture: before, printing it would invalidate the capture."""

    class HoldsTensor(Exception):  # noqa: N818
        def __str__(self) -> str:
            return f"value {self.args[0].sum().item()}"

    def body(x):
        raise HoldsTensor(x)

    with pytest.raises(HoldsTensor):
        stand_in.capture(body=body)

    (span,) = pipeline.captures()
    assert span.status_message.endswith("value 4.0")
    assert len(span.events) == 1


def test_exception_that_is_false(pipeline: Pipeline, stand_in: StandIn) -> None:
    """Whether there is an error is no question for the error's own truth value."""

    class Empty(Exception):  # noqa: N818
        def __bool__(self) -> bool:
            return False

    def body(x):
        raise Empty("of meaning")

    with pytest.raises(Empty), capture_trigger(engine="mine"):
        stand_in.capture(body=body)

    (capture,), (trigger,) = pipeline.captures(), pipeline.triggers()
    assert capture.status_message.endswith("Empty: of meaning")
    assert len(capture.events) == 1
    assert trigger.attributes["error.type"].endswith("Empty")
    assert pipeline.total("cuda.graph.captures") == 0


def test_exception_that_utf_8_cannot_hold(pipeline: Pipeline, stand_in: StandIn) -> None:
    def body(x):
        raise OSError("\udcff")

    with pytest.raises(OSError):  # noqa: PT011
        stand_in.capture(body=body)
    stand_in.capture()

    assert [span.is_error for span in pipeline.captures()] == [True, False]


def test_capture_ended_inside_its_block(pipeline: Pipeline, stand_in: StandIn) -> None:
    """As by a context of one's own whose ``__exit__`` never reaches torch's."""

    class Own(stand_in.module.graph):
        def __exit__(self, *exc_info):
            self._capturing.release()
            self._graph.capture_end()

    graph = stand_in.graph()
    with Own(graph):
        pass

    (span,) = pipeline.captures()
    assert not span.is_error
    assert pipeline.total("cuda.graph.captures") == 1


@pytest.mark.parametrize("key", [["b", 1], ("t", 2), 7, {"size": 8}, None, object])
def test_keys_of_any_type(pipeline: Pipeline, stand_in: StandIn, key: object) -> None:
    with capture_trigger(engine="mine"), batch_descriptor(key):
        stand_in.capture()

    (span,) = pipeline.captures()
    assert span.attributes.get("cuda.graph.key") == (None if key is None else str(key))
    assert len(pipeline.triggers()) == 1


def test_values_that_are_not_what_they_should_be(pipeline: Pipeline, stand_in: StandIn) -> None:
    import numpy as np
    import torch

    from runner.config import CudaGraphMode

    tensor = torch.ones(4)
    with batch_descriptor(runtime_mode=CudaGraphMode.FULL, batch_size=np.int64(8), num_tokens=tensor):
        stand_in.capture()

    attributes = pipeline.captures()[0].attributes
    assert attributes["cuda.graph.runtime_mode"] == "FULL"
    assert attributes["cuda.graph.batch_size"] == 8
    assert "cuda.graph.num_tokens" not in attributes


def test_descriptor_in_a_generator_that_is_closed_elsewhere() -> None:
    import contextvars

    def captures():
        with batch_descriptor("key"):
            yield

    generator = captures()
    contextvars.copy_context().run(next, generator)
    generator.close()


def test_descriptor_s_own_phase_is_kept(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()
    graph.reset()
    with batch_descriptor(phase="startup"):
        stand_in.capture(graph)

    assert pipeline.captures()[1].attributes["cuda.graph.phase"] == "startup"


def test_begin_that_raises(pipeline: Pipeline, stand_in: StandIn) -> None:
    """A graph that holds a capture refuses another, and goes on to be live."""
    graph = stand_in.capture()

    with pytest.raises(stand_in.module.StandInError, match="already holds"):
        stand_in.capture(graph)
    graph.replay()

    assert [span.is_error for span in pipeline.captures()] == [False, True]
    assert pipeline.total("cuda.graph.captures") == 1
    assert pipeline.total("cuda.graph.count") == 1
    assert pipeline.total("cuda.graph.replays") == 1


def test_direct_begin_and_end(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    graph.capture_begin()
    graph.capture_end()

    (span,) = pipeline.captures()
    assert not span.is_error
    assert span.attributes["code.function.name"].endswith("test_direct_begin_and_end")
    assert pipeline.total("cuda.graph.captures") == 1


def test_direct_end_on_the_way_out_of_an_error(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()

    def capture() -> None:
        graph.capture_begin()
        try:
            raise LookupError
        finally:
            graph.capture_end()

    with pytest.raises(LookupError):
        capture()

    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "LookupError"
    assert pipeline.total("cuda.graph.captures") == 0


def test_direct_capture_while_an_older_error_is_handled(pipeline: Pipeline, stand_in: StandIn) -> None:
    """An engine that captures again in its ``except`` block has captured."""
    graph = stand_in.graph()
    try:
        raise LookupError
    except LookupError:
        graph.capture_begin()
        graph.capture_end()

    (span,) = pipeline.captures()
    assert not span.is_error
    assert pipeline.total("cuda.graph.captures") == 1


def test_begin_abandoned_by_reset(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    graph.capture_begin()
    graph.reset()

    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "CaptureAbandoned"
    assert pipeline.total("cuda.graph.captures") == 0


def test_reset_in_the_middle_of_a_block_is_one_failed_capture(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    with pytest.raises(stand_in.module.StandInError, match="without capture_begin"):
        stand_in.capture(graph, body=lambda x: graph.reset())

    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "CaptureAbandoned"
    assert pipeline.total("cuda.graph.captures") == 0


def test_begin_abandoned_by_the_death_of_its_graph(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    graph.capture_begin()
    graph._recording.__exit__(None, None, None)
    del graph
    gc.collect()

    (span,) = pipeline.captures()
    assert span.attributes["error.type"] == "CaptureAbandoned"


def test_death_of_a_capturing_graph_does_not_hold_up_others(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.graph()
    graph.capture_begin()
    graph._recording.__exit__(None, None, None)
    del graph
    gc.collect()
    stand_in.capture()

    pipeline.wait_for_captures(2)
    assert [span.is_error for span in pipeline.received.spans("cuda.graph.capture")] == [True, False]


def test_end_without_begin_is_no_capture(pipeline: Pipeline, stand_in: StandIn) -> None:
    with pytest.raises(stand_in.module.StandInError, match="without capture_begin"):
        stand_in.graph().capture_end()

    assert pipeline.captures() == []


def test_recapture_of_the_same_graph(pipeline: Pipeline, stand_in: StandIn) -> None:
    graph = stand_in.capture()
    graph.reset()
    stand_in.capture(graph)

    assert [span.attributes["cuda.graph.phase"] for span in pipeline.captures()] == ["runtime", "recapture"]
    assert pipeline.total("cuda.graph.captures") == 2
    assert pipeline.total("cuda.graph.captures", phase="recapture") == 1
    assert pipeline.total("cuda.graph.count") == 1


def test_recapture_of_the_same_key(pipeline: Pipeline, stand_in: StandIn) -> None:
    """Pieces of one model share a key within a trigger; the next trigger's are recaptures."""
    for _ in range(2):
        with capture_trigger(engine="mine"):
            for _ in range(2):
                with batch_descriptor("tokens=8"):
                    stand_in.capture()

    phases = [span.attributes["cuda.graph.phase"] for span in pipeline.captures()]
    assert phases == ["startup", "startup", "recapture", "recapture"]


def test_profiling_first_makes_serving_no_recapture(pipeline: Pipeline, stand_in: StandIn) -> None:
    for purpose in ("profiling", "serving"):
        with batch_descriptor("tokens=8", purpose=purpose):
            stand_in.capture()

    assert [span.attributes["cuda.graph.phase"] for span in pipeline.captures()] == ["runtime", "runtime"]


def test_live_graphs_go_down_with_death_and_reset(pipeline: Pipeline, stand_in: StandIn) -> None:
    kept, reset, dropped = stand_in.capture(), stand_in.capture(), stand_in.capture()
    assert pipeline.total("cuda.graph.count") == 3

    reset.reset()
    del dropped
    gc.collect()

    assert pipeline.total("cuda.graph.count") == 1
    assert pipeline.total("cuda.graph.captures") == 3
    kept.replay()


def test_nothing_keeps_a_captured_graph_alive(pipeline: Pipeline, stand_in: StandIn) -> None:
    import weakref

    graph = stand_in.capture()
    death = weakref.ref(graph)
    gc.disable()
    try:
        del graph
        assert death() is None
    finally:
        gc.enable()


def test_failed_capture_keeps_no_tensor_alive(pipeline: Pipeline, stand_in: StandIn) -> None:
    import weakref

    import torch

    tensor = torch.ones(4)
    death = weakref.ref(tensor)

    def body(x, held=tensor):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        stand_in.capture(body=body)
    del body, tensor
    gc.collect()

    assert death() is None


@pytest.mark.parametrize("field", ["purpose", "phase"])
def test_unknown_words_are_refused(field: str) -> None:
    said = f"{field}='nonsense' is not known; use one of: "
    with pytest.raises(ValueError, match=said), batch_descriptor(**{field: "nonsense"}):
        pass


def test_no_device_is_asked_while_a_capture_is_open(pipeline: Pipeline, monkeypatch) -> None:
    """A query of the driver would invalidate it; a device that is not known yet has its index alone."""
    from otel_cudagraph import register_graph_family
    from tests import plain_graphs

    register_graph_family(plain_graphs.FAMILY)
    asked = []
    properties = plain_graphs.get_device_properties
    monkeypatch.setattr(
        plain_graphs, "get_device_properties", lambda index: asked.append(index) or properties(index)
    )
    first, second = plain_graphs.PlainGraph(), plain_graphs.PlainGraph()
    first.capture_begin()
    monkeypatch.setattr(plain_graphs, "current_device", lambda: 1)
    second.capture_begin()
    second.capture_end()
    first.capture_end()

    assert asked == [0]
    indices = sorted(span.attributes["cuda.device.index"] for span in pipeline.captures())
    assert indices == [0, 1]
