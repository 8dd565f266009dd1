"""A graph family without torch: the least that can be captured, for programs that must start fast."""

from __future__ import annotations

import sys

from otel_cudagraph import GraphFamily


class Driver:
    """Stands for the C++ class beneath."""

    error: BaseException | None = None

    def replay(self) -> None:
        if self.error is not None:
            raise self.error

    def reset(self) -> None: ...


class PlainGraph(Driver):
    """Captures nothing; its `replay` is a shim as torch's own up to 2.12, its `reset` is inherited."""

    def capture_begin(self) -> None: ...

    def capture_end(self) -> None: ...

    def replay(self) -> None:
        """Replay."""
        super().replay()

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class capture:  # noqa: N801
    """The context that captures into a graph."""

    def __init__(self, graph: PlainGraph) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        self.graph.capture_begin()

    def __exit__(self, *exc_info: object) -> None:
        self.graph.capture_end()


def current_device() -> int:
    return 0


def get_device_properties(index: int) -> object:
    return sys.implementation


FAMILY = GraphFamily("plain", __name__, "PlainGraph", "capture", __name__, hw_type="cpu", simulated=True)
