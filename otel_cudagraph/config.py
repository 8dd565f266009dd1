"""Settings, resolved once when `instrument()` runs: argument, then environment, then default.

This is the only module of the library that reads the environment.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from otel_cudagraph.environment_variables import (
    OTEL_PYTHON_CUDAGRAPH_MAX_PENDING,
    OTEL_PYTHON_CUDAGRAPH_REPLAYS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What can be switched. `from_env` gives the values that `instrument()` uses by default."""

    replays: bool = True
    """Count replays; `False` leaves `replay()` unpatched."""
    max_pending: int = 65_536
    """Captures that may wait to become spans."""

    @classmethod
    def from_env(cls) -> Config:
        """Read ``OTEL_PYTHON_CUDAGRAPH_*``; a bad value is logged and the default used."""
        return cls(
            replays=_read(OTEL_PYTHON_CUDAGRAPH_REPLAYS, _boolean, "true or false", cls.replays),
            max_pending=_read(
                OTEL_PYTHON_CUDAGRAPH_MAX_PENDING, _positive, "a whole number from 1", cls.max_pending
            ),
        )


def trace_carrier() -> dict[str, str]:
    """Return the trace context that the parent process left in the environment.

    The upper-case names are OpenTelemetry's (specification, context/env-carriers);
    the lower-case ones are what vLLM writes for its worker processes.
    """
    for parent, state in (("TRACEPARENT", "TRACESTATE"), ("traceparent", "tracestate")):
        if value := os.environ.get(parent):
            return {"traceparent": value, "tracestate": os.environ.get(state, "")}
    return {}


def is_disabled() -> bool:
    """Return whether the standard variables switch the SDK or this instrumentation off.

    ``opentelemetry-instrument`` looks at the second one itself; other ways in must.
    """
    names = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    return _sdk_is_disabled() or not {"cudagraph", "*"}.isdisjoint(name.strip() for name in names)


def exporters_asked_for() -> dict[str, list[str]]:
    """Return the exporters that the standard variables ask for, by signal, as entry points name them.

    A signal is asked for by its exporter (``OTEL_TRACES_EXPORTER``) or by an OTLP
    endpoint, whose exporter is then ``otlp`` (specification, SDK environment variables).
    """
    asked = {} if _sdk_is_disabled() else {s: _exporters(s) for s in ("traces", "metrics")}
    return {signal: names for signal, names in asked.items() if names}


def _sdk_is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


_OTLP_EXPORTERS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Entry points by OTLP protocol."""


def _exporters(signal: str) -> list[str]:
    upper = signal.upper()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT")
    default = "otlp" if any(os.environ.get(name) for name in endpoints) else "none"
    names = os.environ.get(f"OTEL_{upper}_EXPORTER") or default
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    resolved = {"otlp": _OTLP_EXPORTERS.get(protocol.strip(), f"otlp over {protocol.strip()}"), "none": ""}
    return [name for raw in names.split(",") if (name := resolved.get(raw.strip(), raw.strip()))]


def environment_rank() -> int | None:
    """Return the global rank that launchers such as torchrun write into ``RANK``."""
    try:
        return int(os.environ["RANK"])
    except (KeyError, ValueError):
        return None


def _read(name: str, parse: Callable[[str], T], accepted: str, default: T) -> T:
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        return parse(raw)
    except ValueError:
        _logger.warning("%s=%r is not %s; using %s", name, raw, accepted, default)
        return default


def _boolean(raw: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if raw.lower() not in values:
        raise ValueError(raw)
    return values[raw.lower()]


def _positive(raw: str) -> int:
    value = int(raw)
    if value < 1:
        raise ValueError(raw)
    return value
