"""Turns what the choke point reports into facts: which capture is open, how it ended, whose it is.

Makes no span, no metric point and no CUDA call between the begin and the end of a
capture. Every method that a patched method calls is guarded.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_cudagraph._guard import guarded
from otel_cudagraph.attribution import known_caller
from otel_cudagraph.clock import Anchor, now_ns
from otel_cudagraph.devices import DeviceTable
from otel_cudagraph.facts import ABANDONED, Capture, Descriptor, Failure
from otel_cudagraph.frames import calling_frame, function_name
from otel_cudagraph.graphs import OpenCapture
from otel_cudagraph.scope import batch_descriptor, global_rank
from otel_cudagraph.semconv import ENGINE, ENGINE_TORCH, PURPOSE, SIMULATED, Phase, Purpose

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cudagraph.facts import Device, Trigger
    from otel_cudagraph.families import GraphFamily
    from otel_cudagraph.ledger import Ledger
    from otel_cudagraph.outbox import Outbox
    from otel_cudagraph.recaptures import CapturedKeys
    from otel_cudagraph.scope import OpenTriggers

_MODES_OF_A_GRAPH = frozenset({"FULL", "PIECEWISE"})
"""Runtime modes that one graph can have; an engine's configured mode may mix them."""


class _Entering(threading.local):
    """The capture whose ``__enter__`` runs on this thread."""

    capture: OpenCapture | None = None


class CaptureRecorder:
    """Keeps the captures under way."""

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        open_triggers: OpenTriggers,
        captured_keys: CapturedKeys,
        *,
        count_replays: bool,
    ) -> None:
        self.active = True
        """Whether captures are recorded: patches that could not be taken back look here."""
        self._ledger = ledger
        self._outbox = outbox
        self._open_triggers = open_triggers
        self._captured_keys = captured_keys
        self._count_replays = count_replays
        self._devices = DeviceTable()
        self._at_deactivation: list[Callable[[], None]] = []
        self.reset()

    def reset(self) -> None:
        """Forget every capture under way."""
        self._entering = _Entering()
        self._contexts: dict[int, OpenCapture] = {}
        self._recording: set[OpenCapture] = set()

    def deactivate(self) -> None:
        """Record nothing more, for good."""
        self.active = False
        while self._at_deactivation:
            self._at_deactivation.pop()()
        self.reset()

    def when_deactivated(self, act: Callable[[], None]) -> None:
        """Let `act` switch off a patch that cannot afford to look at `active`."""
        self._at_deactivation.append(act)

    @property
    def busy(self) -> bool:
        """Whether a capture or a trigger is under way, so that others should keep off the GIL."""
        self.close_abandoned()
        return bool(self._recording or self._open_triggers)

    @property
    def is_capturing(self) -> bool:
        """Whether a capture is open."""
        return bool(self._recording)

    # The capture context, ``with torch.cuda.graph(...)``.

    @guarded
    def context_entering(self, family: GraphFamily, context: object) -> OpenCapture | None:
        """Start the clock before the context synchronises and empties the cache."""
        if not self.active:
            return None
        graph = getattr(context, "cuda_graph", context)  # torch.accelerator.Graph is its own context
        capture = self._new_capture(family, graph, in_context=True)
        capture.outer, self._entering.capture = self._entering.capture, capture
        return capture

    @guarded
    def context_entered(self, capture: OpenCapture, context: object) -> None:
        """Tie the capture to its context. One that began no capture we know of is dropped."""
        self._entering.capture = capture.outer
        if capture.graph is not None:
            self._contexts[id(context)] = capture

    @guarded
    def context_enter_failed(self, capture: OpenCapture, error: BaseException) -> None:
        """Close a capture whose preparation or begin raised."""
        self._entering.capture = capture.outer
        self._leave(capture)
        self._finish(capture, error)

    @guarded
    def context_exiting(
        self,
        context: object,
        error_type: type[BaseException] | None = None,
        error: BaseException | None = None,
        *_: object,
    ) -> OpenCapture | None:
        """Take note of what the body raised, before ending the capture raises something else."""
        capture = self._contexts.pop(id(context), None)
        if capture is not None:
            capture.leaving_context = True
            capture.body_error = error_type if error is None else error
        return capture

    @guarded
    def context_exited(self, capture: OpenCapture, error: BaseException | None = None) -> None:
        """Close a capture whose block has been left."""
        self._finish(capture, error)

    # The graph itself.

    @guarded
    def beginning(self, family: GraphFamily, graph: object, pool: object) -> OpenCapture | None:
        """Gather what must be known before the capture begins; the clock is read last."""
        if not self.active:
            return None
        self.close_abandoned()
        capture = self._entering.capture
        if capture is None or capture.graph is not None:
            capture = self._new_capture(family, graph, in_context=False)
        fact = capture.fact
        capture.graph = weakref.ref(graph)
        capture.handled_at_begin = id(sys.exc_info()[1])
        fact.device = self._current_device(family)
        fact.pool_id = _pool_id(pool)
        fact.descriptor = self._with_recapture(fact, graph)
        fact.record_started_ns = now_ns()
        return capture

    @guarded
    def begun(self, capture: OpenCapture, graph: object) -> None:
        """Note that the stream is capturing."""
        self._recording.add(capture)
        self._ledger.capture_began(graph, capture)

    @guarded
    def begin_failed(self, capture: OpenCapture, error: BaseException) -> None:
        """Close a capture that did not begin, unless the context around it will."""
        if not capture.in_context:
            self._finish(capture, error)

    @guarded
    def ending(self, graph: object) -> OpenCapture | None:
        """Stop the record clock; None where this end is part of another or began unseen."""
        ended_ns = now_ns()
        capture = self._ledger.open_capture(graph)
        if capture is None or capture.ending:
            return None
        capture.ending = True
        capture.fact.record_ended_ns = ended_ns
        if not capture.leaving_context:
            capture.body_error = _raised_since_begin(capture)
        return capture

    @guarded
    def split_ended(self, capture: OpenCapture) -> None:
        """Note that ``capture_end_pre`` returned: ``capture_end_post`` decides."""
        capture.split_end = True

    @guarded
    def finalizing(self, graph: object) -> OpenCapture | None:
        """Return the capture that ``capture_end_post`` ends, None inside a ``capture_end``."""
        capture = self._ledger.open_capture(graph)
        return capture if capture is not None and capture.split_end else None

    @guarded
    def ended(self, capture: OpenCapture, error: BaseException | None = None) -> None:
        """Note how ending the capture went: the outcome, unless a block is being left."""
        capture.fact.instantiated_ns = now_ns()
        self._leave(capture)
        if not capture.leaving_context:
            self._finish(capture, error)

    @guarded
    def instantiating(self, graph: object) -> tuple[Capture, int] | None:
        """Start the clock of an `instantiate` after the capture (``keep_graph=True``).

        None inside the end of a capture, whose time includes it, and for a capture
        whose span has been made: no time can be added to that.
        """
        capture = self._ledger.finished_capture(graph) if self.active else None
        return None if capture is None else (capture, now_ns())

    @guarded
    def instantiated(self, timing: tuple[Capture, int]) -> None:
        """Add an `instantiate` after the capture to its time."""
        capture, started_ns = timing
        capture.later_instantiate_ns += now_ns() - started_ns

    @guarded
    def was_reset(self, graph: object) -> None:
        """Note that `graph` is empty; a capture still open on it is abandoned."""
        capture = self._ledger.graph_reset(graph)
        if capture is not None:
            self._abandon(capture)

    @guarded
    def close_abandoned(self) -> None:
        """Close the captures of graphs that died before their end."""
        for capture in self._ledger.take_abandoned():
            self._abandon(capture)

    @guarded
    def replay_failed(self, graph: object) -> None:
        """Take back the count of a replay that raised."""
        self._ledger.replay_failed(graph)

    @guarded
    def replayed_unseen(self, family: GraphFamily, graph: object) -> None:
        """Count a replay of a graph that was not seen captured."""
        if self.active:
            series: list[tuple[str, Any]] = [(ENGINE, ENGINE_TORCH), (PURPOSE, Purpose.SERVING.value)]
            if family.simulated:
                series.append((SIMULATED, True))
            self._ledger.adopt(graph, tuple(series))

    def _new_capture(self, family: GraphFamily, graph: object, *, in_context: bool) -> OpenCapture:
        trigger = self._open_triggers.current()
        if trigger is None:
            self._outbox.expect_facts()
        started_ns = now_ns()
        frame = calling_frame()
        fact = Capture(
            family=family.name,
            simulated=family.simulated,
            descriptor=batch_descriptor.get().over(known_caller(frame, graph)).over(_inherited(trigger)),
            function=function_name(frame),
            trigger=trigger,
            parent=_parent_context(trigger),
            started_ns=started_ns,
            rank=trigger.rank if trigger else global_rank(),
            anchor=trigger.anchor if trigger else Anchor(),
        )
        return OpenCapture(fact, in_context=in_context)

    @guarded
    def _current_device(self, family: GraphFamily) -> Device | None:
        return self._devices.current(family, may_query=not self._recording)

    def _with_recapture(self, fact: Capture, graph: object) -> Descriptor:
        if batch_descriptor.get().phase is not None:
            return fact.descriptor
        if self._ledger.captured_before(graph) or fact in self._captured_keys:
            return fact.descriptor._replace(phase=Phase.RECAPTURE)
        return fact.descriptor

    def _leave(self, capture: OpenCapture) -> None:
        self._recording.discard(capture)
        if (graph := _graph_of(capture)) is not None:
            self._ledger.close_capture(graph, capture)

    def _finish(self, capture: OpenCapture, error: BaseException | None) -> None:
        fact = capture.fact
        if fact.finished_ns is not None:
            return
        fact.finished_ns = now_ns()
        _describe_errors(capture, error)
        graph = _graph_of(capture)
        if fact.failure is None and graph is not None:
            self._count(fact, graph)
            _read_pool(fact, graph)
        self._hand_over(fact)

    @guarded
    def _count(self, fact: Capture, graph: object) -> None:
        self._ledger.captured(graph, fact, count_replays=self._count_replays)

    def _hand_over(self, fact: Capture) -> None:
        """Keep the fact with its open trigger, else give it away to become a span."""
        if fact.trigger is None or not fact.trigger.add(fact):
            self._outbox.put(fact)
            self._captured_keys.remember([fact])

    def _abandon(self, capture: OpenCapture) -> None:
        self._recording.discard(capture)
        capture.fact.failure = ABANDONED
        self._finish(capture, None)


def _inherited(trigger: Trigger | None) -> Descriptor:
    """Return what a capture takes over from its trigger where nothing nearer is known."""
    if trigger is None:
        return Descriptor(engine=ENGINE_TORCH, purpose=Purpose.SERVING, phase=Phase.RUNTIME)
    mode = trigger.descriptor.runtime_mode
    return trigger.descriptor._replace(runtime_mode=mode if mode in _MODES_OF_A_GRAPH else None)


def _parent_context(trigger: Trigger | None) -> otel_context.Context:
    """Return the current context, or the trigger's in a thread that has none of its own."""
    current = otel_context.get_current()
    if trigger is None or trace.get_current_span(current).get_span_context().is_valid:
        return current
    return trigger.context


def _raised_since_begin(capture: OpenCapture) -> BaseException | None:
    """Return the exception on whose way out a direct ``capture_end`` is called.

    In ``try: … finally: graph.capture_end()`` the end goes well although the body
    raised; the exception being handled then is another one than at the begin.
    """
    error = sys.exc_info()[1]
    return None if id(error) == capture.handled_at_begin else error


def _describe_errors(capture: OpenCapture, error: BaseException | None) -> None:
    """Note the root cause, which is what the body raised, and what the host sees instead of it."""
    fact = capture.fact
    root = error if capture.body_error is None else capture.body_error
    if root is not None:
        fact.failure = Failure.of(root)
    if error is not None and error is not root:
        fact.surfaced = Failure.of(error)
    capture.body_error = None


def _graph_of(capture: OpenCapture) -> Any:
    return capture.graph() if capture.graph is not None else None


@guarded
def _read_pool(fact: Capture, graph: Any) -> None:
    fact.pool_id = _pool_id(graph.pool())


def _pool_id(pool: object) -> str | None:
    """Return a pool as ``torch.cuda.memory_snapshot()`` shows it: ``(0, 1)``."""
    pool = getattr(pool, "id", pool)  # a torch.cuda.MemPool stands for its id
    return str(pool) if isinstance(pool, tuple) else None
