"""The counts, right at every moment: plain integers that observable instruments read.

A capture costs an addition here; reading them is the metric reader's work, on its
own thread. Holds no tracer, no meter, and makes no call into torch.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING

from otel_cudagraph.attributes import capture_series, trigger_series
from otel_cudagraph.graphs import GraphRegistry
from otel_cudagraph.semconv import ENGINE, SKIP_REASON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cudagraph.attributes import Series
    from otel_cudagraph.facts import Capture, Trigger
    from otel_cudagraph.graphs import OpenCapture, TrackedGraph


class Ledger:
    """Counts of one process for one meter provider; they outlive `uninstrument()`."""

    def __init__(self) -> None:
        self.active = False
        """Whether somebody records now: an inactive ledger adopts nothing."""
        self.reset()

    def reset(self) -> None:
        """Start from zero, as a forked child must: the parent's graphs and triggers are not its own."""
        # Reentrant: a signal handler or a finalizer may capture or reset a graph while we count.
        self._lock = threading.RLock()
        self._registry = GraphRegistry()
        self._triggers: Counter[Series] = Counter()
        self._active_triggers: Counter[Series] = Counter()
        self._captures: Counter[Series] = Counter()
        self._live: Counter[Series] = Counter()
        self._retired_replays: Counter[Series] = Counter()
        self._reported_replays: Counter[Series] = Counter()
        self._skips: Counter[Series] = Counter()
        self._abandoned: list[OpenCapture] = []

    def skipped(self, engine: str, reason: str) -> None:
        """Count a capture that an engine refused."""
        with self._lock:
            self._skips[((ENGINE, engine), (SKIP_REASON, reason))] += 1

    def trigger_started(self, trigger: Trigger) -> None:
        """Count a trigger, at the moment that the engine counts it."""
        series = trigger_series(trigger)
        with self._lock:
            self._triggers[series] += 1
            self._active_triggers[series] += 1

    def trigger_ended(self, trigger: Trigger) -> None:
        """Note that a trigger is no longer under way."""
        with self._lock:
            self._active_triggers[trigger_series(trigger)] -= 1

    def capture_began(self, graph: object, capture: OpenCapture) -> None:
        """Tie an open capture to its graph."""
        with self._lock:
            self._registry.track(graph).open_capture = capture

    def captured_before(self, graph: object) -> bool:
        """Return whether this very graph object held a capture before."""
        with self._lock:
            tracked = self._registry.find(graph)
            return tracked is not None and tracked.captured_before

    def open_capture(self, graph: object) -> OpenCapture | None:
        """Return the capture that is open on `graph`."""
        with self._lock:
            tracked = self._registry.find(graph)
            return tracked.open_capture if tracked else None

    def finished_capture(self, graph: object) -> Capture | None:
        """Return the last capture of `graph` while its fact has not become a span yet."""
        with self._lock:
            tracked = self._registry.find(graph)
            if tracked is None or tracked.open_capture is not None or tracked.finished is None:
                return None
            return tracked.finished()

    def close_capture(self, graph: object, capture: OpenCapture) -> None:
        """Note that `capture` is no longer open on `graph`, however it ended."""
        with self._lock:
            tracked = self._registry.find(graph)
            if tracked is not None and tracked.open_capture is capture:
                tracked.open_capture = None

    def captured(self, graph: object, capture: Capture, *, count_replays: bool) -> None:
        """Count a graph that was captured well; it is live from now on."""
        series = capture_series(capture)
        with self._lock:
            self._captures[series] += 1
            tracked = self._registry.track(graph)
            tracked.finished = weakref.ref(capture)
            self._enliven(tracked, series, count_replays=count_replays)

    def adopt(self, graph: object, series: Series) -> None:
        """Count a replay of a graph that was not seen captured, and know it as live from now on.

        Such a graph was captured before `instrument()`, or its body raised and
        the host replays it all the same.
        """
        with self._lock:
            tracked = self._registry.track(graph)
            self._enliven(tracked, tracked.series or tracked.former_series or series, count_replays=True)
            next(tracked.counter.replays)

    def replay_failed(self, graph: object) -> None:
        """Take back a replay that was counted before it raised."""
        with self._lock:
            tracked = self._registry.find(graph)
            if tracked is not None:
                tracked.counter.take_back()

    def graph_reset(self, graph: object) -> OpenCapture | None:
        """Note that `graph` holds no capture any more; return the one that was still open."""
        with self._lock:
            tracked = self._registry.find(graph)
            if tracked is None:
                return None
            tracked.former_series = None
            return self._retire(tracked)

    def take_abandoned(self) -> list[OpenCapture]:
        """Return the captures that were still open on graphs that have died."""
        with self._lock:
            self._reap()
            abandoned, self._abandoned = self._abandoned, []
            return abandoned

    def resume(self) -> None:
        """Count again; a graph that stayed alive since `pause` is known again by its next replay."""
        with self._lock:
            self.active = True

    def pause(self) -> None:
        """Stop counting, with what is counted so far; graphs carry nothing of ours any more."""
        with self._lock:
            self.active = False
            for tracked in self._registry:
                tracked.former_series = tracked.series or tracked.former_series
                self._retire(tracked)

    def triggers(self) -> Mapping[Series, int]:
        """Return the triggers so far."""
        return self._copy(self._triggers)

    def active_triggers(self) -> Mapping[Series, int]:
        """Return the triggers under way."""
        return self._copy(self._active_triggers)

    def captures(self) -> Mapping[Series, int]:
        """Return the graphs captured so far."""
        return self._copy(self._captures)

    def skips(self) -> Mapping[Series, int]:
        """Return the captures refused so far."""
        return self._copy(self._skips)

    def live_graphs(self) -> Mapping[Series, int]:
        """Return the graphs that exist."""
        with self._lock:
            self._reap()
            return dict(self._live)

    def replays(self) -> Mapping[Series, int]:
        """Return the replays so far."""
        with self._lock:
            self._reap()
            total = Counter(self._retired_replays)
            for tracked in self._registry:
                if tracked.series is not None:
                    total[tracked.series] += tracked.counter.value()
            # A replay that is under way and will raise is in it, and is taken back: the
            # sum must not fall for that, a fall would read as a restart.
            for series, replays in total.items():
                self._reported_replays[series] = max(replays, self._reported_replays[series])
            return dict(self._reported_replays)

    def _copy(self, counts: Counter[Series]) -> Mapping[Series, int]:
        with self._lock:
            return dict(counts)

    def _enliven(self, tracked: TrackedGraph, series: Series, *, count_replays: bool) -> None:
        if tracked.series is not None:
            self._retire(tracked)
        self._live[series] += 1
        tracked.series = series
        tracked.captured_before = True
        if count_replays:
            tracked.count_replays()

    def _retire(self, tracked: TrackedGraph) -> OpenCapture | None:
        """Take a graph out of the live ones, keep its replays, return its open capture."""
        if tracked.series is not None:
            self._live[tracked.series] -= 1
            self._retired_replays[tracked.series] += tracked.counter.value()
            tracked.forget_replays()
            tracked.series = None
        open_capture, tracked.open_capture = tracked.open_capture, None
        return open_capture

    def _reap(self) -> None:
        """Retire the graphs that have died since the last call."""
        for tracked in self._registry.take_dead():
            if (capture := self._retire(tracked)) is not None:
                self._abandoned.append(capture)
