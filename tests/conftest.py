"""Fixtures: a clean environment, the stand-in's graphs, the whole pipeline; and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from otel_cudagraph import CudaGraphInstrumentor, register_graph_family
from tests.pipeline import Pipeline

if TYPE_CHECKING:
    import torch

    from runner.stand_in import StandInGraph


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the variables of the shell that started it."""
    for name in list(os.environ):
        if name.upper().startswith(("OTEL_", "TRACEPARENT", "TRACESTATE")) and not name.startswith(
            "OTEL_CUDAGRAPH_"  # where the backends are, whether to record: of the test run itself
        ):
            monkeypatch.delenv(name)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture(autouse=True)
def _nothing_left_patched() -> Iterator[None]:
    yield
    instrumentor = CudaGraphInstrumentor()
    left = instrumentor.is_instrumented_by_opentelemetry
    if left:
        instrumentor.uninstrument()
    assert not left, "the test left the instrumentation on"


@dataclass
class StandIn:
    """The CPU stand-in's classes, and a capture of a few operations."""

    module: Any

    def graph(self) -> StandInGraph:
        return self.module.StandInGraph()

    def capture(
        self, graph: StandInGraph | None = None, body: Callable[[torch.Tensor], Any] = lambda x: x * 2
    ) -> StandInGraph:
        """Capture `body` of a small tensor; return the graph."""
        import torch

        graph = graph or self.graph()
        x = torch.ones(4)
        with self.module.graph(graph):
            body(x)
        return graph


@pytest.fixture(scope="session")
def stand_in() -> StandIn:
    """The stand-in, known to the instrumentation."""
    from runner import stand_in as module

    register_graph_family(module.FAMILY)
    return StandIn(module)


@pytest.fixture
def pipeline(stand_in: StandIn) -> Iterator[Pipeline]:
    """Instrumented, with everything that is captured arriving over OTLP."""
    with Pipeline() as running:
        yield running
