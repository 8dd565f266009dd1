"""The recording in force: where the public API and the adapters hand in what they know.

At most one installation is active in a process. Without one everything here does nothing.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from opentelemetry import context as otel_context

from otel_cudagraph._guard import guarded
from otel_cudagraph.clock import Anchor
from otel_cudagraph.scope import span_is_still_current

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.context import Context

    from otel_cudagraph.facts import Descriptor, Trigger
    from otel_cudagraph.ledger import Ledger
    from otel_cudagraph.triggers import TriggerRecorder

    OpenedTrigger: TypeAlias = tuple[TriggerRecorder, Trigger, Token[Context]]


class Recording(Protocol):
    """What an active installation offers."""

    triggers: TriggerRecorder
    ledger: Ledger


_recording: Recording | None = None


def set_recording(recording: Recording | None) -> None:
    """Make `recording` the one in force; None: nobody records."""
    global _recording  # noqa: PLW0603  one per process, by definition
    _recording = recording


def open_trigger(
    descriptor: Descriptor, function: str, *, simulated: bool = False, anchor: Anchor | None = None
) -> OpenedTrigger | None:
    """Open a trigger; None inside another trigger, and where nobody records."""
    if _recording is None:
        return None
    triggers = _recording.triggers
    opened = triggers.open(descriptor, function, simulated=simulated, anchor=anchor)
    return None if opened is None else (triggers, *opened)


def close_trigger(opened: OpenedTrigger | None, error: BaseException | None) -> None:
    """Close what `open_trigger` returned."""
    if opened is not None:
        triggers, trigger, token = opened
        triggers.close(trigger, token, error)


@guarded
def count_skip(engine: str, reason: str) -> None:
    """Count a capture that an engine refused; `reason` is one of a few classes."""
    if _recording is not None:
        _recording.ledger.skipped(engine, reason)


def call_in_trigger(
    opened: OpenedTrigger | None, function: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Call the host's `function` and close the trigger that was opened for it."""
    return call_and_close(partial(close_trigger, opened), function, args, kwargs)


def call_and_close(
    close: Callable[[BaseException | None], None], function: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Call the host's `function`, then `close` with what it raised."""
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        close(error)
        raise
    close(None)
    return result


@dataclass(eq=False)
class LateTrigger:
    """A call that will be a trigger once the engine has decided that there is something to capture.

    It then starts where the call did, unless the engine has opened a span of its own since.
    """

    descriptor: Descriptor
    function: str
    anchor: Anchor
    context: Context
    opened: OpenedTrigger | None = None
    has_ended: bool = False
    """A task that the call has left behind may still hold its context."""

    @guarded
    def open(self) -> None:
        """The engine has decided; only the first call counts."""
        if self.opened is None and not self.has_ended:
            anchor = self.anchor if span_is_still_current(self.context) else Anchor()
            self.opened = open_trigger(self.descriptor, self.function, anchor=anchor)

    @guarded
    def close(self, error: BaseException | None) -> None:
        """The call has ended."""
        self.has_ended = True
        close_trigger(self.opened, error)
        if self.opened is not None:
            # A span that the engine opened before the trigger, and closed before it, is current
            # again by closing the trigger: contexts are restored in the order of a stack.
            otel_context.attach(self.context)


late_trigger: ContextVar[LateTrigger | None] = ContextVar("otel_cudagraph_late_trigger", default=None)
"""The call under way that has not been decided yet."""


def expect_trigger() -> None:
    """Prepare for a trigger whose clock must not include that preparation."""
    if _recording is not None:
        _recording.triggers.expect()
