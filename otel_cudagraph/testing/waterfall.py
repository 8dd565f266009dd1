"""A trace as text: one line per span, indented below its parent, with a bar where it lies in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_cudagraph import semconv
from otel_cudagraph.testing.received import Received

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_cudagraph.testing.received import Span

_BAR_WIDTH = 24
_MAX_LABEL_WIDTH = 72


@dataclass(frozen=True)
class Line:
    """One span of a waterfall, or a note where spans were left out."""

    text: str
    is_error: bool = False


@dataclass(frozen=True)
class _Row:
    """A span where it stands in its tree, or a note."""

    label: str
    span: Span | None = None
    root: Span | None = None


def waterfall(
    received: Received | Sequence[Span], max_children: int = 200, *, notes: Mapping[str, str] | None = None
) -> list[Line]:
    """Return the lines of every trace in `received`.

    Args:
        received: The spans, oldest start first where they are a list.
        max_children: Children of one span that are shown; failed ones are shown in any case.
        notes: What to say at the end of a span's line, by span id.
    """
    spans = received.spans() if isinstance(received, Received) else received
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    rows = [row for root in children.get("", []) for row in _tree(root, root, 0, children, max_children)]
    width = min(_MAX_LABEL_WIDTH, max((len(row.label) for row in rows), default=0))
    return [_line(row, width, notes or {}) for row in rows]


def format_duration(seconds: float) -> str:
    """Return a duration with three digits that matter and a unit that fits."""
    value, unit = next(
        (seconds * factor, unit)
        for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s"))
        if seconds < limit
    )
    decimals = max(0, 2 - len(str(int(value))) + 1) if value else 0
    return f"{value:.{decimals}f} {unit}"


def _tree(
    span: Span, root: Span, depth: int, children: dict[str, list[Span]], max_children: int
) -> Iterable[_Row]:
    yield _Row("  " * depth + _label(span), span, root)
    below = children.get(span.span_id, [])
    shown = [child for index, child in enumerate(below) if index < max_children or child.is_error]
    for child in shown:
        yield from _tree(child, root, depth + 1, children, max_children)
    if len(shown) < len(below):
        yield _Row("  " * (depth + 1) + f"… and {len(below) - len(shown):,} more")


def _line(row: _Row, width: int, notes: Mapping[str, str]) -> Line:
    span, root = row.span, row.root
    if span is None or root is None:
        return Line(row.label)
    status = f"ERROR {span.attributes.get(semconv.ERROR_TYPE, '')}".rstrip() if span.is_error else "ok"
    label = f"{row.label[:width]:<{width}}"
    text = f"{label} {format_duration(span.duration_s):>8} |{_bar(span, root)}| {status}"
    note = notes.get(span.span_id)
    return Line(f"{text}  ({note})" if note else text, span.is_error)


def _label(span: Span) -> str:
    attributes = span.attributes
    if span.name == semconv.SPAN_CAPTURE:
        return str(attributes.get(semconv.KEY, attributes.get(semconv.CODE_FUNCTION_NAME, span.name)))
    parts = [span.name, attributes.get(semconv.ENGINE), attributes.get(semconv.RUNTIME_MODE)]
    return " ".join(str(part) for part in parts if part)


def _bar(span: Span, root: Span) -> str:
    total = max(1, root.end_ns - root.start_ns)
    first = min(_BAR_WIDTH - 1, max(0, (span.start_ns - root.start_ns) * _BAR_WIDTH // total))
    last = min(_BAR_WIDTH, max(first + 1, -(-(span.end_ns - root.start_ns) * _BAR_WIDTH // total)))
    return " " * first + "█" * (last - first) + " " * (_BAR_WIDTH - last)
