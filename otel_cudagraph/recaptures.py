"""Which keys have been captured before, so that the next capture of one is a recapture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cudagraph.facts import Capture


_MAX_KEYS = 100_000
"""An engine has some thousand; one that makes keys up must not fill the memory."""


class CapturedKeys:
    """Keys of successful captures, per family, device, engine, purpose and mode.

    A trigger's keys are remembered when it ends, not before: engines capture many
    graphs under one key in one go (one for each piece of the model).
    """

    def __init__(self) -> None:
        self._keys: set[tuple[object, ...]] = set()

    def remember(self, captures: Iterable[Capture]) -> None:
        """Remember the keys of those captures that went well."""
        if len(self._keys) < _MAX_KEYS:
            self._keys.update(
                _identity(capture)
                for capture in captures
                if capture.descriptor.key is not None and capture.failure is None
            )

    def clear(self) -> None:
        """Forget all of them."""
        self._keys.clear()

    def __contains__(self, capture: Capture) -> bool:
        return _identity(capture) in self._keys


def _identity(capture: Capture) -> tuple[object, ...]:
    descriptor = capture.descriptor
    device = capture.device.index if capture.device else None
    what = (descriptor.engine, descriptor.purpose, descriptor.runtime_mode, descriptor.key, descriptor.owner)
    return (capture.family, device, *what)
