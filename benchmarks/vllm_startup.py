"""How long the real vLLM takes to start, with the plugin and without, in alternating processes.

    python -m benchmarks.vllm_startup --pairs 4 [--runner v2] [--json FILE]

Needs a GPU and vLLM, with this package installed beside it. The figure is the time
of ``LLM(...)``: loading, memory, compilation, warm-up and capture. Telemetry goes
over OTLP to a receiver in this process, which is another than the engine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from otel_cudagraph.testing import OtlpReceiver

ENGINE = Path(__file__).parents[1] / "tests" / "gpu" / "vllm_engine.py"
SIZES = "1,2,4,8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128"


def run(runner: str, plugins: str, endpoint: str) -> dict[str, Any]:
    """Start the engine once; return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(ENGINE), str(result), "--runner", runner, "--kv-mib", "256"]
        command += ["--mode", "FULL_AND_PIECEWISE", "--sizes", SIZES]
        environment = {"VLLM_PLUGINS": plugins, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        subprocess.run(  # noqa: S603  our own program
            command, env={**os.environ, **environment}, check=True, capture_output=True
        )
        loaded: dict[str, Any] = json.loads(result.read_text())
        return loaded


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--runner", choices=["v1", "v2"], default="v2")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with OtlpReceiver() as receiver:
        for pair in range(asked.pairs):
            # Who goes first alternates, too.
            for name in sorted(runs, reverse=bool(pair % 2)):
                plugins = "otel_cudagraph" if name == "with" else ""
                runs[name].append(run(asked.runner, plugins, receiver.grpc_endpoint))
        graphs = len(receiver.received.spans("cuda.graph.capture"))
    seconds = {name: [each["initialised_s"] for each in of] for name, of in runs.items()}
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    report = {
        **{key: runs["with"][0][key] for key in ("gpu", "vllm", "torch", "runner", "mode")},
        "seconds": seconds,
        "ratio": round(medians["with"] / medians["without"], 4),
        "graphs_recorded": graphs,
        "graphs_counted_by_vllm": sum(each["num_cudagraph_captured"] for each in runs["with"]),
        "tokens_identical": len({str(each["tokens"]) for of in runs.values() for each in of}) == 1,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
