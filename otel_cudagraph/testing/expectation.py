"""What a test expects of the captures in a block, and how what was captured differs from it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from otel_cudagraph import semconv
from otel_cudagraph.semconv import Phase, Purpose
from otel_cudagraph.testing.waterfall import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    from otel_cudagraph.testing.captured import CapturedGraph, CaptureTrigger

    Keys: TypeAlias = Sequence[str] | AbstractSet[str]

__tracebackhide__ = True  # pytest shows the test, not the lines in here that raise for it

T = TypeVar("T", bound="CapturedGraph | CaptureTrigger")

_ATTRIBUTES = {
    "engine": semconv.ENGINE,
    "mode": semconv.RUNTIME_MODE,
    "purpose": semconv.PURPOSE,
    "phase": semconv.PHASE,
}
_OF_TRIGGERS = ("engine", "purpose")
"""A trigger's mode is the configured one, and its phase says nothing of recaptures."""
_MAX_LISTED = 20


@dataclass(frozen=True)
class Filter:
    """Which captures count; None is any."""

    engine: str | None = None
    mode: str | None = None
    purpose: str | None = None
    phase: str | None = None

    @classmethod
    def of(cls, *, engine: object, mode: object, purpose: object, phase: object) -> Filter:
        """Check what a user gave.

        Raises:
            TypeError: `engine` or `mode` is no text.
            ValueError: `purpose` or `phase` is none of those that exist.
        """
        return cls(
            engine=_text("engine", engine),
            mode=_text("mode", mode),
            purpose=_one_of(Purpose, "purpose", purpose),
            phase=_one_of(Phase, "phase", phase),
        )

    def why_not(self, item: CapturedGraph | CaptureTrigger) -> str | None:
        """Return why `item` does not count, such as ``purpose=profiling``; None where it counts."""
        is_trigger = item.span.name == semconv.SPAN_CAPTURE_TRIGGER
        return self._mismatch(item.attributes, _OF_TRIGGERS if is_trigger else tuple(_ATTRIBUTES))

    def counted(self, items: Sequence[T]) -> list[T]:
        """Return those of `items` that count."""
        return [item for item in items if self.why_not(item) is None]

    def total(self, counts: Mapping[tuple[tuple[str, Any], ...], float], *, of_triggers: bool = False) -> int:
        """Return the sum of those series of a counter that count."""
        names = _OF_TRIGGERS if of_triggers else tuple(_ATTRIBUTES)
        return round(sum(n for series, n in counts.items() if self._mismatch(dict(series), names) is None))

    def __str__(self) -> str:
        given = ((name, getattr(self, name)) for name in _ATTRIBUTES)
        return ", ".join(f"{name}={value}" for name, value in given if value is not None) or "any purpose"

    def _mismatch(self, attributes: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
        for name in names:
            wanted, found = getattr(self, name), attributes.get(_ATTRIBUTES[name])
            if wanted not in (None, found):
                return f"{name}={found}"
        return None


@dataclass(frozen=True)
class Problem:
    """One way in which what was captured is not as expected."""

    text: str
    may_be_late: bool = False
    """More telemetry may settle it: what is missing may be on its way from another process."""


@dataclass(frozen=True)
class Expectation:
    """What `expect` was given; None is not checked."""

    triggers: int | None
    graphs: int | None
    failed: int | None
    filter: Filter
    keys: Keys | None
    largest_first: bool
    replays: int | None
    max_trigger_s: float | None

    def problems(
        self, triggers: list[CaptureTrigger], captures: list[CapturedGraph], replays: int
    ) -> list[Problem]:
        """Return how the triggers and captures that count differ from what is expected."""
        graphs = [capture for capture in captures if not capture.failed]
        return [
            *_number("triggers", self.triggers, len(triggers)),
            *_number("graphs", self.graphs, len(graphs)),
            *_number("failed", self.failed, len(captures) - len(graphs)),
            *_number("replays", self.replays, replays),
            *(self._failed_triggers(triggers) if self.failed == 0 else ()),
            *(_keys(self.keys, [graph.key for graph in graphs]) if self.keys is not None else ()),
            *(_order(graphs) if self.largest_first else ()),
            *self._slow_triggers(triggers),
        ]

    def __str__(self) -> str:
        given = ((each.name, getattr(self, each.name)) for each in fields(self) if each.name != "filter")
        parts = [
            f"{name}={listed(value) if name == 'keys' else value}"
            for name, value in given
            if value is not None and value is not False
        ]
        return f"{', '.join(parts)} ({self.filter})"

    def _failed_triggers(self, triggers: list[CaptureTrigger]) -> Iterator[Problem]:
        for trigger in triggers:
            # Where a capture that counts failed it, that is said already.
            if trigger.failed and not any(graph.failed for graph in self.filter.counted(trigger.graphs)):
                yield Problem(f"a trigger failed: {trigger.error_type}")

    def _slow_triggers(self, triggers: list[CaptureTrigger]) -> Iterator[Problem]:
        limit = self.max_trigger_s
        if limit is None:
            return
        if not triggers:
            yield Problem(f"max_trigger_s={limit:g}: there was no trigger to measure", may_be_late=True)
        for trigger in triggers:
            if trigger.duration_s > limit:
                took = format_duration(trigger.duration_s)
                yield Problem(f"max_trigger_s: expected at most {limit:g} s, a trigger took {took}")


def count(name: str, value: object) -> int | None:
    """Return a number of things that a user gave.

    Raises:
        ValueError: it is negative.
        TypeError: it is no whole number.
    """
    if value is None:
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # NumPy's integers are welcome
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is no number; use a whole number from 0, or None for any")
    if number < 0:
        raise ValueError(f"{name}={number} is negative; use a whole number from 0, or None for any")
    return number


def seconds(name: str, value: object) -> float:
    """Return a time that a user gave.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is no number; use seconds above 0")
    if not value > 0:
        raise ValueError(f"{name}={value!r} is no time; use seconds above 0")
    return value


def keys(value: object) -> Keys | None:
    """Return the keys that a user gave.

    Raises:
        TypeError: they are no list, tuple or set of texts.
    """
    if value is None:
        return None
    accepted = "use a list of texts (exactly these, in capture order) or a set (these, however often)"
    if isinstance(value, str) or not isinstance(value, (Sequence, AbstractSet)):
        raise TypeError(f"keys={value!r} is neither list nor set; {accepted}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{key!r} in keys is no text; {accepted}")
    return value


def listed(items: Keys | Sequence[str | None]) -> str:
    """Return the first of `items`, and how many more there are."""
    texts = [str(item) for item in (sorted(items) if isinstance(items, AbstractSet) else items)]
    more = f", … and {len(texts) - _MAX_LISTED:,} more" if len(texts) > _MAX_LISTED else ""
    text = ", ".join(texts[:_MAX_LISTED]) + more
    return f"{{{text}}}" if isinstance(items, AbstractSet) else f"[{text}]"


def unexpected_keys(expected: Keys, seen: Sequence[str | None]) -> Counter[str | None]:
    """Return the keys that were seen and not expected, or more often than that."""
    if isinstance(expected, AbstractSet):
        return Counter(key for key in seen if key not in expected)
    return Counter(seen) - Counter(expected)


def _text(name: str, value: object) -> str | None:
    if isinstance(value, Enum):
        return value.name
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is no text; use one, or None for any")
    return value


def _one_of(enum: type[Purpose | Phase], name: str, value: object) -> str | None:
    try:
        return None if value is None else enum(value).value
    except ValueError:
        accepted = ", ".join(member.value for member in enum)
        raise ValueError(f"{name}={value!r} is not known; use one of: {accepted}; or None for any") from None


def _number(name: str, expected: int | None, seen: int) -> Iterator[Problem]:
    if expected not in (None, seen):
        yield Problem(f"{name}: expected {expected}, saw {seen}", may_be_late=seen < (expected or 0))


def _keys(expected: Keys, seen: list[str | None]) -> Iterator[Problem]:
    missing = Counter[str | None](expected) - Counter(seen)
    unexpected = unexpected_keys(expected, seen)
    if missing:
        yield Problem(f"missing keys: {listed(list(missing.elements()))}", may_be_late=not unexpected)
    if unexpected:
        yield Problem(f"unexpected keys: {listed(list(unexpected.elements()))}")
    if not missing and not unexpected and not isinstance(expected, AbstractSet) and list(expected) != seen:
        yield Problem(f"keys in another order: expected {listed(expected)}, saw {listed(seen)}")


def _order(graphs: list[CapturedGraph]) -> Iterator[Problem]:
    """Check each mode of each trigger by itself: engines capture one mode after the other."""
    if not graphs:
        yield Problem("largest_first: there was no graph to look at", may_be_late=True)
    groups: dict[object, list[CapturedGraph]] = {}
    for graph in graphs:
        groups.setdefault((graph.trigger, graph.mode), []).append(graph)
        if graph.size is None:
            yield Problem(f"largest_first: {graph.label} says neither num_tokens nor batch_size")
    for group in groups.values():
        for earlier, later in pairwise(group):
            if (earlier.size or 0) < (later.size or 0):
                yield Problem(f"largest_first: {earlier.label} was captured before {later.label}")
