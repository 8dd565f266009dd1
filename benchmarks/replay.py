"""Replay of a one-kernel graph, instrumented against stock, in one process.

Usage: python -m benchmarks.replay [--pairs 400] [--json FILE]

Two graphs of two classes: one with the `replay` that torch ships, one with the
`replay` that `instrument()` put in its place. Blocks of 500 replays alternate, in
changing order, so that a pair's ratio is robust against a machine whose speed
drifts. Printed: the median of the ratios with a 95 % interval.

(Not one graph, instrumented and uninstrumented in turn: Python 3.12 gives a class
1,000 versions in its life, each patched or restored attribute takes one, and past
them every look-up on the class is uncached and slow.)
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_cudagraph import CudaGraphInstrumentor
from runner.platforms import select_platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.platforms import Platform

_RESAMPLES = 2000
_BLOCK = 500
"""Replays between two synchronisations: fewer than the launch queue holds, so that it never blocks."""


def main() -> int:
    """Run the benchmark; exit 1 where replays were miscounted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.pairs)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["replays_counted"] == result["replays_made"] else 1


def measure(pairs: int) -> dict[str, object]:
    """Return the ratio, its interval, and whether the count was exact."""
    platform = select_platform("auto")
    reader = InMemoryMetricReader()
    graph_class: Any = platform.new_graph
    stock_replay = vars(graph_class)["replay"]
    CudaGraphInstrumentor().instrument(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    stock = _one_kernel_graph(platform, stock_replay)
    ours = _one_kernel_graph(platform, vars(graph_class)["replay"])

    _time_block(stock, platform), _time_block(ours, platform)  # warm up
    blocks = [_time_pair(stock, ours, platform, stock_first=number % 2 == 0) for number in range(pairs)]
    ratios = [instrumented / plain for plain, instrumented in blocks]
    low, high = _interval(ratios)
    return {
        "what": "replay of a one-kernel graph, instrumented / stock",
        "device": platform.name,
        "simulated": platform.simulated,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "pairs": pairs,
        "replays_a_block": _BLOCK,
        "stock_us": round(statistics.median(plain for plain, _ in blocks) * 1e6, 4),
        "ratio": round(statistics.median(ratios), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "replays_made": _BLOCK * (pairs + 1),
        "replays_counted": _replays(reader),
    }


def _one_kernel_graph(platform: Platform, replay: Callable[[Any], None]) -> Any:
    graph_class: Any = platform.new_graph
    graph = type("Graph", (graph_class,), {"replay": replay})()
    graph.x = torch.ones(16, device=platform.device)
    with platform.capture(graph):
        graph.x.add_(1)
    return graph


def _time_pair(stock: Any, ours: Any, platform: Platform, *, stock_first: bool) -> tuple[float, float]:
    if stock_first:
        return _time_block(stock, platform), _time_block(ours, platform)
    instrumented = _time_block(ours, platform)
    return _time_block(stock, platform), instrumented


def _time_block(graph: Any, platform: Platform) -> float:
    """Return seconds a call, the method looked up each time as engines do."""
    started = time.perf_counter()
    for _ in range(_BLOCK):
        graph.replay()
    elapsed = time.perf_counter() - started
    platform.synchronize()
    return elapsed / _BLOCK


def _replays(reader: InMemoryMetricReader) -> int:
    data = reader.get_metrics_data()
    assert data is not None
    return sum(
        point.value  # type: ignore[union-attr, misc]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "cuda.graph.replays"
        for point in metric.data.data_points
    )


def _interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    chooser = random.Random(0)  # noqa: S311  no secret
    medians = sorted(statistics.median(chooser.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]


if __name__ == "__main__":
    sys.exit(main())
