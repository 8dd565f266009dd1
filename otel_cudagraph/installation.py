"""Builds the parts, installs them into the families that are imported, takes them out again.

At most one installation is active in a process; the public API and the import
hooks find it here.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import metrics

from otel_cudagraph._guard import guarded
from otel_cudagraph._patching import PatchSet
from otel_cudagraph.adapters.loading import Adapters
from otel_cudagraph.choke_point import patch_family
from otel_cudagraph.current import set_recording
from otel_cudagraph.families import GraphFamily, add_family, families, remove_family
from otel_cudagraph.imports import ImportWatch
from otel_cudagraph.ledger import Ledger
from otel_cudagraph.outbox import Outbox
from otel_cudagraph.recaptures import CapturedKeys
from otel_cudagraph.recorder import CaptureRecorder
from otel_cudagraph.self_check import TriggerCheck
from otel_cudagraph.telemetry import Telemetry
from otel_cudagraph.triggers import TriggerRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_cudagraph.config import Config

_logger = logging.getLogger(__name__)


class Installation:
    """Everything that one `instrument()` puts in place."""

    def __init__(
        self,
        config: Config,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        before_first_capture: Callable[[], None] | None = None,
    ) -> None:
        self._captured_keys = captured_keys = CapturedKeys()
        self._config = config
        self._imports = ImportWatch()
        self._telemetry = Telemetry(tracer_provider, meter_provider)
        self.ledger = _ledger_for(meter_provider, self._telemetry)
        self._outbox = Outbox(self._telemetry, config.max_pending)
        self.triggers = TriggerRecorder(self.ledger, self._telemetry, self._outbox, captured_keys)
        self._recorder = CaptureRecorder(
            self.ledger,
            self._outbox,
            self.triggers.open_triggers,
            captured_keys,
            count_replays=config.replays,
        )
        self._adapters = Adapters(self._imports)
        self._outbox.handed_over = TriggerCheck(self._adapters).look_at
        self._outbox.before_first = before_first_capture or _nothing
        self._outbox.busy = lambda: self._recorder.busy
        self._outbox.at_exit = self._close_at_exit
        self._patched: dict[GraphFamily, PatchSet] = {}

    def install(self) -> None:
        """Patch every family that is imported, and each other one when it is.

        Raises:
            Exception: A family could not be patched; nothing stays patched then.
        """
        try:
            for family in families():
                self.patch_when_imported(family)
            self._adapters.install()
        except BaseException:
            self._restore()
            self._outbox.close()
            raise
        self.ledger.resume()

    def patch_when_imported(self, family: GraphFamily) -> None:
        """Patch a family now where it is imported, else when it is.

        Raises:
            AttributeError: It is imported and lacks one of the classes.
        """
        if family.module in sys.modules:
            self._patch(family)
        else:
            self._imports.when_imported(family.module, partial(self._patch_or_say, family))

    def _patch_or_say(self, family: GraphFamily) -> None:
        try:
            self._patch(family)
        except AttributeError as error:
            _logger.warning("%s graphs are not instrumented: %s", family.name, error)

    def _patch(self, family: GraphFamily) -> None:
        """Patch one family; where that fails, none of it stays patched."""
        if family in self._patched:
            return
        patches = PatchSet()
        try:
            patch_family(patches, self._recorder, family, replays=self._config.replays)
        except BaseException:
            patches.restore()
            raise
        self._patched[family] = patches

    def remove(self) -> None:
        """Take everything back and hand over what has been recorded."""
        self._recorder.close_abandoned()
        self._restore()
        self._recorder.deactivate()
        self.ledger.pause()
        self._outbox.close()

    @property
    def is_capturing(self) -> bool:
        """Whether a capture is open."""
        return self._recorder.is_capturing

    def hand_over(self) -> None:
        """Make spans of what has been recorded."""
        self._recorder.close_abandoned()
        self._outbox.drain()

    def force_flush(self, timeout_millis: int) -> bool:
        """Hand over what has been recorded, and ask the providers to deliver it."""
        self.hand_over()
        return self._telemetry.force_flush(timeout_millis)

    def start_anew(self) -> None:
        """Forget the parent's captures in a forked child: its graphs are not usable there."""
        self._outbox.reset(is_forked=True)
        self.ledger.reset()
        self._recorder.reset()
        self.triggers.reset()
        self._captured_keys.clear()

    def _close_at_exit(self) -> None:
        self._recorder.close_abandoned()
        self.triggers.close_at_exit()

    def _restore(self) -> None:
        self._imports.close()
        self._adapters.restore()
        while self._patched:
            self._patched.popitem()[1].restore()


_active: Installation | None = None
_global_ledger: Ledger | None = None
_ledgers: weakref.WeakKeyDictionary[object, Ledger] = weakref.WeakKeyDictionary()


def activate(installation: Installation) -> None:
    """Install, and let the public API find it."""
    global _active  # noqa: PLW0603  one per process, by definition
    installation.install()
    _active = installation
    set_recording(installation)


def deactivate(installation: Installation) -> None:
    """Take `installation` out."""
    global _active  # noqa: PLW0603
    _active = None
    set_recording(None)
    installation.remove()


def register_graph_family(family: GraphFamily) -> None:
    """Add a row to the table of what is patched, now or when its module is imported.

    Registering the same row again does nothing.

    Raises:
        ValueError: another family of that name is registered.
        AttributeError: the module is imported and lacks one of the classes. (Before
            `instrument()`, and before the module's import, it is logged then instead.)
    """
    if not add_family(family) or _active is None:
        return
    try:
        _active.patch_when_imported(family)
    except BaseException:
        remove_family(family)
        raise


def _nothing() -> None: ...


def _ledger_for(meter_provider: MeterProvider | None, telemetry: Telemetry) -> Ledger:
    """Return the ledger of a meter provider: its counts go on with the next `instrument()`."""
    global _global_ledger  # noqa: PLW0603
    if meter_provider is None or meter_provider is metrics.get_meter_provider():
        if _global_ledger is None:
            _global_ledger = _observed_ledger(telemetry)
        return _global_ledger
    if meter_provider not in _ledgers:
        _ledgers[meter_provider] = _observed_ledger(telemetry)
    return _ledgers[meter_provider]


def _observed_ledger(telemetry: Telemetry) -> Ledger:
    ledger = Ledger()
    telemetry.observe(ledger)
    return ledger


@guarded
def _after_fork_in_child() -> None:
    if _active is not None:
        _active.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
