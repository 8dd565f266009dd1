"""Loads the adapters of the engines that are imported, hooks them, and says what does not fit."""

from __future__ import annotations

import importlib
import logging
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from otel_cudagraph._guard import guarded
from otel_cudagraph._patching import PatchSet
from otel_cudagraph.adapters import ADAPTERS
from otel_cudagraph.attribution import add_callers, remove_callers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cudagraph.adapters import AdapterRow
    from otel_cudagraph.adapters.hooks import Hook
    from otel_cudagraph.attribution import Caller
    from otel_cudagraph.imports import ImportWatch

_logger = logging.getLogger(__name__)


class Adapters:
    """The adapters of one installation."""

    def __init__(self, watch: ImportWatch) -> None:
        self._watch = watch
        self._patches = PatchSet()
        self._callers: list[Sequence[Caller]] = []
        self._hooked: dict[str, list[str]] = {}
        self._missing: dict[str, list[str]] = {}

    def install(self) -> None:
        """Load each adapter when its engine is imported."""
        for row in ADAPTERS:
            self._watch.when_imported(row.package, partial(self._load, row))

    def restore(self) -> None:
        """Take every hook back."""
        self._patches.restore()
        while self._callers:
            remove_callers(self._callers.pop())

    def expects_triggers(self, engine: str | None) -> bool:
        """Return whether the graphs of `engine` are captured in triggers that an adapter sees."""
        return any(row.engine == engine and row.has_triggers for row in ADAPTERS)

    def explain_missing_triggers(self, engine: str) -> str:
        """Return which hook did not fit which version, for an engine of which no trigger was seen."""
        row = next(row for row in ADAPTERS if row.engine == engine and row.has_triggers)
        name = f"{row.distribution} {_version(row) or '(version unknown)'}"
        if missing := self._missing.get(engine):
            return f"{name} has no {', no '.join(missing)}"
        if hooked := self._hooked.get(engine):
            return f"{name} called none of {', '.join(hooked)}"
        return f"{name} has none of the modules that capture in the versions known here"

    @guarded
    def _load(self, row: AdapterRow) -> None:
        adapter = importlib.import_module(f"otel_cudagraph.adapters.{row.name}")
        callers = getattr(adapter, "CALLERS", ())
        add_callers(callers)
        self._callers.append(callers)
        for module in dict.fromkeys(hook.place.module for hook in adapter.HOOKS):
            of_module = [hook for hook in adapter.HOOKS if hook.place.module == module]
            self._watch.when_imported(module, partial(self._hook, row, of_module))

    @guarded
    def _hook(self, row: AdapterRow, hooks: Sequence[Hook]) -> None:
        missing, running = [], _version(row)
        for hook in hooks:
            lacking = hook.install(self._patches)
            if lacking is None:
                if hook.is_trigger:
                    self._hooked.setdefault(row.engine, []).append(str(hook.place))
            # Whatever is there is hooked: a build from source may call itself 0.1.dev0.
            elif hook.place.belongs_to(running):
                missing.append(lacking)
        if missing:
            self._missing.setdefault(row.engine, []).extend(missing)
            _logger.warning(
                "%s %s has no %s: its captures are recorded with less detail",
                row.distribution,
                running or "(version unknown)",
                ", no ".join(missing),
            )


def _version(row: AdapterRow) -> str | None:
    try:
        return version(row.distribution)
    except PackageNotFoundError:
        return None
