"""An engine in miniature, without torch: it captures a graph for each size, and replays what it captured."""

from __future__ import annotations

from collections.abc import Iterable

from otel_cudagraph import batch_descriptor, capture_trigger, register_graph_family
from tests import plain_graphs
from tests.plain_graphs import PlainGraph

ENGINE = "toy"
register_graph_family(plain_graphs.FAMILY)


def capture_one(size: int, error: BaseException | None = None, **described: str) -> PlainGraph:
    """Capture one graph; its body raises `error`."""
    graph = PlainGraph()
    key = described.pop("key", f"batch={size}")
    with batch_descriptor(key, batch_size=size, **described), plain_graphs.capture(graph):
        if error is not None:
            raise error
    return graph


def capture_model(
    sizes: Iterable[int] = (8, 4, 2), mode: str = "FULL", purpose: str = "serving", engine: str = ENGINE
) -> list[PlainGraph]:
    """Capture a graph for each size in one trigger."""
    with capture_trigger(engine=engine, runtime_mode=mode, purpose=purpose):
        return [capture_one(size) for size in sizes]
