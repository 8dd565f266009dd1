"""Acting when a module is imported, in a way that can be taken back."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

import wrapt

from otel_cudagraph._guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

_hooked: set[str] = set()
_watches: weakref.WeakSet[ImportWatch] = weakref.WeakSet()


class ImportWatch:
    """Calls back once a module has been imported, at once where it is already."""

    def __init__(self) -> None:
        self._awaited: dict[str, list[Callable[[], None]]] = {}
        _watches.add(self)

    def when_imported(self, module: str, act: Callable[[], None]) -> None:
        """Call `act` when `module` is imported. What it raises is logged only when it is called later."""
        if module in sys.modules:
            act()
            return
        self._awaited.setdefault(module, []).append(act)
        if module not in _hooked:
            # The hooks of wrapt cannot be taken back: one per module, which asks who watches.
            _hooked.add(module)
            wrapt.register_post_import_hook(lambda _: _imported(module), module)

    def close(self) -> None:
        """Call nothing any more."""
        self._awaited.clear()

    def imported(self, module: str) -> None:
        """Act on the import of `module`."""
        for act in self._awaited.pop(module, ()):
            _call(act)


@guarded
def _call(act: Callable[[], None]) -> None:
    act()


def _imported(module: str) -> None:
    _hooked.discard(module)
    for watch in list(_watches):
        watch.imported(module)
