"""Triggers and graphs as a test looks at them: small views of the spans, each capture with its trigger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_cudagraph import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_cudagraph.testing.received import Span


@dataclass(frozen=True, eq=False)
class _View:
    """What a trigger and a capture have in common."""

    span: Span

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the span."""
        return self.span.attributes

    @property
    def engine(self) -> str | None:
        """``cuda.graph.engine``."""
        return self.attributes.get(semconv.ENGINE)

    @property
    def mode(self) -> str | None:
        """``cuda.graph.runtime_mode``: of a graph its own, of a trigger the configured one."""
        return self.attributes.get(semconv.RUNTIME_MODE)

    @property
    def purpose(self) -> str | None:
        """``cuda.graph.purpose``."""
        return self.attributes.get(semconv.PURPOSE)

    @property
    def phase(self) -> str | None:
        """``cuda.graph.phase``."""
        return self.attributes.get(semconv.PHASE)

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.span.is_error

    @property
    def error_type(self) -> str | None:
        """``error.type``, the root cause's class, of what failed."""
        return self.attributes.get(semconv.ERROR_TYPE)

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self.span.duration_s


@dataclass(frozen=True, eq=False)
class CaptureTrigger(_View):
    """One attempt of a model runner to capture its graphs."""

    graphs: list[CapturedGraph] = field(default_factory=list, repr=False)
    """Every capture under it, failed ones too, in capture order."""

    @property
    def announced(self) -> int:
        """How many captures, failed ones too, it says to have had."""
        names = (semconv.CAPTURED, semconv.FAILED)
        return sum(self.attributes.get(name, 0) for name in names)

    def encloses(self, span: Span) -> bool:
        """Return whether `span` lies inside it in time."""
        return self.span.start_ns <= span.start_ns and span.end_ns <= self.span.end_ns


@dataclass(frozen=True, eq=False)
class CapturedGraph(_View):
    """One capture of a graph."""

    trigger: CaptureTrigger | None = field(default=None, repr=False)
    """The trigger that it belongs to, None outside one."""

    @property
    def key(self) -> str | None:
        """``cuda.graph.key``, the engine's own descriptor."""
        return self.attributes.get(semconv.KEY)

    @property
    def batch_size(self) -> int | None:
        """``cuda.graph.batch_size``."""
        return self.attributes.get(semconv.BATCH_SIZE)

    @property
    def num_tokens(self) -> int | None:
        """``cuda.graph.num_tokens``."""
        return self.attributes.get(semconv.NUM_TOKENS)

    @property
    def size(self) -> int | None:
        """``num_tokens``, else ``batch_size``."""
        return self.batch_size if self.num_tokens is None else self.num_tokens

    @property
    def label(self) -> str:
        """The key, else the function that captured."""
        return str(self.key or self.attributes.get(semconv.CODE_FUNCTION_NAME, self.span.name))


def triggers_and_graphs(spans: Sequence[Span]) -> tuple[list[CaptureTrigger], list[CapturedGraph]]:
    """Return the triggers and the captures among `spans`, each capture tied to its trigger."""
    by_id = {span.span_id: span for span in spans}
    triggers = {
        span.span_id: CaptureTrigger(span) for span in spans if span.name == semconv.SPAN_CAPTURE_TRIGGER
    }
    graphs = []
    for span in spans:
        if span.name == semconv.SPAN_CAPTURE:
            graph = CapturedGraph(span, _trigger_of(span, by_id, triggers))
            graphs.append(graph)
            if graph.trigger is not None:
                graph.trigger.graphs.append(graph)
    return list(triggers.values()), graphs


def _trigger_of(
    span: Span, by_id: dict[str, Span], triggers: dict[str, CaptureTrigger]
) -> CaptureTrigger | None:
    """Return the trigger above `span`; where an unseen span lies between, the one that it lies inside."""
    parent_id = span.parent_id
    while parent_id in by_id and parent_id not in triggers:
        parent_id = by_id[parent_id].parent_id
    if parent_id in triggers or not parent_id:
        return triggers.get(parent_id)
    return _enclosing(span, triggers.values())


def _enclosing(span: Span, triggers: Iterable[CaptureTrigger]) -> CaptureTrigger | None:
    # An engine's own span between the two may go to another provider than ours.
    same_trace = (trigger for trigger in triggers if trigger.span.trace_id == span.trace_id)
    return next((trigger for trigger in same_trace if trigger.encloses(span)), None)
