"""Replay of a one-kernel graph, instrumented against stock, in one process.

Usage: python -m benchmarks.replay [--pairs 40] [--replays 5000] [--json FILE]

Blocks alternate: stock, instrumented, stock, … A pair's ratio is robust against a
machine whose speed drifts. Printed: the median of the ratios with a 95 % interval.

Not more pairs than that: Python 3.12 gives a class 1,000 versions in its life, and
each patched or restored attribute takes one; past them every look-up on the class
is uncached and slow, stock or not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_cudagraph import CudaGraphInstrumentor
from runner.platforms import select_platform

if TYPE_CHECKING:
    from collections.abc import Callable

_RESAMPLES = 2000
_CHUNK = 500
"""Replays between two synchronisations: fewer than the launch queue holds, so that it never blocks."""


def main() -> int:
    """Run the benchmark; exit 1 where replays were miscounted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--replays", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.pairs, options.replays)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["replays_counted"] == result["replays_made"] else 1


def measure(pairs: int, replays: int) -> dict[str, object]:
    """Return the ratio, its interval, and whether the count was exact."""
    platform = select_platform("auto")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instrumentor = CudaGraphInstrumentor()
    instrumentor.instrument(meter_provider=provider)
    graph = _one_kernel_graph(platform)
    instrumentor.uninstrument()

    stock, instrumented = [], []
    for _ in range(pairs + 1):
        stock.append(_time_block(graph, replays, platform.synchronize))
        instrumentor.instrument(meter_provider=provider)
        instrumented.append(_time_block(graph, replays, platform.synchronize))
        counted = _replays(reader)
        instrumentor.uninstrument()
    ratios = [ours / theirs for ours, theirs in zip(instrumented[1:], stock[1:], strict=True)]
    low, high = _interval(ratios)
    return {
        "what": "replay of a one-kernel graph, instrumented / stock",
        "device": platform.name,
        "simulated": platform.simulated,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "pairs": pairs,
        "replays_a_block": replays,
        "stock_us": round(statistics.median(stock[1:]) * 1e6, 4),
        "ratio": round(statistics.median(ratios), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "replays_made": (1 + replays // _CHUNK) * _CHUNK * (pairs + 1),
        "replays_counted": counted,
    }


def _one_kernel_graph(platform: object) -> object:
    x = torch.ones(16, device=platform.device)  # type: ignore[attr-defined]
    graph = platform.new_graph()  # type: ignore[attr-defined]
    with platform.capture(graph):  # type: ignore[attr-defined]
        x.add_(1)
    graph.x = x
    return graph


def _time_block(graph: object, replays: int, synchronize: Callable[[], None]) -> float:
    """Return seconds a call, the method looked up each time as engines do; the first chunk warms up."""
    elapsed = [_time_chunk(graph, synchronize) for _ in range(1 + replays // _CHUNK)]
    return sum(elapsed[1:]) / (replays // _CHUNK * _CHUNK)


def _time_chunk(graph: object, synchronize: Callable[[], None]) -> float:
    started = time.perf_counter()
    for _ in range(_CHUNK):
        graph.replay()  # type: ignore[attr-defined]
    elapsed = time.perf_counter() - started
    synchronize()
    return elapsed


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
