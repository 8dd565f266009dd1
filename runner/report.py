"""What the screen shows at the end: the waterfall, the metrics, and what was checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from otel_cudagraph import semconv
from otel_cudagraph.testing import format_duration, waterfall

if TYPE_CHECKING:
    from rich.console import Console

    from otel_cudagraph.testing import Metric, Received
    from runner.delivery import Delivery
    from runner.generation import Generation

_LOOK = {True: "red", False: ""}


def show_received(console: Console, received: Received) -> None:
    """Print the traces and the metrics that arrived."""
    console.print("\n[bold]Traces, as they arrived over OTLP[/bold]")
    lines = waterfall(received)
    for line in lines:
        console.print(Text(line.text, style=_LOOK[line.is_error]), soft_wrap=True)
    if not lines:
        console.print("  none")
    console.print("\n[bold]Metrics, as they arrived over OTLP[/bold]")
    metrics = received.metrics()
    for name in sorted(metrics):
        _show_metric(console, metrics[name])
    if not metrics:
        console.print("  none")


def _show_metric(console: Console, metric: Metric) -> None:
    for point in metric.points:
        labels = " ".join(f"{_short(key)}={_plain(value)}" for key, value in point.attributes.items())
        value = f"{point.value:g} {metric.unit}"
        if point.sum is not None:
            value = f"{point.value:g} x, {format_duration(point.sum)} in all"
        console.print(f"  {metric.name:<36} {value:<26} {escape(labels)}", soft_wrap=True, highlight=False)


def _short(key: str) -> str:
    return key.removeprefix("cuda.graph.").removeprefix("cuda.")


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def show_generation(console: Console, graphs: Generation, eager: Generation) -> bool:
    """Print whether both paths gave the same tokens, and how long their steps took; return it."""
    same = graphs.tokens == eager.tokens
    total = sum(map(len, graphs.tokens))
    verdict = "the same tokens" if same else "[red]DIFFERENT tokens[/red]"
    console.print(
        f"Greedy decoding of {total} tokens in {len(graphs.tokens)} sequence(s), "
        f"through the graphs and eager: {verdict}",
        soft_wrap=True,
    )
    if graphs.median_decode_time_s is not None and eager.median_decode_time_s is not None:
        console.print(
            f"Median decode step: {format_duration(graphs.median_decode_time_s)} through the graphs, "
            f"{format_duration(eager.median_decode_time_s)} eager",
            soft_wrap=True,
        )
    return same


def show_deliveries(console: Console, deliveries: list[Delivery], reason: str) -> bool:
    """Print one line on what was delivered where, and on what was not; return whether all was."""
    for delivery in deliveries:
        if not delivery.not_taken:
            console.print(
                f"Delivered {delivery.taken} {delivery.what} to {escape(delivery.endpoint)}", soft_wrap=True
            )
    lost = [delivery for delivery in deliveries if delivery.not_taken]
    if lost:
        what = ", ".join(f"{d.not_taken} {d.what} to {d.endpoint}" for d in lost)
        said = reason or "no answer in time"
        console.print(f"[red]NOT delivered:[/red] {escape(what)}: {escape(said)}", soft_wrap=True)
    return not lost


def arrival_mistake(received: Received, triggers: int, graphs: int, signals: frozenset[str]) -> str | None:
    """Return how what arrived differs from what the runner itself did, None where it does not.

    Args:
        received: What arrived.
        triggers: Triggers that there were.
        graphs: Graphs that were captured.
        signals: Which of ``traces`` and ``metrics`` are to be complete.
    """
    metrics = received.metrics()
    good = [span for span in received.spans(semconv.SPAN_CAPTURE) if not span.is_error]
    checks = {
        "traces": (
            ("trigger spans", len(received.spans(semconv.SPAN_CAPTURE_TRIGGER)), triggers),
            ("capture spans", len(good), graphs),
        ),
        "metrics": (
            ("capture_triggers", _total(metrics, semconv.METRIC_CAPTURE_TRIGGERS), triggers),
            ("captures", _total(metrics, semconv.METRIC_CAPTURES), graphs),
        ),
    }
    wrong = [
        f"{arrived:g} {what}, not {expected}"
        for signal in signals
        for what, arrived, expected in checks[signal]
        if arrived != expected
    ]
    return "; ".join(wrong) or None


def _total(metrics: dict[str, Metric], name: str) -> float:
    return metrics[name].total() if name in metrics else 0
