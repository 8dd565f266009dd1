"""The same contracts for the engines of this environment; nothing is fetched."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from otel_cudagraph.adapters import ADAPTERS
from otel_cudagraph.adapters.hooks import Place
from tests.compat import engines
from tests.compat.contracts import Engine
from tests.compat.sources import InstalledSource


def is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


ROWS = [row for row in ADAPTERS if is_installed(row.distribution)]
of_an_adapter = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def engine(row) -> Engine:
    return Engine(InstalledSource(row.distribution, row.package))


@of_an_adapter
def test_what_belongs_to_the_version_is_there(row) -> None:
    assert engine(row).lacking(row) == []


@of_an_adapter
def test_what_does_not_belong_to_the_version_is_not_there(row) -> None:
    assert engine(row).surplus(row) == []


@of_an_adapter
def test_every_module_that_holds_a_hooked_function_is_known(row) -> None:
    """A hook that leaves a holder out misses the calls that go through it."""
    found = engine(row)
    for hook in engines.hooks(row):
        assert found.holders(hook.place) == sorted(hook.holders)


@pytest.fixture(scope="module")
def torch() -> Engine:
    return Engine(InstalledSource("torch", "torch"))


@pytest.mark.parametrize(
    ("place", "lack"),
    [
        (Place("torch.cuda.graph_s", "graph"), "module torch.cuda.graph_s; similar: torch.cuda.graphs"),
        (Place("torch.cuda.graphs", "CUDAGrap"), "CUDAGrap in torch.cuda.graphs; similar: CUDAGraph"),
        (
            Place("torch.cuda.graphs", "CUDAGraph.replays"),
            "replays in torch.cuda.graphs.CUDAGraph; similar: replay",
        ),
        (
            Place("torch.cuda.graphs", "make_graphed_callables", parameters=("callable",)),
            "parameter callable of torch.cuda.graphs.make_graphed_callables; similar: callables",
        ),
        (
            Place("torch.cuda.graphs", "make_graphed_callables", variables=("fwd_graphes",)),
            "local variable fwd_graphes of torch.cuda.graphs.make_graphed_callables; similar: fwd_graphs",
        ),
    ],
    ids=["module", "class", "method", "parameter", "variable"],
)
def test_what_is_missing_is_named(torch, place, lack) -> None:
    assert torch.lacks(place).startswith(f"torch {version('torch')} has no {lack}")


@pytest.mark.parametrize(
    "place",
    [
        Place("torch.cuda", "CUDAGraph"),
        Place("torch.nn", "Linear.register_buffer"),
        Place("torch.cuda.graphs", "graph.default_capture_stream"),
        Place("torch._inductor.cudagraph_trees", "CUDAGraphNode.recorded_liveness_before_graph"),
        Place("torch._inductor.cudagraph_trees", "CompilationMode.BACKWARD"),
    ],
    ids=["imported", "inherited-star", "attribute-of-class", "attribute-of-self", "enum"],
)
def test_what_is_there_is_found_wherever_it_is_defined(torch, place) -> None:
    assert torch.lacks(place) is None
