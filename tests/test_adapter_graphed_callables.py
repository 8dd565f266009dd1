"""``torch.cuda.make_graphed_callables``: its own source, on the CPU stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")
NAME = "torch.cuda.graphs.make_graphed_callables"


class Stream:
    def __init__(self, *args) -> None: ...


@pytest.fixture
def cuda(stand_in, monkeypatch) -> Iterator[object]:
    """`torch.cuda` as far as `make_graphed_callables` needs it: its graphs are the stand-in's."""

    def graph(cuda_graph, stream=None, pool=None, **options):
        context = stand_in.module.graph(cuda_graph, pool=pool)
        context.cuda_graph = cuda_graph  # as torch's has it
        return context

    for name, value in {
        "CUDAGraph": stand_in.module.StandInGraph,
        "graph": graph,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    return torch.cuda


def x(**options) -> object:
    return torch.ones(4, 16, **options)


def linear() -> object:
    return torch.nn.Linear(16, 16)


def twice(x):
    return x * 2


def keys(pipeline: Pipeline) -> list[str]:
    return [span.attributes["cuda.graph.key"] for span in pipeline.captures()]


def test_a_tuple_of_callables(cuda, pipeline) -> None:
    inputs = tuple((x(requires_grad=True),) for _ in range(3))

    graphed = cuda.make_graphed_callables((linear(), twice, linear()), inputs)

    assert len(graphed) == 3
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["code.function.name"] == NAME
    assert trigger.attributes["cuda.graph.phase"] == "startup"
    spans = pipeline.captures()
    assert keys(pipeline) == [
        "Linear forward callable=0",
        "twice forward callable=1",
        "Linear forward callable=2",
        "Linear backward callable=2",
        "twice backward callable=1",
        "Linear backward callable=0",
    ]
    assert {span.parent_id for span in spans} == {trigger.span_id}
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch"}
    assert pipeline.total("cuda.graph.captures", engine="torch") == 6
    assert pipeline.total("cuda.graph.capture_triggers", engine="torch") == 1


def test_one_callable(cuda, pipeline) -> None:
    module = linear()

    graphed = cuda.make_graphed_callables(module, (x(requires_grad=True),))

    assert graphed is module
    assert keys(pipeline) == ["Linear forward callable=0", "Linear backward callable=0"]
    assert len(pipeline.triggers()) == 1


def test_nothing_to_differentiate_has_no_backward_graph(cuda, pipeline) -> None:
    cuda.make_graphed_callables(twice, (x(),))

    assert keys(pipeline) == ["twice forward callable=0"]


def test_no_callables_are_no_trigger(cuda, pipeline) -> None:
    assert cuda.make_graphed_callables((), ()) == ()

    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.capture_triggers") == 0


@pytest.mark.parametrize("named", [False, True])
def test_both_names_are_hooked_and_restored(cuda, named: bool) -> None:
    before = cuda.make_graphed_callables
    assert cuda.graphs.make_graphed_callables is before

    with Pipeline() as pipeline:
        for holder in (cuda, cuda.graphs):
            arguments = {"callables": twice, "sample_args": (x(),)}
            if named:
                holder.make_graphed_callables(**arguments)
            else:
                holder.make_graphed_callables(*arguments.values())
        assert len(pipeline.triggers()) == 2

    assert cuda.make_graphed_callables is cuda.graphs.make_graphed_callables is before


def test_a_failure_is_the_caller_s_own(cuda, pipeline) -> None:
    error = ValueError("not this one")
    calls = []

    def fails_when_captured(x):
        calls.append(x)
        if len(calls) > 3:  # after the warm-up
            raise error
        return x * 2

    with pytest.raises(ValueError, match="not this one") as seen:
        cuda.make_graphed_callables((twice, fails_when_captured), ((x(),), (x(),)))

    assert seen.value is error
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["error.type"] == "ValueError"
    assert [span.is_error for span in pipeline.captures()] == [False, True]
    assert keys(pipeline)[1].endswith("fails_when_captured forward callable=1")


def test_arguments_that_are_refused(cuda, pipeline) -> None:
    with pytest.raises(TypeError):
        cuda.make_graphed_callables()
    with pytest.raises(AssertionError):
        cuda.make_graphed_callables(twice, (3,))

    assert pipeline.captures() == []
