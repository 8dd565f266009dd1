"""Opens and closes triggers: their context, their parent, their outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_cudagraph._guard import guarded
from otel_cudagraph.attributes import trigger_start_attributes
from otel_cudagraph.clock import Anchor, now_ns
from otel_cudagraph.config import trace_carrier
from otel_cudagraph.facts import NEVER_ENDED, Failure, Trigger
from otel_cudagraph.scope import OpenTriggers, global_rank, running_threads, with_trigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_cudagraph.attributes import Attributes
    from otel_cudagraph.facts import Descriptor
    from otel_cudagraph.ledger import Ledger
    from otel_cudagraph.outbox import Outbox
    from otel_cudagraph.recaptures import CapturedKeys
    from otel_cudagraph.telemetry import Telemetry


class TriggerRecorder:
    """Keeps the triggers under way."""

    def __init__(
        self, ledger: Ledger, telemetry: Telemetry, outbox: Outbox, captured_keys: CapturedKeys
    ) -> None:
        self.open_triggers = OpenTriggers()
        self._captured_keys = captured_keys
        self._ledger = ledger
        self._telemetry = telemetry
        self._outbox = outbox

    def reset(self) -> None:
        """Forget every trigger under way; one that is closed later is dropped."""
        self.open_triggers.take_all()

    @guarded
    def expect(self) -> None:
        """Prepare for the facts to come, before a clock starts."""
        self._outbox.expect_facts()

    @guarded
    def open(
        self, descriptor: Descriptor, function: str, *, simulated: bool, anchor: Anchor | None = None
    ) -> tuple[Trigger, Token[Context]] | None:
        """Open a trigger and make its span the current one.

        Args:
            descriptor: What is known of it.
            function: ``code.function.name``.
            simulated: Its graphs are a stand-in's.
            anchor: When it started; None is now.

        Returns:
            The trigger and the token that restores the context, or None inside an
            open trigger: a part of an attempt is no attempt of its own.
        """
        if self.open_triggers.carried() is not None:
            return None
        self._outbox.expect_facts()
        anchor, rank = anchor or Anchor(), global_rank()
        parent = _parent_context()
        attributes = trigger_start_attributes(descriptor, function, rank, simulated=simulated)
        span = self._start_span(parent, anchor.unix_ns, attributes)
        trigger = Trigger(
            descriptor=descriptor,
            simulated=simulated,
            span=span,
            context=parent if span is None else trace.set_span_in_context(span, parent),
            started_ns=anchor.monotonic_ns,
            anchor=anchor,
            threads=running_threads(),
            rank=rank,
        )
        self._ledger.trigger_started(trigger)
        self.open_triggers.add(trigger)
        return trigger, otel_context.attach(with_trigger(trigger, trigger.context))

    @guarded
    def close(self, trigger: Trigger, token: Token[Context], error: BaseException | None) -> None:
        """Close a trigger; its spans are made away from this thread."""
        trigger.finished_ns = now_ns()
        otel_context.detach(token)
        if trigger in self.open_triggers:  # else the parent of this forked process opened it
            self.open_triggers.remove(trigger)
            if error is not None:
                _note_error(trigger, error)
            self._finish(trigger)

    @guarded
    def close_at_exit(self) -> None:
        """Close the triggers that never ended, on threads that the exit does not wait for."""
        for trigger in self.open_triggers.take_all():
            trigger.finished_ns = now_ns()
            trigger.failure = NEVER_ENDED
            self._finish(trigger)

    def _finish(self, trigger: Trigger) -> None:
        trigger.close()
        trigger.threads = frozenset()
        self._ledger.trigger_ended(trigger)
        self._outbox.put(*trigger.captures, trigger)
        self._captured_keys.remember(trigger.captures)

    @guarded
    def _start_span(self, parent: Context, start_unix_ns: int, attributes: Attributes) -> Span:
        return self._telemetry.start_trigger_span(parent, start_unix_ns, attributes)


def _parent_context() -> Context:
    """Return the current context, with the environment's trace where no span is current."""
    current = otel_context.get_current()
    if trace.get_current_span(current).get_span_context().is_valid:
        return current
    return TraceContextTextMapPropagator().extract(trace_carrier(), current)


def _note_error(trigger: Trigger, error: BaseException) -> None:
    """Note what failed the trigger: the root cause that `error` comes or is made from.

    Engines let the error of a capture through, or raise their own from it
    (SGLang: "Capture cuda graph failed: …"); so, too, with an error of a warm-up run.
    """
    outcome = Failure.of(error)
    roots = {
        seen.identity: capture.failure
        for capture in trigger.captures
        for seen in (capture.failure, capture.surfaced)
        if seen is not None
    }
    links = (roots.get(id(link)) for link in _chain(error))
    root = next((root for root in links if root is not None), None)
    trigger.failure = root or Failure.of(_explicit_cause(error))
    if trigger.failure.identity != outcome.identity:
        trigger.surfaced = outcome


def _explicit_cause(error: BaseException) -> BaseException:
    """Return what `error` was raised from, and that from, …; what was merely being handled is no cause."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was raised from, each once: a chain may have a loop."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__
