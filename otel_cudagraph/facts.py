"""What happened, as plain data: no tracer, no torch, no reference to a graph or tensor.

While a trigger is open these are all that exists; `telemetry` makes spans and
histogram points of them afterwards. A figure that needs a measurement before and
after a capture (device memory, node count) belongs into `Capture`, filled by the
recorder outside ``capture_begin`` … ``capture_end``.
"""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from otel_cudagraph.clock import Anchor, now_ns
from otel_cudagraph.semconv import ERROR_ABANDONED, Phase, Purpose

if TYPE_CHECKING:
    from typing import TypeAlias

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    # Under a name: `type` is a field of Failure.
    ErrorClass: TypeAlias = type[BaseException]

_MAX_TEXT = 16_384
"""Characters that are kept: of a message the first, of a stack trace the last."""


class Descriptor(NamedTuple):
    """What an engine knows about the graph that it is about to capture; None is unknown."""

    engine: str | None = None
    purpose: Purpose | None = None
    phase: Phase | None = None
    runtime_mode: str | None = None
    key: str | None = None
    batch_size: int | None = None
    num_tokens: int | None = None
    owner: int | None = None
    """Tells graphs with the same key apart that are different ones; on no span."""

    def over(self, other: Descriptor) -> Descriptor:
        """Return `other` with every field that is known here taken from here."""
        pairs = zip(self, other, strict=True)
        return Descriptor._make(theirs if mine is None else mine for mine, theirs in pairs)


@dataclass(frozen=True)
class Device:
    """The device that a graph was captured on."""

    index: int
    hw_type: str
    hw_id: str | None = None
    """``GPU-<uuid>``, as NVML, DCGM and OpenLIT write it."""
    hw_name: str | None = None


@dataclass(frozen=True)
class Failure:
    """An exception as text, so that its traceback keeps no tensor alive."""

    type: str
    """Fully qualified class, without a module for builtins."""
    message: str = ""
    stacktrace: str = ""
    identity: int = 0
    """`id` of the exception: tells the same object again while it propagates."""

    @classmethod
    def of(cls, error: BaseException | ErrorClass) -> Failure:
        """Describe `error`, also one whose ``str()`` raises.

        Never while a capture is open: an exception may hold a tensor, and printing
        that waits for the device, which would invalidate the capture.
        """
        if isinstance(error, type):
            return cls(_qualified_name(error))
        return cls(_qualified_name(type(error)), _message(error), _stacktrace(error), id(error))


ABANDONED = Failure(ERROR_ABANDONED, "the capture began, and its graph was reset or destroyed before the end")
NEVER_ENDED = Failure(ERROR_ABANDONED, "the process ended before the trigger did")


def _qualified_name(error: type[BaseException]) -> str:
    return (
        error.__qualname__ if error.__module__ == "builtins" else f"{error.__module__}.{error.__qualname__}"
    )


def encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold: one lone surrogate would lose a whole export request."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _message(error: BaseException) -> str:
    try:
        return encodable(str(error)[:_MAX_TEXT])
    except Exception:  # noqa: BLE001  the exception is the host's, so is its __str__
        return "<the exception's own __str__ raised>"


def _stacktrace(error: BaseException) -> str:
    try:
        return encodable("".join(traceback.format_exception(error))[-_MAX_TEXT:])
    except Exception:  # noqa: BLE001  likewise
        return ""


@dataclass(eq=False)
class Capture:
    """One graph capture, from before its preparation to after its end. Times by `clock.now_ns`."""

    family: str
    simulated: bool
    descriptor: Descriptor
    function: str
    """``code.function.name`` of the code that captured."""
    trigger: Trigger | None
    parent: Context
    """The OpenTelemetry context in which the capture was made."""
    started_ns: int = field(default_factory=now_ns)
    record_started_ns: int | None = None
    record_ended_ns: int | None = None
    instantiated_ns: int | None = None
    finished_ns: int | None = None
    later_instantiate_ns: int = 0
    """Spent in ``instantiate()`` after the capture, with ``keep_graph=True``."""
    device: Device | None = None
    rank: int | None = None
    pool_id: str | None = None
    failure: Failure | None = None
    """The root cause: what the body raised, else what ending the capture raised."""
    surfaced: Failure | None = None
    """What the host saw, where that is another exception than the root cause."""
    anchor: Anchor = field(default_factory=Anchor)

    @property
    def prepare_ns(self) -> int:
        """Synchronise, collect garbage and empty the cache, before the capture."""
        return _between(self.started_ns, self.record_started_ns)

    @property
    def record_ns(self) -> int:
        """From the begin to the end of the capture."""
        return _between(self.record_started_ns, self.record_ended_ns)

    @property
    def instantiate_ns(self) -> int:
        """End the capture and instantiate the executable graph."""
        return _between(self.record_ended_ns, self.instantiated_ns) + self.later_instantiate_ns

    @property
    def duration_ns(self) -> int:
        """The whole capture."""
        return _between(self.started_ns, self.finished_ns)


def _between(start_ns: int | None, end_ns: int | None) -> int:
    return 0 if start_ns is None or end_ns is None else end_ns - start_ns


@dataclass(eq=False)
class Trigger:
    """One top-level attempt of a model runner to capture its graphs."""

    descriptor: Descriptor
    simulated: bool
    span: Span | None
    """None where a sampler or processor raised: the trigger counts all the same."""
    context: Context
    """The context in which the trigger's span is the current one."""
    started_ns: int
    anchor: Anchor
    threads: frozenset[object]
    """The threads that ran when it opened; any other was started since."""
    rank: int | None = None
    finished_ns: int | None = None
    failure: Failure | None = None
    """The root cause; of a failed capture, what its body raised."""
    surfaced: Failure | None = None
    """What the host saw, where that is another exception than the root cause."""
    captures: list[Capture] = field(default_factory=list)
    _is_closed: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, capture: Capture) -> bool:
        """Keep a finished capture; False where the trigger has ended meanwhile."""
        with self._lock:
            if not self._is_closed:
                self.captures.append(capture)
            return not self._is_closed

    def close(self) -> None:
        """Take no more captures."""
        with self._lock:
            self._is_closed = True

    @property
    def captured(self) -> int:
        """Graphs captured well under this trigger so far."""
        return sum(capture.failure is None for capture in self.captures)

    @property
    def failed(self) -> int:
        """Captures that failed under this trigger so far."""
        return len(self.captures) - self.captured

    @property
    def duration_ns(self) -> int:
        """The whole trigger."""
        return _between(self.started_ns, self.finished_ns)
