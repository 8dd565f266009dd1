"""Sets up the OpenTelemetry SDK from the standard environment, where nobody has.

For processes that no `opentelemetry-instrument` starts: an engine's workers. What
is set up already, by the application or the engine, stays and is used.
"""

from __future__ import annotations

import importlib.util
import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from otel_cudagraph._guard import guarded
from otel_cudagraph.config import exporters_asked_for

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)

_PUSHED = ("otlp", "console")
"""How the names of exporters begin whose readers export by themselves: flushing another fills it up."""


@guarded
def set_up_sdk() -> tuple[object, ...]:
    """Set up those of tracer and meter provider that are missing and asked for, as global ones.

    Where both are missing the installed distribution's configurator does it (entry
    point ``opentelemetry_configurator``), else the SDK's: what
    ``opentelemetry-instrument`` does. A failure is logged and leaves nothing exported.

    Returns:
        The providers set up here that deliver when they are flushed.
    """
    asked = exporters_asked_for()
    missing = [signal for signal in asked if not _is_set_up(signal)]
    if not missing or not _all_is_installed({signal: asked[signal] for signal in missing}):
        return ()
    if any(_is_set_up(signal) for signal in _ADDING):
        for signal in missing:
            _ADDING[signal](asked[signal])
    else:
        _configurator()().configure(
            trace_exporter_names=asked.get("traces", []), metric_exporter_names=asked.get("metrics", [])
        )
    pushed = [signal for signal in missing if all(name.startswith(_PUSHED) for name in asked[signal])]
    return tuple(_provider(signal) for signal in pushed)


def _all_is_installed(asked: dict[str, list[str]]) -> bool:
    """Return whether the SDK and the exporters are there; what is not is said in one line."""
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        _logger.warning(
            "nothing is exported: OTEL_* asks for it, and the OpenTelemetry SDK is not installed "
            "(pip install opentelemetry-exporter-otlp)"
        )
        return False
    for signal, names in asked.items():
        installed = sorted({point.name for point in entry_points(group=f"opentelemetry_{signal}_exporter")})
        for name in names:
            if name not in installed:
                _logger.warning(
                    "nothing is exported: OTEL_* asks for the %s exporter %r, which is not installed "
                    "(installed: %s). Set OTEL_%s_EXPORTER or OTEL_EXPORTER_OTLP_PROTOCOL, or "
                    "pip install opentelemetry-exporter-otlp",
                    signal,
                    name,
                    ", ".join(installed) or "none",
                    signal.upper(),
                )
                return False
    return True


def _provider(signal: str) -> object:
    return trace.get_tracer_provider() if signal == "traces" else metrics.get_meter_provider()


def _is_set_up(signal: str) -> bool:
    """Return whether there is a provider, of whatever kind: the API's own stand-ins are called proxies."""
    return "Proxy" not in type(_provider(signal)).__name__


def _configurator() -> Callable[[], Any]:
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator

    installed = next(iter(entry_points(group="opentelemetry_configurator")), None)
    return _OTelSDKConfigurator if installed is None else installed.load()


def _exporter(signal: str, name: str) -> Any:
    (found, *_) = entry_points(group=f"opentelemetry_{signal}_exporter", name=name)
    return found.load()()


def _add_tracing(names: list[str]) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporters = [_exporter("traces", name) for name in names]
    provider = TracerProvider()
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _add_metrics(names: list[str]) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    found = [_exporter("metrics", name) for name in names]
    readers = [e if isinstance(e, MetricReader) else PeriodicExportingMetricReader(e) for e in found]
    metrics.set_meter_provider(MeterProvider(readers))


_ADDING: dict[str, Callable[[list[str]], None]] = {"traces": _add_tracing, "metrics": _add_metrics}
