"""What surrounds a capture: the open trigger, and what the engine said of the graph to come."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_cudagraph._guard import guarded
from otel_cudagraph.config import environment_rank
from otel_cudagraph.facts import Descriptor

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_cudagraph.facts import Trigger

_TRIGGER_KEY = otel_context.create_key("otel_cudagraph.trigger")

batch_descriptor: ContextVar[Descriptor] = ContextVar("otel_cudagraph_batch_descriptor", default=Descriptor())  # noqa: B039  a tuple
"""What the engine said of the captures made by the current code."""


def with_trigger(trigger: Trigger, context: Context) -> Context:
    """Return `context` with `trigger` in it, so that it goes wherever the context is carried."""
    return otel_context.set_value(_TRIGGER_KEY, trigger, context)


def running_threads() -> frozenset[object]:
    """Return the threads that run now."""
    return frozenset(threading.enumerate())


class OpenTriggers:
    """The triggers under way in this process, oldest first."""

    def __init__(self) -> None:
        self._open: list[Trigger] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, trigger: Trigger) -> None:
        """Note that `trigger` is under way."""
        self._open.append(trigger)

    def remove(self, trigger: Trigger) -> None:
        """Note that `trigger` has ended."""
        self._open.remove(trigger)

    def take_all(self) -> list[Trigger]:
        """Forget and return all of them."""
        taken, self._open = self._open, []
        return taken

    def __contains__(self, trigger: object) -> bool:
        return trigger in self._open

    def carried(self) -> Trigger | None:
        """Return the open trigger that the current context carries."""
        if not self._open:
            return None
        trigger = otel_context.get_value(_TRIGGER_KEY)
        return next((each for each in self._open if each is trigger), None)

    def current(self) -> Trigger | None:
        """Return the open trigger that the calling code captures for.

        New threads start with an empty context, so a thread that did not run yet
        when a trigger opened counts as started by it (vLLM captures micro-batches
        in such threads). Threads that ran before, a server's, do not.
        """
        if not self._open:
            return None
        carried = self.carried()
        if carried is not None:
            return carried
        thread = threading.current_thread()
        return next((trigger for trigger in reversed(self._open) if thread not in trigger.threads), None)


def span_is_still_current(context: Context) -> bool:
    """Return whether the current span is the one of `context`."""
    current = trace.get_current_span()
    return current.get_span_context() == trace.get_current_span(context).get_span_context()


@guarded
def global_rank() -> int | None:
    """Return the rank in `torch.distributed`, or ``RANK``, or None. Imports nothing."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return environment_rank()
