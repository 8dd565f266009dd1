"""Host time that recording adds to a capture, on graphs that capture nothing.

Usage: python -m benchmarks.capture [--captures 5000]
"""

from __future__ import annotations

import argparse
import sys
import time

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from otel_cudagraph import CudaGraphInstrumentor, batch_descriptor, capture_trigger, register_graph_family
from tests import plain_graphs


def main() -> int:
    """Print microseconds a capture, stock and instrumented."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=int, default=5000)
    captures = parser.parse_args().captures
    _capture(captures)
    stock = _capture(captures)
    register_graph_family(plain_graphs.FAMILY)
    providers = {
        "tracer_provider": TracerProvider(shutdown_on_exit=False),
        "meter_provider": MeterProvider(shutdown_on_exit=False),
    }
    CudaGraphInstrumentor().instrument(**providers)
    with capture_trigger(engine="benchmark"):
        _capture(captures)
        instrumented = _capture(captures)
    sys.stdout.write(
        f"a capture of nothing: {stock * 1e6:.1f} µs stock, {instrumented * 1e6:.1f} µs instrumented, "
        f"{(instrumented - stock) * 1e6:.1f} µs added\n"
    )
    return 0


def _capture(number: int) -> float:
    """Return seconds a capture."""
    started = time.perf_counter()
    kept = []
    for index in range(number):
        graph = plain_graphs.PlainGraph()
        descriptor = batch_descriptor(f"FULL num_tokens={index}", runtime_mode="FULL", num_tokens=index)
        with descriptor, plain_graphs.capture(graph):
            pass
        kept.append(graph)
    return (time.perf_counter() - started) / number


if __name__ == "__main__":
    sys.exit(main())
