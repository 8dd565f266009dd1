"""Telemetry as it arrived over OTLP, in a form that tests and people can read."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import Status, TracesData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    Attributes: TypeAlias = dict[str, Any]

_IDS = frozenset({"traceId", "spanId", "parentSpanId"})
"""Fields that OTLP/JSON writes as hex where protobuf's JSON writes base64 (OTLP, JSON encoding)."""


@dataclass(frozen=True)
class Event:
    """A span event."""

    name: str
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    """A span; times are Unix nanoseconds, ids lower-case hex, an absent parent is empty."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: tuple[Event, ...]
    is_error: bool
    status_message: str
    resource: Attributes
    scope: str

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Point:
    """One point of a metric: a number, or a histogram's count and sum."""

    attributes: Attributes
    value: float
    """The number; of a histogram the count."""
    sum: float | None = None
    """Of a histogram the sum, else None."""
    start_ns: int = 0
    """When the series began, in Unix nanoseconds."""
    time_ns: int = 0
    """When the point was read, in Unix nanoseconds."""


@dataclass(frozen=True)
class Metric:
    """A metric with its newest points."""

    name: str
    unit: str
    points: tuple[Point, ...]
    is_monotonic: bool | None
    """Of a sum whether it only grows, else None."""
    resource: Attributes = field(default_factory=dict)
    """What the exporting process says of itself."""

    def total(self, **attributes: object) -> float:
        """Return the sum of the values of all points that have these attributes.

        Keys are written with ``_`` in place of ``.`` and without ``cuda.graph.``
        (``purpose="serving"``).
        """
        wanted = {f"cuda.graph.{key}": value for key, value in attributes.items()}
        return sum(
            point.value
            for point in self.points
            if all(point.attributes.get(key) == value for key, value in wanted.items())
        )


@dataclass
class Received:
    """Everything that a receiver took, in the order of its arrival."""

    traces: list[TracesData] = field(default_factory=list)
    metrics_data: list[MetricsData] = field(default_factory=list)

    def spans(self, name: str | None = None) -> list[Span]:
        """Return the spans, oldest start first, of one name or all."""
        spans = [span for data in self.traces for span in _spans(data)]
        return sorted(
            (span for span in spans if name in (None, span.name)),
            key=lambda span: (span.start_ns, -span.end_ns),
        )

    def children(self, parent: Span) -> list[Span]:
        """Return the spans right below `parent`."""
        return [span for span in self.spans() if span.parent_id == parent.span_id]

    def metrics(self) -> dict[str, Metric]:
        """Return the newest state of each metric, by name."""
        return {metric.name: metric for data in self.metrics_data for metric in _metrics(data)}

    def points(self, name: str) -> list[Point]:
        """Return the newest point of each series of a metric, of every process that exported it."""
        newest: dict[str, Point] = {}
        for metric in (metric for data in self.metrics_data for metric in _metrics(data)):
            for point in metric.points if metric.name == name else ():
                # Processes with the same resource differ by when their series began.
                newest[repr((metric.resource, point.start_ns, sorted(point.attributes.items())))] = point
        return list(newest.values())

    def to_json_lines(self) -> str:
        """Return OTLP/JSON, one export request a line, as the collector's file exporter writes it."""
        messages: list[TracesData | MetricsData] = [*self.traces, *self.metrics_data]
        return "".join(json.dumps(_to_otlp_json(message)) + "\n" for message in messages)

    @classmethod
    def from_json_lines(cls, text: str) -> Received:
        """Read what `to_json_lines` or the collector's file exporter wrote.

        Raises:
            ValueError: a line is no OTLP/JSON; the message names it.
        """
        received = cls()
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                received._add_json(json.loads(line))
            except (ValueError, TypeError, AttributeError, ParseError) as error:
                raise ValueError(f"line {number} is no OTLP/JSON: {error}") from error
        return received

    @classmethod
    def from_file(cls, path: Path) -> Received:
        """Read a file of OTLP/JSON lines."""
        return cls.from_json_lines(path.read_text("utf-8"))

    def _add_json(self, document: dict[str, Any]) -> None:
        if "resourceSpans" in document:
            self.traces.append(ParseDict(_convert_ids(document, _hex_to_base64), TracesData()))
        elif "resourceMetrics" in document:
            self.metrics_data.append(ParseDict(_convert_ids(document, _hex_to_base64), MetricsData()))
        else:
            raise ValueError("neither resourceSpans nor resourceMetrics in it")


def _spans(data: TracesData) -> Iterable[Span]:
    for resource_spans in data.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield Span(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    events=tuple(Event(e.name, _attributes(e.attributes)) for e in span.events),
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                    status_message=span.status.message,
                    resource=resource,
                    scope=scope_spans.scope.name,
                )


def _metrics(data: MetricsData) -> Iterable[Metric]:
    for resource_metrics in data.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                if kind in ("sum", "gauge", "histogram"):
                    body = getattr(metric, kind)
                    yield Metric(
                        name=metric.name,
                        unit=metric.unit,
                        points=tuple(_point(point, kind) for point in body.data_points),
                        is_monotonic=body.is_monotonic if kind == "sum" else None,
                        resource=resource,
                    )


def _point(point: Any, kind: str) -> Point:
    is_histogram = kind == "histogram"
    return Point(
        attributes=_attributes(point.attributes),
        value=point.count if is_histogram else getattr(point, point.WhichOneof("value")),
        sum=point.sum if is_histogram else None,
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
    )


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _to_otlp_json(message: TracesData | MetricsData) -> dict[str, Any]:
    document = MessageToDict(message, use_integers_for_enums=True)
    return _convert_ids(document, _base64_to_hex)  # type: ignore[no-any-return]


def _base64_to_hex(text: str) -> str:
    return base64.b64decode(text).hex()


def _hex_to_base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def _convert_ids(node: Any, convert: Callable[[str], str]) -> Any:
    if isinstance(node, list):
        return [_convert_ids(item, convert) for item in node]
    if not isinstance(node, dict):
        return node
    items: Mapping[str, Any] = node
    return {
        key: convert(value) if key in _IDS else _convert_ids(value, convert) for key, value in items.items()
    }
