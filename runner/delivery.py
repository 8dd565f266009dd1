"""Exporters that keep count: what was taken, what was not, and why."""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

_NOISY = ("opentelemetry.exporter", "opentelemetry.sdk")


@dataclass
class Delivery:
    """The fate of one signal."""

    what: str
    endpoint: str
    taken: int = 0
    lost: int = 0
    under_way: int = 0
    """Handed to the endpoint, which has not answered yet."""
    is_unfinished: bool = False
    """The end was not waited for any longer."""
    deadline: float | None = None
    """`time.monotonic` after which nothing is tried any more."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_past_deadline(self) -> bool:
        """Whether it is too late to try."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def not_taken(self) -> int:
        """What the endpoint did not take, as far as is known."""
        return max(self.lost + self.under_way, int(self.is_unfinished))

    def begin(self, number: int) -> None:
        """Note that `number` items are on their way."""
        with self._lock:
            self.under_way += number

    def note(self, number: int, *, success: bool) -> None:
        """Count `number` items."""
        with self._lock:
            self.under_way -= number
            if success:
                self.taken += number
            else:
                self.lost += number


class CountingSpanExporter(SpanExporter):
    """Counts spans round the exporter that does the work."""

    def __init__(self, exporter: SpanExporter, delivery: Delivery) -> None:
        self._exporter = exporter
        self._delivery = delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export, unless it is too late."""
        self._delivery.begin(len(spans))
        late = self._delivery.is_past_deadline
        result = SpanExportResult.FAILURE if late else self._exporter.export(spans)
        self._delivery.note(len(spans), success=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()


class CountingMetricExporter(MetricExporter):
    """Counts metrics round the exporter that does the work. Only the last export matters: it holds all."""

    def __init__(self, exporter: Any, delivery: Delivery) -> None:
        super().__init__(
            exporter._preferred_temporality,  # noqa: SLF001  the SDK's own readers ask for them so
            exporter._preferred_aggregation,  # noqa: SLF001
        )
        self._exporter = exporter
        self._delivery = delivery

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export, unless it is too late."""
        number = _count_metrics(metrics_data)
        self._delivery.under_way = number
        late = self._delivery.is_past_deadline
        result = None if late else self._exporter.export(metrics_data, timeout_millis, **kwargs)
        success = result is MetricExportResult.SUCCESS
        self._delivery.under_way = 0
        self._delivery.taken = number if success else 0
        self._delivery.lost = 0 if success else number
        return MetricExportResult.SUCCESS if success else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held here."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown(timeout_millis, **kwargs)


_RETRY = re.compile(r"^Transient error |,? retrying in [0-9.]+s\.?")


class QuietExporters(logging.Handler):
    """Takes the exporters' log, retry by retry, and keeps the first reason: later ones name no cause."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reason = ""
        for name in _NOISY:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is said of a failure."""
        if not self.reason:
            self.reason = " ".join(_RETRY.sub("", record.getMessage()).split())


def _count_metrics(data: MetricsData) -> int:
    return sum(len(scope.metrics) for resource in data.resource_metrics for scope in resource.scope_metrics)
