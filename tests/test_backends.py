"""From the runner to a real collector, a real Jaeger and a Prometheus endpoint, and back by their APIs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.backends import Collector, Jaeger, backends_folder, eventually

ROOT = Path(__file__).parents[1]
SERVICE = "runner-under-test"

pytestmark = pytest.mark.backends


@pytest.fixture(scope="session")
def programs() -> Path:
    try:
        return backends_folder()
    except LookupError as error:
        pytest.skip(f"no collector and no Jaeger: {error}")


@pytest.fixture
def jaeger(programs: Path, tmp_path: Path):
    with Jaeger(programs, tmp_path) as running:
        yield running


@pytest.fixture
def collector(programs: Path, tmp_path: Path, jaeger: Jaeger):
    with Collector(programs, tmp_path, jaeger.grpc_endpoint) as running:
        yield running


def run_main_job(endpoint: str, protocol: str = "grpc", layers: int = 12, sizes: str = "1") -> None:
    """Run the runner as a user does."""
    pytest.importorskip("torch")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "runner",
            "--device",
            "cpu",
            "--num-layers",
            str(layers),
            "--capture-sizes",
            sizes,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_SERVICE_NAME": SERVICE,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def tags(span: dict) -> dict[str, object]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def assert_one_trigger_with(graphs: int, jaeger: Jaeger) -> None:
    """Read back by Jaeger's query API: parents, keys, durations that nest."""
    spans = eventually(lambda: (found := jaeger.spans(SERVICE)) and len(found) >= graphs + 1 and found)
    triggers = [span for span in spans if span["operationName"] == "cuda.graph.capture_trigger"]
    captures = [span for span in spans if span["operationName"] == "cuda.graph.capture"]
    assert (len(triggers), len(captures)) == (1, graphs)
    (trigger,) = triggers
    assert trigger["references"] == []
    for capture in captures:
        (reference,) = capture["references"]
        assert (reference["refType"], reference["spanID"]) == ("CHILD_OF", trigger["spanID"])
        assert trigger["startTime"] <= capture["startTime"]
        assert capture["startTime"] + capture["duration"] <= trigger["startTime"] + trigger["duration"] + 1
    keys = [tags(capture)["cuda.graph.key"] for capture in captures]
    assert len(set(keys)) == graphs
    assert tags(trigger)["cuda.graph.captured"] == graphs
    assert tags(trigger)["cuda.graph.simulated"] is True


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_runner_to_collector_to_jaeger_and_prometheus(
    protocol: str, collector: Collector, jaeger: Jaeger
) -> None:
    run_main_job(collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint, protocol)

    assert_one_trigger_with(14, jaeger)
    eventually(lambda: collector.prometheus_total("cuda_graph_captures_total") == 14)
    assert collector.prometheus_total("cuda_graph_capture_triggers_total") == 1
    assert collector.prometheus_total("cuda_graph_capture_trigger_active") == 0
    assert collector.prometheus_total("cuda_graph_count") == 14
    assert collector.prometheus_total("cuda_graph_capture_duration_seconds_count") == 14
    assert collector.prometheus_total("cuda_graph_capture_trigger_duration_seconds_count") == 1
    assert collector.prometheus_total("cuda_graph_replays_total") > 0
    (full,) = [line for line in collector.prometheus_lines("cuda_graph_captures_total") if '"FULL"' in line]
    for label in (
        'cuda_graph_engine="runner"',
        'cuda_graph_purpose="serving"',
        'cuda_graph_simulated="true"',
    ):
        assert label in full


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_runner_to_jaeger_without_a_collector(protocol: str, jaeger: Jaeger, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")  # Jaeger takes no metrics

    run_main_job(jaeger.grpc_endpoint if protocol == "grpc" else jaeger.http_endpoint, protocol)

    assert_one_trigger_with(14, jaeger)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_collector_restarted_before_jaeger_is_back(collector: Collector, jaeger: Jaeger, kill: bool) -> None:
    """What it accepted lies in its queue on disk, whether it ends orderly or not."""
    jaeger.stop()
    run_main_job(collector.grpc_endpoint)

    collector.stop(kill=kill)
    collector.start()
    jaeger.start()

    assert_one_trigger_with(14, jaeger)


def test_jaeger_down_while_the_collector_takes_data(collector: Collector, jaeger: Jaeger) -> None:
    jaeger.stop()
    run_main_job(collector.grpc_endpoint, sizes="1,2")
    jaeger.start()

    assert_one_trigger_with(28, jaeger)


def test_the_configuration_is_valid_without_warnings(programs: Path) -> None:
    command = [programs / "otelcol", "validate", "--config", ROOT / "collector-config.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_collector_starts_without_warnings(collector: Collector) -> None:
    lines = [line for line in collector.log.read_text().splitlines() if re.search(r"\t(warn|error)\t", line)]
    assert lines == []


def test_compose_file() -> None:
    """Not run here: images need a registry. Its syntax, and that it mounts what exists."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())

    assert set(compose["services"]) == {"collector", "jaeger", "prometheus"}
    for service in compose["services"].values():
        assert re.fullmatch(r"[a-z/-]+:v?[0-9.]+", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file()
    if shutil.which("docker") and _has_compose():
        command = ["docker", "compose", "--file", ROOT / "compose.yaml", "config", "--format", "json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert set(json.loads(run.stdout)["services"]) == set(compose["services"])


def _has_compose() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
