"""Time that never runs backwards inside a trace.

Durations come from the monotonic clock; a wall-clock anchor turns its readings
into the Unix times that spans carry. A wall clock that is set while graphs are
captured therefore moves a trace as a whole and tears nothing apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

now_ns = time.perf_counter_ns
"""The monotonic clock, in nanoseconds. All facts are stamped with it."""


@dataclass(frozen=True)
class Anchor:
    """One instant on both clocks, in nanoseconds."""

    monotonic_ns: int = field(default_factory=now_ns)
    unix_ns: int = field(default_factory=time.time_ns)

    def to_unix_ns(self, monotonic_ns: int) -> int:
        """Return the Unix time of a reading of `now_ns`."""
        return self.unix_ns + monotonic_ns - self.monotonic_ns


def seconds(duration_ns: int) -> float:
    """Return a duration in seconds, the unit of every figure on the wire."""
    return duration_ns / 1e9
