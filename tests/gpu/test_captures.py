"""What counts as a captured graph, how failures look, and that the next capture works."""

import threading

import pytest

from otel_cudagraph import batch_descriptor, capture_trigger
from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")


def capture(body=lambda x: x * 2 + 1):  # type: ignore[no-untyped-def]
    """Capture `body` of a small tensor; return graph, input and output."""
    x = torch.ones(8, device="cuda")
    body(x.clone()) if body.__name__ == "<lambda>" else None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = body(x)
    return graph, x, y


def assert_next_capture_works() -> None:
    graph, x, y = capture()
    x.fill_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert y.tolist() == [7.0] * 8


def test_python_error_in_the_body(pipeline: Pipeline) -> None:
    error = ValueError("not today")

    def body(x):  # type: ignore[no-untyped-def]
        x.add_(1)
        raise error

    with pytest.raises(ValueError, match="not today") as seen:
        capture(body)

    assert seen.value is error
    assert_next_capture_works()
    failed, good = pipeline.captures()
    assert failed.is_error
    assert failed.attributes["error.type"] == "ValueError"
    assert not good.is_error
    assert pipeline.total("cuda.graph.captures") == 1


def test_synchronising_call_in_the_body(pipeline: Pipeline) -> None:
    with pytest.raises(torch.AcceleratorError, match="capture"):
        capture(lambda x: x.sum().item() if torch.cuda.is_current_stream_capturing() else x)

    assert_next_capture_works()
    failed, _ = pipeline.captures()
    assert failed.attributes["error.type"] == "torch.AcceleratorError"
    root, surfaced = failed.events
    assert "not permitted when stream is capturing" in root.attributes["exception.message"]
    assert "previous error" in surfaced.attributes["exception.message"]
    assert pipeline.total("cuda.graph.captures") == 1


def test_out_of_memory_in_the_body(pipeline: Pipeline) -> None:
    def body(x):  # type: ignore[no-untyped-def]
        return torch.empty(1 << 50, device="cuda")

    with capture_trigger(engine="test"), pytest.raises(Exception):  # noqa: B017, PT011  which one differs by version
        capture(body)

    assert_next_capture_works()
    failed, _ = pipeline.captures()
    assert failed.attributes["error.type"] == "torch.OutOfMemoryError"
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["cuda.graph.failed"] == 1
    assert not trigger.is_error


def test_trigger_that_fails_has_the_root_cause(pipeline: Pipeline) -> None:
    with pytest.raises(torch.AcceleratorError), capture_trigger(engine="test"):
        capture(lambda x: x.sum().item() if torch.cuda.is_current_stream_capturing() else x)

    (trigger,) = pipeline.triggers()
    assert trigger.is_error
    assert trigger.attributes["error.type"] == "torch.AcceleratorError"
    assert pipeline.total("cuda.graph.capture_triggers") == 1
    assert pipeline.total("cuda.graph.captures") == 0


def test_direct_begin_and_end(pipeline: Pipeline) -> None:
    x = torch.ones(8, device="cuda")
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        y = x * 5
        graph.capture_end()
    graph.replay()
    torch.cuda.synchronize()

    assert y.tolist() == [5.0] * 8
    (span,) = pipeline.captures()
    assert not span.is_error
    assert span.attributes["cuda.graph.prepare_time"] < 0.01
    assert span.attributes["code.function.name"].endswith("test_direct_begin_and_end")
    assert pipeline.total("cuda.graph.replays") == 1


def test_direct_end_on_the_way_out_of_an_error(pipeline: Pipeline) -> None:
    x = torch.ones(8, device="cuda")
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        x.add_(1)
        with pytest.raises(ZeroDivisionError):
            try:
                _ = 1 / 0
            finally:
                graph.capture_end()

    assert_next_capture_works()
    failed, _ = pipeline.captures()
    assert failed.attributes["error.type"] == "ZeroDivisionError"


def test_recapture_after_reset(pipeline: Pipeline) -> None:
    graph, x, y = capture()
    graph.reset()
    with torch.cuda.graph(graph):
        y = x * 10
    graph.replay()
    torch.cuda.synchronize()

    assert y.tolist() == [10.0] * 8
    first, second = pipeline.captures()
    assert first.attributes["cuda.graph.phase"] == "runtime"
    assert second.attributes["cuda.graph.phase"] == "recapture"
    assert pipeline.total("cuda.graph.captures") == 2
    assert pipeline.total("cuda.graph.count") == 1


def test_captures_in_two_threads_that_the_trigger_started(pipeline: Pipeline) -> None:
    errors: list[BaseException] = []

    def work(key: str) -> None:
        try:
            with batch_descriptor(key):
                capture()
        except BaseException as error:
            errors.append(error)

    with capture_trigger(engine="test", runtime_mode="FULL"):
        for key in ("first", "second"):
            thread = threading.Thread(target=work, args=(key,))
            thread.start()
            thread.join()

    assert not errors
    (trigger,) = pipeline.triggers()
    spans = pipeline.captures()
    assert [span.attributes["cuda.graph.key"] for span in spans] == ["first", "second"]
    assert {span.parent_id for span in spans} == {trigger.span_id}
    assert trigger.attributes["cuda.graph.captured"] == 2


def test_attributes_of_the_device_and_the_pool(pipeline: Pipeline) -> None:
    graph, _, _ = capture()

    (span,) = pipeline.captures()
    assert span.attributes["hw.type"] == "gpu"
    assert span.attributes["hw.name"] == torch.cuda.get_device_name()
    assert span.attributes["hw.id"] == f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    assert span.attributes["cuda.device.index"] == 0
    assert span.attributes["cuda.graph.pool_id"] == str(graph.pool())
    assert "cuda.graph.simulated" not in span.attributes


def test_times_agree_with_the_duration(pipeline: Pipeline) -> None:
    capture()

    (span,) = pipeline.captures()
    parts = [span.attributes[f"cuda.graph.{part}_time"] for part in ("prepare", "record", "instantiate")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(span.duration_s, abs=1e-3)


def test_replays_are_counted_from_four_threads(pipeline: Pipeline) -> None:
    graph, _, _ = capture()
    threads = [threading.Thread(target=lambda: [graph.replay() for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()

    assert pipeline.total("cuda.graph.replays") == 4000


def test_kept_graph_that_is_instantiated_later(pipeline: Pipeline) -> None:
    x = torch.ones(8, device="cuda")
    with capture_trigger(engine="test"):
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph):
            x.add_(1)
        graph.instantiate()
    graph.replay()
    torch.cuda.synchronize()

    (span,) = pipeline.captures()
    assert not span.is_error
    assert span.attributes["cuda.graph.instantiate_time"] > 0
    assert pipeline.total("cuda.graph.captures") == 1
