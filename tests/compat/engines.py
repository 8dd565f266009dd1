"""Which versions of each engine are checked, and what the adapters say of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from otel_cudagraph.adapters import ADAPTERS

if TYPE_CHECKING:
    from otel_cudagraph.adapters import AdapterRow
    from otel_cudagraph.adapters.hooks import Hook, Place

NEWEST = "newest"
VERSIONS = {
    "vllm": ("0.11.2", "0.18.1", "0.25.1", NEWEST),
    "sglang": ("0.5.9", "0.5.15", "0.5.20", NEWEST),
    "transformers": ("5.0.0", "5.17.0", NEWEST),
    "torch": ("2.4.1", "2.8.0", "2.11.0", "2.13.0", "2.14.1", NEWEST),
}


def rows(distribution: str) -> list[AdapterRow]:
    """Return the adapters of an engine."""
    return [row for row in ADAPTERS if row.distribution == distribution]


def hooks(row: AdapterRow) -> list[Hook]:
    """Return the functions that an adapter hooks, in whichever version."""
    return list(importlib.import_module(f"otel_cudagraph.adapters.{row.name}").HOOKS)


def places(row: AdapterRow) -> list[Place]:
    """Return all that an adapter relies on, in whichever version."""
    adapter = importlib.import_module(f"otel_cudagraph.adapters.{row.name}")
    return [*(hook.place for hook in adapter.HOOKS), *adapter.READS]


def wanted(distribution: str) -> list[str]:
    """Return the versions to check: the listed ones, and the releases on both sides of every bound."""
    bounds = {
        bound
        for row in rows(distribution)
        for place in places(row)
        for bound in (place.since, place.before)
        if bound not in ("0", None)
    }
    return [*VERSIONS[distribution], *(f"{side}{bound}" for bound in sorted(bounds) for side in ("<", ">="))]


def kind(hook: Hook) -> str:
    """Return what a hook makes of the function: a trigger, one that is not decided yet, or a decision."""
    inner = getattr(hook.wrap, "func", hook.wrap)
    names = {inner.__name__, *inner.__code__.co_names}
    if "undecided_trigger" in names:
        return "undecided trigger"
    if "decision" in names:
        return "decision"
    return "trigger" if "trigger" in names else "observed"
