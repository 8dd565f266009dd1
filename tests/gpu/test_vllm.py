"""The report that started this project, on the real vLLM: both runners, through the plugin alone."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_cudagraph.testing import OtlpReceiver, Received
from tests.gpu.conftest import without_paths
from tests.pipeline import CAPTURE, TRIGGER
from tests.vllm_table import VLLM_TABLE

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
ROOT = Path(__file__).parents[2]
NO_PROFILING = ["--kv-mib", "256"]
PLUGIN = {"VLLM_PLUGINS": "otel_cudagraph"}


def run(
    name: str, arguments: list[str], environment: dict[str, str], folder: Path, record_dir: Path | None
) -> tuple[Received, dict]:
    """Run vLLM with the plugin; return what arrived, and what vLLM counted."""
    result = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).with_name("vllm_engine.py")), str(result), *arguments]
    with OtlpReceiver() as receiver:
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_SERVICE_NAME": "vllm"}
        env = {**os.environ, **PLUGIN, **export, **environment}
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False
        )
        received = receiver.received
    (folder / f"{name}.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    if record_dir is not None:
        last = Received(received.traces, received.metrics_data[-1:])
        (record_dir / f"{name}.jsonl").write_text(without_paths(last.to_json_lines()), "utf-8")
    return received, json.loads(result.read_text())


def serving(received: Received) -> list:
    return [s for s in received.spans(CAPTURE) if s.attributes["cuda.graph.purpose"] == "serving"]


@VLLM_TABLE
def test_vllm(
    version: str, mode: str, counts: tuple[int, int, int], tmp_path: Path, record_dir: Path | None
) -> None:
    triggers, graphs, profiling = counts
    name = f"vllm_{version}_{mode}"
    arguments = ["--runner", version, "--mode", mode]

    received, counted = run(name, arguments, {}, record_dir or tmp_path, record_dir)

    assert (len(received.spans(TRIGGER)), len(serving(received))) == (triggers, graphs)
    assert counted["num_gpu_runner_capture_triggers"] == triggers
    assert counted["num_cudagraph_captured"] == graphs
    assert len(received.spans(CAPTURE)) == counted["capture_end_returned"] == graphs + profiling


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_engine_core_in_its_own_process(
    runner: str, method: str, tmp_path: Path, record_dir: Path | None
) -> None:
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": method}
    arguments = ["--runner", runner, "--mode", "FULL_AND_PIECEWISE"]

    received, _ = run(f"vllm_{runner}_{method}", arguments, environment, record_dir or tmp_path, record_dir)

    assert (len(received.spans(TRIGGER)), len(serving(received))) == (1, 24)
    assert received.metrics()["cuda.graph.captures"].total(purpose="serving") == 24
    assert received.metrics()["cuda.graph.replays"].total() > 0


def test_breakable_graphs_that_vllm_does_not_count(tmp_path: Path, record_dir: Path | None) -> None:
    environment = {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}
    arguments = ["--runner", "v2", "--mode", "PIECEWISE", "--compile", "0", *NO_PROFILING]

    received, counted = run("vllm_breakable", arguments, environment, record_dir or tmp_path, record_dir)

    assert counted["num_cudagraph_captured"] == 0
    assert len(serving(received)) == counted["capture_end_returned"] == 20
    assert all(span.attributes["cuda.graph.key"].startswith("breakable ") for span in serving(received))


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_vllm_s_own_tracing_is_used_and_its_span_nests(
    runner: str, tmp_path: Path, record_dir: Path | None
) -> None:
    """vLLM's exporter takes the endpoint from its own option; the metrics come from the standard one."""
    name = f"vllm_{runner}_traced"
    arguments = ["--runner", runner, "--mode", "FULL_DECODE_ONLY", *NO_PROFILING]
    with OtlpReceiver() as traces:
        arguments += ["--traces-endpoint", traces.grpc_endpoint]
        received, _ = run(name, arguments, {}, record_dir or tmp_path, None)
        spans = traces.received

    assert received.traces == []
    assert received.metrics()["cuda.graph.captures"].total(purpose="serving") == 4
    (trigger,) = spans.spans(TRIGGER)
    assert len(spans.spans(CAPTURE)) == 4
    if runner == "v1":
        (own,) = spans.spans("Capture model")
        assert own.parent_id == trigger.span_id
        assert sum(span.parent_id == own.span_id for span in spans.spans(CAPTURE)) == 4


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_tokens_are_the_same_without_us(runner: str, tmp_path: Path) -> None:
    arguments = ["--runner", runner, "--mode", "FULL_AND_PIECEWISE", *NO_PROFILING]

    _, with_us = run("with", arguments, {}, tmp_path, None)
    received, without = run("without", arguments, {"VLLM_PLUGINS": ""}, tmp_path, None)

    assert received.traces == []
    assert with_us["tokens"] == without["tokens"]
