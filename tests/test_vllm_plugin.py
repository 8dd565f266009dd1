"""vLLM's plugin in processes of its own: where telemetry goes, and that none is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_cudagraph.testing import OtlpReceiver, Received, Span
from tests.pipeline import CAPTURE, TRIGGER

ROOT = Path(__file__).parents[1]


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


def start(actions: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.plugin_worker", *actions.split()],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(actions: str, environment: dict[str, str]) -> tuple[str, str]:
    """Run a worker to its end; return what it wrote."""
    process = start(actions, environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def to(receiver: OtlpReceiver, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_SERVICE_NAME": "worker", **more}


def processes(spans: list[Span]) -> set[str]:
    return {span.attributes["cuda.graph.key"].split()[0] for span in spans}


@pytest.mark.parametrize("way", ["", "fork", "spawn"])
def test_everything_of_a_process_that_ends_arrives(receiver: OtlpReceiver, way: str) -> None:
    _, err = run(f"plugin {way} {'plugin' if way == 'spawn' else ''} capture lazy", to(receiver))

    assert err == ""
    received = receiver.received
    assert len(received.spans(TRIGGER)) == 1
    assert len(received.spans(CAPTURE)) == 3
    assert received.spans(TRIGGER)[0].resource["service.name"] == "worker"
    metrics = received.metrics()
    assert metrics["cuda.graph.captures"].total() == 3
    assert metrics["cuda.graph.capture_triggers"].total() == 1
    assert metrics["cuda.graph.replays"].total() == 3


@pytest.mark.parametrize("way", ["fork", "osfork"])
def test_a_child_that_inherits_the_set_up_exports_its_own(receiver: OtlpReceiver, way: str) -> None:
    _, err = run(f"plugin capture {way} capture", to(receiver, PYTHONWARNINGS="ignore"))

    assert err == ""
    spans = receiver.received.spans(CAPTURE)
    assert len(spans) == 4
    assert len(processes(spans)) == 2
    exports = [Received(metrics_data=[data]).metrics() for data in receiver.received.metrics_data]
    totals = [export["cuda.graph.captures"].total() for export in exports]
    assert set(totals) == {2}  # of each process its own graphs, not those of its parent
    assert len(totals) >= 2


def test_a_trigger_is_out_before_a_worker_is_killed(receiver: OtlpReceiver) -> None:
    """Exporters turn every 5 s (spans) and 60 s (metrics): nothing here waits for that."""
    worker = start("plugin capture hang", to(receiver, OTEL_BSP_SCHEDULE_DELAY="3600000"))
    try:
        arrived = receiver.wait_for(
            lambda r: len(r.spans(TRIGGER)) == 1 and "cuda.graph.captures" in r.metrics()
        )
    finally:
        worker.kill()
        worker.communicate()

    assert arrived
    assert len(receiver.received.spans(CAPTURE)) == 2
    assert receiver.received.metrics()["cuda.graph.captures"].total() == 2


@pytest.mark.parametrize("order", ["plugin provider", "provider plugin"])
def test_a_provider_of_somebody_else_is_used_and_not_replaced(receiver: OtlpReceiver, order: str) -> None:
    with OtlpReceiver() as own:
        _, err = run(f"{order} capture", to(receiver, OWN_ENDPOINT=own.grpc_endpoint))
        assert len(own.received.spans(CAPTURE)) == 2

    assert receiver.received.traces == []
    assert receiver.received.metrics()["cuda.graph.captures"].total() == 2
    assert "Overriding" not in err


def test_over_http(receiver: OtlpReceiver) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    run("plugin capture", environment)

    assert len(receiver.received.spans(CAPTURE)) == 2
    assert receiver.received.metrics()["cuda.graph.captures"].total() == 2


def test_the_signals_that_are_asked_for(receiver: OtlpReceiver) -> None:
    run("plugin capture", to(receiver, OTEL_METRICS_EXPORTER="none"))

    assert len(receiver.received.spans(CAPTURE)) == 2
    assert receiver.received.metrics_data == []


def test_exporters_named_twice_export_once(receiver: OtlpReceiver) -> None:
    run("plugin capture", to(receiver, OTEL_TRACES_EXPORTER="otlp", OTEL_METRICS_EXPORTER="otlp"))

    assert len(receiver.received.spans(CAPTURE)) == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests, cudagraph",
        },
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
        },
    ],
    ids=["nothing", "none", "sdk disabled", "instrumentation disabled", "all disabled"],
)
def test_no_sdk_is_set_up_where_nobody_asks(environment: dict[str, str]) -> None:
    out, err = run("plugin capture report", environment)

    assert out.strip() == "[]"
    assert err == ""


def test_the_sdk_is_not_set_up_before_something_is_captured(receiver: OtlpReceiver) -> None:
    out, _ = run("plugin report", to(receiver))

    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "carrier_pigeon"}, "the traces exporter 'carrier_pigeon'"),
        ({"OTEL_METRICS_EXPORTER": "abacus"}, "the metrics exporter 'abacus'"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "HTTP"},
            "the traces exporter 'otlp over HTTP'",
        ),
    ],
)
def test_an_exporter_that_is_not_there_is_said_in_one_line(environment: dict[str, str], named: str) -> None:
    _, err = run("plugin capture", environment)

    assert err.count("\n") == 1
    assert named in err
    assert "(installed: console, otlp, otlp_proto_grpc, otlp_proto_http)" in err


def test_a_metric_reader_of_the_host_is_read_by_the_host_alone(receiver: OtlpReceiver) -> None:
    """A pull reader, as Prometheus's, would keep a copy of every metric for each flush."""
    worker = start(
        "plugin reader capture await capture await report_reads",
        to(receiver, OTEL_BSP_SCHEDULE_DELAY="3600000"),
    )
    for number in (1, 2):  # what flushed the spans of the second has done with the first
        assert receiver.wait_for(lambda r, n=number: len(r.spans(TRIGGER)) == n)
        worker.stdin.write("\n")
        worker.stdin.flush()
    out, _ = worker.communicate(timeout=60)

    assert out.strip() == "read 0 times"


def test_loading_it_twice_says_nothing(receiver: OtlpReceiver) -> None:
    _, err = run("plugin plugin capture", to(receiver))

    assert err == ""
    assert len(receiver.received.spans(CAPTURE)) == 2


@pytest.mark.parametrize("name", ["TRACEPARENT", "traceparent"])
def test_the_trace_comes_from_the_environment(receiver: OtlpReceiver, name: str) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    run("plugin capture", to(receiver, **{name: f"00-{trace_id}-b7ad6b7169203331-01"}))

    (trigger,) = receiver.received.spans(TRIGGER)
    assert (trigger.trace_id, trigger.parent_id) == (trace_id, "b7ad6b7169203331")


def test_a_distribution_s_configurator_is_preferred(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """As `opentelemetry-instrument` does."""
    metadata = tmp_path / "toy_distro-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-distro\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[opentelemetry_configurator]\ntoy=toy_distro:Configurator\n")
    (tmp_path / "toy_distro.py").write_text(
        "from opentelemetry.sdk._configuration import _OTelSDKConfigurator\n"
        "class Configurator(_OTelSDKConfigurator):\n"
        "    def _configure(self, **kwargs):\n"
        "        print('configured by a distribution', flush=True)\n"
        "        super()._configure(**kwargs)\n"
    )
    out, _ = run("plugin capture", to(receiver, PYTHONPATH=str(tmp_path)))

    assert out.strip() == "configured by a distribution"
    assert len(receiver.received.spans(CAPTURE)) == 2


def test_a_key_of_the_parent_is_new_in_a_forked_child(receiver: OtlpReceiver) -> None:
    run("plugin same fork same", to(receiver))

    phases = [span.attributes["cuda.graph.phase"] for span in receiver.received.spans(CAPTURE)]
    assert phases == ["runtime", "runtime"]
