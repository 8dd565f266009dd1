"""What was captured in one block, whether telemetry agrees with itself, and how a failure reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from otel_cudagraph import semconv
from otel_cudagraph.testing.captured import triggers_and_graphs
from otel_cudagraph.testing.expectation import Filter, Problem, unexpected_keys
from otel_cudagraph.testing.waterfall import waterfall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from otel_cudagraph.testing.captured import CapturedGraph, CaptureTrigger
    from otel_cudagraph.testing.expectation import Expectation
    from otel_cudagraph.testing.received import Received, Span

    Counts: TypeAlias = Counter[tuple[tuple[str, Any], ...]]

__tracebackhide__ = True  # pytest shows the test, not the lines in here that raise for it


def counts(received: Received, metric: str) -> Counts:
    """Return the value of each series of a counter, summed over processes."""
    totals: Counts = Counter()
    for point in received.points(metric):
        totals[tuple(sorted(point.attributes.items()))] += point.value  # type: ignore[assignment]
    return totals


@dataclass(frozen=True)
class Start:
    """What there was when a block began."""

    span_ids: frozenset[str] = frozenset()
    """The spans that had been received."""
    replays: Counts = field(default_factory=Counter)
    time_ns: int = 0
    """When it began, in Unix nanoseconds, where spans that ended before may still be on their way."""

    @classmethod
    def of(cls, received: Received, time_ns: int = 0) -> Start:
        """Look at what has been received."""
        ids = frozenset(span.span_id for span in received.spans())
        return cls(ids, counts(received, semconv.METRIC_REPLAYS), time_ns)

    def precedes(self, item: CaptureTrigger | CapturedGraph) -> bool:
        """Return whether `item` is of the block; a capture is where its trigger is."""
        span = (getattr(item, "trigger", None) or item).span
        return span.span_id not in self.span_ids and span.end_ns >= self.time_ns


class Block:
    """What was captured in a block, as of one moment."""

    def __init__(self, received: Received, start: Start) -> None:
        self.spans = received.spans()
        self.all_triggers, self.all_captures = triggers_and_graphs(self.spans)
        self.triggers = [trigger for trigger in self.all_triggers if start.precedes(trigger)]
        self.captures = [capture for capture in self.all_captures if start.precedes(capture)]
        self.replays = counts(received, semconv.METRIC_REPLAYS)
        self.replays.subtract(start.replays)
        self.open_triggers = sum(counts(received, semconv.METRIC_CAPTURE_TRIGGER_ACTIVE).values())
        self._has_counters = any(name.startswith("cuda.graph.") for name in received.metrics())
        """Whether anybody sent metrics: a process may export its traces alone."""
        self._counters = {
            name: counts(received, name)
            for name in (semconv.METRIC_CAPTURE_TRIGGERS, semconv.METRIC_CAPTURES)
        }

    def contradictions(self, counting: Filter) -> list[Problem]:
        """Return where what was received contradicts itself."""
        if self.open_triggers:
            text = f"{self.open_triggers:g} capture trigger(s) still under way when the block ended"
            return [Problem(text, may_be_late=True)]
        return [*self._outside_their_trigger(), *self._announced(), *self._miscounted(counting)]

    def _outside_their_trigger(self) -> Iterator[Problem]:
        for capture in self.captures:
            if capture.trigger is not None and not capture.trigger.encloses(capture.span):
                yield Problem(f"the capture {capture.label} lies outside its trigger in time")

    def _announced(self) -> Iterator[Problem]:
        for trigger in self.triggers:
            announced, seen = trigger.announced, len(trigger.graphs)
            if announced != seen:
                text = f"a trigger says that it had {announced} capture(s), there are {seen} below it"
                yield Problem(text, may_be_late=seen < announced)

    def _miscounted(self, counting: Filter) -> Iterator[Problem]:
        """Compare the counters with all spans of the test: what an earlier block had is in both."""
        captured = [capture for capture in self.all_captures if not capture.failed]
        for name, seen in (
            (semconv.METRIC_CAPTURE_TRIGGERS, len(counting.counted(self.all_triggers))),
            (semconv.METRIC_CAPTURES, len(counting.counted(captured))),
        ):
            total = counting.total(self._counters[name], of_triggers=name == semconv.METRIC_CAPTURE_TRIGGERS)
            if total != seen and self._has_counters:
                text = f"the counter {name} says {total}, there are {seen} such spans since the test began"
                yield Problem(text, may_be_late=True)


class Captured:
    """What was captured in a block of `expect`; known once the block has ended."""

    def __init__(self, expectation: Expectation) -> None:
        self._expectation = expectation
        self._block: Block | None = None

    @property
    def graphs(self) -> list[CapturedGraph]:
        """Graphs captured well that count for this expectation, in capture order."""
        return [capture for capture in self._counted if not capture.failed]

    @property
    def failures(self) -> list[CapturedGraph]:
        """Captures that failed and count for this expectation."""
        return [capture for capture in self._counted if capture.failed]

    @property
    def triggers(self) -> list[CaptureTrigger]:
        """Triggers that count for this expectation, oldest first."""
        return self._expectation.filter.counted(self._ended.triggers)

    @property
    def captures(self) -> list[CapturedGraph]:
        """Every capture in the block: of any purpose, failed or not."""
        return self._ended.captures

    def replays(
        self,
        *,
        engine: str | None = None,
        mode: str | None = None,
        purpose: str | None = "serving",
        phase: str | None = None,
    ) -> int:
        """Return how many replays the block had of such graphs; the parameters are those of `expect`.

        Raises:
            TypeError: `engine` or `mode` is no text.
            ValueError: `purpose` or `phase` is none of those that exist.
        """
        counting = Filter.of(engine=engine, mode=mode, purpose=purpose, phase=phase)
        return counting.total(self._ended.replays)

    def show(self) -> str:
        """Return the waterfall of everything in the block, with what does not count marked."""
        block = self._ended
        spans = [
            *(trigger.span for trigger in block.triggers),
            *(_below_its_trigger(capture) for capture in block.captures),
        ]
        spans.sort(key=lambda span: span.start_ns)
        return "\n".join(line.text for line in waterfall(spans, notes=self._notes()))

    def update(self, block: Block) -> None:
        """Look at what was captured as of now."""
        self._block = block

    def problems(self) -> list[Problem]:
        """Return how the block differs from what is expected, contradictions first."""
        expected = self._expectation
        return [
            *self._ended.contradictions(expected.filter),
            *expected.problems(self.triggers, self._counted, expected.filter.total(self._ended.replays)),
        ]

    def failure(self, problems: list[Problem], hints: list[str]) -> str:
        """Return what a failed test says; `hints` where nothing was captured at all."""
        seen = (
            f"triggers={len(self.triggers)}, graphs={len(self.graphs)}, failed={len(self.failures)}, "
            f"replays={self._expectation.filter.total(self._ended.replays)}"
        )
        lines = [
            "the captures are not as expected",
            f"expected: {self._expectation}",
            f"seen:     {seen}",
            *(f"- {problem.text}" for problem in problems),
            "",
        ]
        if self._ended.triggers or self._ended.captures:
            return "\n".join([*lines, "Everything captured in the block:", self.show()])
        return "\n".join([*lines, "Nothing was captured in the block. To check:", *(f"- {h}" for h in hints)])

    @property
    def _ended(self) -> Block:
        if self._block is None:
            raise RuntimeError("what was captured is known after the `with ...expect()` block, not inside it")
        return self._block

    @property
    def _counted(self) -> list[CapturedGraph]:
        return self._expectation.filter.counted(self._ended.captures)

    def _notes(self) -> dict[str, str]:
        """Return by span id why a line of the waterfall does not count."""
        why_not = self._expectation.filter.why_not
        reasons = {
            **{trigger.span.span_id: why_not(trigger) for trigger in self._ended.triggers},
            **{capture.span.span_id: why_not(capture) for capture in self._ended.captures},
        }
        notes = {span_id: f"not counted: {reason}" for span_id, reason in reasons.items() if reason}
        return notes | self._notes_of_keys()

    def _notes_of_keys(self) -> dict[str, str]:
        if self._expectation.keys is None:
            return {}
        unexpected = unexpected_keys(self._expectation.keys, [graph.key for graph in self.graphs])
        # Of a key that came too often the last ones are too many.
        notes = {}
        for graph in reversed(self.graphs):
            if unexpected[graph.key] > 0:
                unexpected[graph.key] -= 1
                notes[graph.span.span_id] = "unexpected key"
        return notes


def _below_its_trigger(capture: CapturedGraph) -> Span:
    """Return the span as a child of its trigger: what lies between them is not shown."""
    trigger = capture.trigger
    return capture.span if trigger is None else replace(capture.span, parent_id=trigger.span.span_id)
