"""The report that started this project, on the real vLLM: both runners, through the plugin alone."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from otel_cudagraph.testing import InProcessCaptures, OtlpCaptures, OtlpReceiver, Received
from tests.anchor_table import ANCHOR_TABLE
from tests.gpu import vllm_engine
from tests.gpu.conftest import without_paths
from tests.pipeline import CAPTURE, TRIGGER
from tests.vllm_table import VLLM_TABLE

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
ROOT = Path(__file__).parents[2]
NO_PROFILING = ["--kv-mib", "256"]
PLUGIN = {"VLLM_PLUGINS": "otel_cudagraph"}


@pytest.fixture
def folder(tmp_path: Path, record_dir: Path | None) -> Path:
    """Return where a run's files go: they are kept where fixtures are recorded."""
    return record_dir or tmp_path


def run(
    captures: OtlpCaptures, name: str, arguments: list[str], environment: dict[str, str], folder: Path
) -> dict:
    """Run vLLM with the plugin, exporting to `captures`; return what vLLM counted."""
    result = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).with_name("vllm_engine.py")), str(result), *arguments]
    env = {**captures.environment, **PLUGIN, "OTEL_SERVICE_NAME": "vllm", **environment}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    # Cumulative metrics: the last export says all that the earlier ones said.
    last = Received(captures.received.traces, captures.received.metrics_data[-1:])
    (folder / f"{name}.jsonl").write_text(without_paths(last.to_json_lines()), "utf-8")
    return json.loads(result.read_text())


@VLLM_TABLE
def test_vllm(
    version: str, mode: str, counts: tuple[int, int, int], cudagraphs_otlp: OtlpCaptures, folder: Path
) -> None:
    triggers, graphs, profiling = counts
    arguments = ["--runner", version, "--mode", mode]

    with cudagraphs_otlp.expect(triggers=triggers, graphs=graphs, engine="vllm", largest_first=True) as seen:
        counted = run(cudagraphs_otlp, f"vllm_{version}_{mode}", arguments, {}, folder)

    assert counted["num_gpu_runner_capture_triggers"] == triggers
    assert counted["num_cudagraph_captured"] == graphs
    assert len(seen.captures) == counted["capture_end_returned"] == graphs + profiling


@pytest.mark.parametrize("runner", ["v1", "v2"])
@ANCHOR_TABLE
def test_twelve_layers_and_one_size(
    runner: str, mode: str, triggers: int, graphs: int, cudagraphs_otlp: OtlpCaptures, folder: Path
) -> None:
    arguments = ["--runner", runner, "--mode", mode, "--layers", "12", "--sizes", "8", *NO_PROFILING]

    with cudagraphs_otlp.expect(triggers=triggers, graphs=graphs, engine="vllm"):
        counted = run(cudagraphs_otlp, f"vllm_{runner}_anchor_{mode}", arguments, {}, folder)

    assert counted["num_gpu_runner_capture_triggers"] == triggers
    assert counted["num_cudagraph_captured"] == graphs


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_in_this_process_beside_vllm_s_own_expectation(
    runner: str, cudagraphs: InProcessCaptures, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"VLLM_USE_V2_MODEL_RUNNER": str(int(runner == "v2")), "VLLM_PLUGINS": ""}
    for name, value in {**vllm_engine.SETTINGS, **chosen}.items():
        monkeypatch.setenv(name, value)
    asked = vllm_engine.arguments(["", "--runner", runner, "--mode", "FULL_AND_PIECEWISE", *NO_PROFILING])
    from vllm import LLM
    from vllm.compilation.counter import compilation_counter

    with (
        compilation_counter.expect(num_gpu_runner_capture_triggers=1, num_cudagraph_captured=24),
        cudagraphs.expect(triggers=1, graphs=24, engine="vllm", largest_first=True),
    ):
        LLM(**vllm_engine.engine_arguments(asked))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_engine_core_in_its_own_process(
    runner: str, method: str, cudagraphs_otlp: OtlpCaptures, folder: Path
) -> None:
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": method}
    arguments = ["--runner", runner, "--mode", "FULL_AND_PIECEWISE"]

    with cudagraphs_otlp.expect(triggers=1, graphs=24, engine="vllm") as seen:
        run(cudagraphs_otlp, f"vllm_{runner}_{method}", arguments, environment, folder)

    assert seen.replays() > 0


def test_breakable_graphs_that_vllm_does_not_count(cudagraphs_otlp: OtlpCaptures, folder: Path) -> None:
    environment = {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}
    arguments = ["--runner", "v2", "--mode", "PIECEWISE", "--compile", "0", *NO_PROFILING]

    with cudagraphs_otlp.expect(triggers=1, graphs=20, mode="PIECEWISE") as seen:
        counted = run(cudagraphs_otlp, "vllm_breakable", arguments, environment, folder)

    assert counted["num_cudagraph_captured"] == 0
    assert counted["capture_end_returned"] == 20
    assert all(graph.key.startswith("breakable ") for graph in seen.graphs)


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_vllm_s_own_tracing_is_used_and_its_span_nests(
    runner: str, cudagraphs_otlp: OtlpCaptures, folder: Path
) -> None:
    """vLLM's exporter takes the endpoint from its own option; the metrics come from the standard one."""
    arguments = ["--runner", runner, "--mode", "FULL_DECODE_ONLY", *NO_PROFILING]
    with OtlpReceiver() as traces:
        arguments += ["--traces-endpoint", traces.grpc_endpoint]
        run(cudagraphs_otlp, f"vllm_{runner}_traced", arguments, {}, folder)
        spans = traces.received
    (folder / f"vllm_{runner}_own_tracing.jsonl").write_text(
        without_paths(Received(spans.traces).to_json_lines()), "utf-8"
    )

    assert cudagraphs_otlp.received.traces == []
    assert cudagraphs_otlp.received.metrics()["cuda.graph.captures"].total(purpose="serving") == 4
    (trigger,) = spans.spans(TRIGGER)
    assert len(spans.spans(CAPTURE)) == 4
    if runner == "v1":
        (own,) = spans.spans("Capture model")
        assert own.parent_id == trigger.span_id
        assert sum(span.parent_id == own.span_id for span in spans.spans(CAPTURE)) == 4


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_tokens_are_the_same_without_us(runner: str, cudagraphs_otlp: OtlpCaptures, tmp_path: Path) -> None:
    arguments = ["--runner", runner, "--mode", "FULL_AND_PIECEWISE", *NO_PROFILING]

    with cudagraphs_otlp.expect(triggers=0, graphs=0):
        without = run(cudagraphs_otlp, "without", arguments, {"VLLM_PLUGINS": ""}, tmp_path)
    with cudagraphs_otlp.expect(triggers=1, graphs=24):
        with_us = run(cudagraphs_otlp, "with", arguments, {}, tmp_path)

    assert with_us["tokens"] == without["tokens"]
