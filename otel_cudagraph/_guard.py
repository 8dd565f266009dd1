"""The one error boundary: a fault in telemetry is logged once and never reaches the host."""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
_logger = logging.getLogger(__name__)
_reported: set[str] = set()


def guarded(function: Callable[P, T]) -> Callable[P, T | None]:
    """Make `function` return None where it would raise an `Exception`.

    `KeyboardInterrupt` and its like pass: they are addressed to the host.
    """

    @functools.wraps(function)
    def boundary(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception:
            _report(function.__qualname__)
            return None

    return boundary


def _report(site: str) -> None:
    """Log the first fault of a site with its traceback; a broken hook must not flood the log."""
    level = logging.DEBUG if site in _reported else logging.WARNING
    _reported.add(site)
    with contextlib.suppress(Exception):  # a host's log handler may be broken, too
        _logger.log(
            level,
            "otel-cudagraph: %s failed; the program goes on, with less telemetry",
            site,
            exc_info=True,
        )
