"""The graphs that exist: which capture is open on each, which are live, how often each replayed.

Nothing here keeps a graph alive. A graph's death only leaves a note, since the
garbage collector may run anywhere, also inside our own lock.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cudagraph.attributes import Series
    from otel_cudagraph.facts import Capture

REPLAYS = "_otel_cudagraph_replays"
"""Attribute of a live graph: an iterator that each replay advances by one."""


class ReplayCounter:
    """Counts replays, exactly and from many threads, in some tens of nanoseconds each.

    ``next(replays)`` is one C call, so the interpreter cannot switch threads inside
    it, which it can inside ``x += 1``. An `itertools.count` cannot be read without
    advancing it; `value` takes its own reads back out. One caller of the methods at a time.
    """

    __slots__ = ("_no_replays", "replays")

    def __init__(self) -> None:
        self.replays = itertools.count()
        self._no_replays = 0
        """Advances of `replays` that were none: reads, and replays that raised."""

    def value(self) -> int:
        """Return the replays so far."""
        replays = next(self.replays) - self._no_replays
        self._no_replays += 1
        return replays

    def take_back(self) -> None:
        """Take one replay back."""
        self._no_replays += 1


@dataclass(eq=False)
class OpenCapture:
    """A capture under way: the fact that it will be, and what is needed until then."""

    fact: Capture
    in_context: bool
    """It began in a ``with torch.cuda.graph(...)`` block."""
    outer: OpenCapture | None = None
    """The capture whose ``__enter__`` was under way on the thread before."""
    graph: weakref.ref[Any] | None = None
    """Known from ``capture_begin`` on."""
    handled_at_begin: int = 0
    """`id` of the exception that was being handled when the capture began."""
    body_error: BaseException | type[BaseException] | None = None
    """What the body raised, until the end has been tried and it can be described."""
    leaving_context: bool = False
    """The block is being left: that decides how it ended. Else ending the capture does."""
    ending: bool = False
    split_end: bool = False
    """Ended by ``capture_end_pre`` (torch >= 2.14) and not yet by ``capture_end_post``."""


class TrackedGraph:
    """What is known of one graph object."""

    __slots__ = (
        "_death",
        "captured_before",
        "counter",
        "finished",
        "former_series",
        "key",
        "open_capture",
        "series",
    )

    def __init__(self, graph: object, deaths: deque[TrackedGraph]) -> None:
        self.key = id(graph)
        self.counter = ReplayCounter()
        self.series: Series | None = None
        """Metric attributes while the graph is live, else None."""
        self.former_series: Series | None = None
        """Those it had when recording was paused: nobody knows what became of it meanwhile."""
        self.open_capture: OpenCapture | None = None
        self.finished: weakref.ref[Capture] | None = None
        """The last capture; the fact itself lives until it has become a span."""
        self.captured_before = False
        self._death = weakref.ref(graph, lambda _: deaths.append(self))

    def graph(self) -> Any:
        """Return the graph object, or None where it has died."""
        return self._death()

    def count_replays(self) -> None:
        """Attach the counter to the graph."""
        setattr(self._death(), REPLAYS, self.counter.replays)

    def forget_replays(self) -> None:
        """Take the counter off the graph and start from zero: it may be captured anew."""
        self.counter = ReplayCounter()
        graph = self._death()
        # Not through vars(): that would give the graph a dictionary of its own, for good,
        # and make each look-up on it slower.
        with contextlib.suppress(AttributeError):
            delattr(graph, REPLAYS)


class GraphRegistry:
    """Tracked graphs by identity. Not thread-safe: its owner holds the lock."""

    def __init__(self) -> None:
        self._tracked: dict[int, TrackedGraph] = {}
        self._deaths: deque[TrackedGraph] = deque()

    def find(self, graph: object) -> TrackedGraph | None:
        """Return what is known of `graph`; an entry of a dead graph at the same address is none."""
        tracked = self._tracked.get(id(graph))
        return tracked if tracked is not None and tracked.graph() is graph else None

    def track(self, graph: object) -> TrackedGraph:
        """Return the entry of `graph`, made where there is none."""
        tracked = self.find(graph)
        if tracked is None:
            tracked = TrackedGraph(graph, self._deaths)
            self._tracked[id(graph)] = tracked
        return tracked

    def take_dead(self) -> list[TrackedGraph]:
        """Remove and return the entries of graphs that have died since the last call."""
        dead = [self._deaths.popleft() for _ in range(len(self._deaths))]
        for entry in dead:
            if self._tracked.get(entry.key) is entry:
                del self._tracked[entry.key]
        return dead

    def __iter__(self) -> Iterator[TrackedGraph]:
        return iter(tuple(self._tracked.values()))
