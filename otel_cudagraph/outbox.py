"""Hands facts over to the SDK on a thread of its own, when nobody captures.

An export thread that takes the GIL in the middle of somebody's capture makes that
capture up to 1.5 times as long, so facts wait here until captures and triggers
are over, `_HOLD_S` at most. A process that ends in an orderly way hands over the
rest at exit. What a kill can lose is bounded: an open trigger and its graphs,
what waited here (`_QUIET_S` after the last capture, `_HOLD_S` while others
capture), and what the SDK's own processor still held.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from otel_cudagraph._guard import guarded
from otel_cudagraph.clock import now_ns
from otel_cudagraph.exit_hooks import ExitHooks
from otel_cudagraph.facts import Capture
from otel_cudagraph.telemetry import flush_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_cudagraph.facts import Trigger
    from otel_cudagraph.telemetry import Telemetry

_QUIET_S = 0.05
"""Captures come in bursts: wait this long for the next one."""
_HOLD_S = 5.0
"""Longest wait for open captures and triggers to end; one of them may hang."""
_BATCH = 512
"""Spans handed over before the processor is asked to deliver them: the batch size
and a quarter of the queue of the SDK's batch span processor (OTEL_BSP_MAX_QUEUE_SIZE)."""
_FLUSH_MILLIS = 10_000
_EXIT_S = 5.0
"""Longest wait at exit for a hand-over that another thread has begun."""

_logger = logging.getLogger(__name__)


class Outbox:
    """Facts that wait to become spans, and the thread that makes them."""

    def __init__(self, telemetry: Telemetry, max_pending: int) -> None:
        self.busy: Callable[[], bool] = lambda: False
        """Whether captures or triggers are under way."""
        self.at_exit: Callable[[], None] = lambda: None
        """Closes what is still open when the process ends."""
        self.before_first: Callable[[], object] = lambda: None
        """Called once per process, before its first capture or trigger. May return providers to flush."""
        self.handed_over: Callable[[Capture | Trigger], None] = lambda _: None
        """Told each fact that has become a span."""
        self._telemetry = telemetry
        self._max_pending = max_pending
        self._own_providers: Iterable[object] = ()
        """Set up for us, also by the parent of this forked process."""
        self._exit_hooks = ExitHooks(self._drain_at_exit, self._deliver_all)
        self.reset(is_forked=False)

    def reset(self, *, is_forked: bool) -> None:
        """Start empty and without a thread, as a forked child must."""
        self._pending: deque[Capture | Trigger] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._handing_over = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_ending = False
        """Whether the process ends: the providers' own exit hooks deliver now, and then take no more."""
        self._said_full = False
        self._is_ready = False
        self._is_forked = is_forked
        self._exit_hooks.register()

    def put(self, *facts: Capture | Trigger) -> None:
        """Take finished facts; returns at once."""
        room = self._max_pending - len(self._pending)
        if room < len(facts):
            self._say_full()
            # A trigger comes last and says how many graphs there were: it finds room.
            triggers = [fact for fact in facts[-1:] if not isinstance(fact, Capture)]
            facts = (*facts[: max(0, room - len(triggers))], *triggers)
        self._pending.extend(facts)
        if self._is_closed:
            self.drain()
            return
        self.expect_facts()
        self._ensure_thread()
        self._wake.set()

    @guarded
    def drain(self) -> None:
        """Hand over everything now, on the calling thread; waits for a hand-over under way."""
        self._hurry.set()
        try:
            while self._hand_over_one(timeout_s=_EXIT_S):
                pass
        finally:
            self._hurry.clear()

    def close(self) -> None:
        """Hand over the rest; end the thread and need no exit hook any more."""
        self._is_closed = True
        self._wake.set()
        self._exit_hooks.cancel()
        self.drain()

    def _drain_at_exit(self) -> None:
        self._is_ending = True
        self.at_exit()
        self.drain()

    def expect_facts(self) -> None:
        """Get ready for the facts to come. Never while a capture is open."""
        if not self._is_ready:
            self._is_ready = True
            self._prepare()
            self._exit_hooks.register_in_child(is_forked=self._is_forked)
        self._exit_hooks.register()

    @guarded
    def _prepare(self) -> None:
        providers = self.before_first()
        if providers and isinstance(providers, tuple):
            self._own_providers = providers

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="otel-cudagraph-outbox", daemon=True)
            self._start(self._thread)

    @guarded
    def _start(self, thread: threading.Thread) -> None:
        thread.start()  # refused while the interpreter shuts down: then the exit hook does it

    def _work(self) -> None:
        while not self._is_closed:
            self._wake.wait()
            self._wake.clear()
            self._wait_for_quiet()
            if self._hand_over_in_batches():
                # An engine kills its workers without much ado: a trigger's spans and counts are
                # out as soon as nobody captures, not when the exporters' next turn comes.
                self._wait_for_quiet()
                self._deliver()

    def _wait_for_quiet(self) -> None:
        deadline = now_ns() + int(_HOLD_S * 1e9)
        self._hurry.wait(_QUIET_S)
        while self.busy() and not self._hurry.is_set() and now_ns() < deadline:
            self._hurry.wait(_QUIET_S)

    def _hand_over_in_batches(self) -> bool:
        """Hand over everything; return whether a trigger was in it."""
        done, triggers = 0, 0
        while fact := self._hand_over_one():
            done += 1
            triggers += not isinstance(fact, Capture)
            if done % _BATCH == 0 and not self._hurry.is_set():
                self._wait_for_quiet()
                self._flush()
        return triggers > 0

    def _hand_over_one(self, timeout_s: float = -1) -> Capture | Trigger | None:
        """Emit and return the oldest fact; None where none is left or another hand-over hangs."""
        if not self._handing_over.acquire(timeout=timeout_s):
            return None
        try:
            if not self._pending:
                return None
            fact = self._pending.popleft()
            self._emit(fact)
            return fact
        finally:
            self._handing_over.release()

    @guarded
    def _emit(self, fact: Capture | Trigger) -> None:
        try:
            self._telemetry.emit(fact)
        finally:
            self.handed_over(fact)

    @guarded
    def _flush(self) -> None:
        self._telemetry.flush_spans(_FLUSH_MILLIS)

    def _deliver(self) -> None:
        if not self._is_ending:
            self._flush()
            self._flush_own()

    @guarded
    def _flush_own(self) -> None:
        """Flush what was set up for us: a metric reader of the host's is read when the host wants it."""
        for provider in self._own_providers:
            flush_provider(provider, _FLUSH_MILLIS)

    @guarded
    def _deliver_all(self) -> None:
        self._telemetry.force_flush(_FLUSH_MILLIS)

    def _say_full(self) -> None:
        if not self._said_full:
            self._said_full = True
            _logger.warning(
                "more than %d captured graphs wait; spans and durations are dropped, counters stay exact "
                "(OTEL_PYTHON_CUDAGRAPH_MAX_PENDING)",
                self._max_pending,
            )
