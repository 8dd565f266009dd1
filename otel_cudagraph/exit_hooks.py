"""The last moments of a process, in which what was recorded is handed over.

An orderly end runs `atexit` hooks. A child that `multiprocessing` forked runs none
before Python 3.13, and later none that its parent registered: there the library's
own finalizers are the place, and nobody but us lets the exporters deliver.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import TYPE_CHECKING, Any

from otel_cudagraph._guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

_DELIVER_S = 2.0
"""Longest that a forked child's end waits for a delivery; a dead endpoint takes the SDK 10 s and more."""
_CHILDREN_RUN_ATEXIT = sys.version_info >= (3, 13)
"""Whether forked children of `multiprocessing` run the `atexit` hooks that they registered themselves."""
_PRIORITY = 100
"""Of the `multiprocessing` finalizer: before those of the library itself, at 10 and below."""


class ExitHooks:
    """Calls `hand_over` when the process ends, and `deliver` where no exporter would."""

    def __init__(self, hand_over: Callable[[], None], deliver: Callable[[], object]) -> None:
        self._hand_over = hand_over
        self._deliver = deliver
        self._at_exit = hand_over
        self._finalizer: Any = None

    def register(self) -> None:
        """Register anew, so that ours runs before the hooks of providers set up meanwhile.

        Exit hooks run last in, first out.
        """
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def register_in_child(self, *, is_forked: bool) -> None:
        """Register with `multiprocessing`, in a child of it that was forked. Once per process.

        Args:
            is_forked: This process was forked after it had loaded us.
        """
        library = sys.modules.get("multiprocessing.util")
        if library is None or sys.modules["multiprocessing"].parent_process() is None:
            return
        if _CHILDREN_RUN_ATEXIT:
            if is_forked:  # a provider that it inherited has no hook in it
                atexit.unregister(self._at_exit)
                self._at_exit = self._finalize
        # A spawned child is a program of its own, and ends like one; the fork server's are forked.
        elif is_forked or "--multiprocessing-fork" not in sys.orig_argv:
            self._finalizer = library.Finalize(None, self._finalize, exitpriority=_PRIORITY)

    def cancel(self) -> None:
        """Call nothing at the end."""
        atexit.unregister(self._at_exit)
        if self._finalizer is not None:
            self._finalizer.cancel()
            self._finalizer = None

    @guarded
    def _finalize(self) -> None:
        self._hand_over()
        thread = threading.Thread(target=self._deliver, name="otel-cudagraph-exit", daemon=True)
        thread.start()
        thread.join(_DELIVER_S)
