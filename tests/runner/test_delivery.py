"""Telemetry that goes elsewhere: by the standard variables, and what is said when nobody takes it."""

from __future__ import annotations

import socket
import threading
from concurrent import futures

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

from otel_cudagraph.testing import OtlpReceiver
from otel_cudagraph.testing.receiver import _MetricsService, _TraceService
from runner.__main__ import main
from tests.pipeline import CAPTURE, TRIGGER

pytest.importorskip("torch")
SMALL_JOB = ["--device", "cpu", "--num-layers", "2", "--capture-sizes", "1,2", "--decode-steps", "2"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_endpoint_gets_everything(protocol: str, monkeypatch, capsys) -> None:
    with OtlpReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=fleet-7")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-runner")

        code = main(SMALL_JOB)

    screen = capsys.readouterr().out
    assert code == 0, screen
    assert f"Delivered 9 spans to {endpoint}" in screen
    spans = receiver.received.spans()
    assert len(receiver.received.spans(TRIGGER)) == 1
    assert len(receiver.received.spans(CAPTURE)) == 8
    assert {span.resource["service.name"] for span in spans} == {"my-runner"}
    assert receiver.received.metrics()["cuda.graph.captures"].total() == 8
    assert all(headers["x-tenant"] == "fleet-7" for headers in receiver.headers)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nobody_listens(protocol: str, monkeypatch, capfd) -> None:
    """The work is done and shown; one line says what was not delivered where and why."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)

    code = main(SMALL_JOB)

    screen, errors = capfd.readouterr()
    assert code == 3, screen
    assert "Captured 8 graphs" in screen
    assert "the same tokens" in screen
    (line,) = [line for line in screen.splitlines() if "NOT delivered" in line]
    assert f"9 spans to http://127.0.0.1:{port}" in line
    assert "metrics" in line
    assert "refused" in line.lower() or "unavailable" in line.lower()
    assert "Traceback" not in screen + errors
    assert "retrying" not in errors


def test_somebody_listens_and_never_answers(monkeypatch, capfd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        threading.Thread(target=_accept_for_ever, args=(deaf,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")

        code = main(SMALL_JOB)

    screen, errors = capfd.readouterr()
    assert code == 3, screen
    assert "NOT delivered" in screen
    assert "Traceback" not in screen + errors


def _accept_for_ever(server: socket.socket) -> None:
    held = []
    while True:
        try:
            held.append(server.accept())
        except OSError:
            return


def test_tls_with_a_certificate_of_one_s_own(monkeypatch, capsys, tmp_path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    receiver = OtlpReceiver()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(_TraceService(receiver), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(_MetricsService(receiver), server)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"https://localhost:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(path))

    with receiver:
        code = main(SMALL_JOB)
    server.stop(None).wait()

    assert code == 0, capsys.readouterr().out
    assert len(receiver.received.spans(CAPTURE)) == 8


def test_sdk_disabled(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    assert main(SMALL_JOB) == 0

    screen = capsys.readouterr().out
    assert "OTEL_SDK_DISABLED" in screen
    assert "the same tokens" in screen


def test_the_screen_shows_live_graphs_and_the_waterfall(capsys) -> None:
    assert main(SMALL_JOB) == 0

    screen = capsys.readouterr().out
    lines = [line.split() for line in screen.splitlines() if line.startswith("  cuda.graph.count")]
    assert sorted(line[1] for line in lines) == ["2", "6"]
    assert "cuda.graph.capture_trigger runner FULL_AND_PIECEWISE" in screen
    assert sum(line.endswith("| ok") for line in screen.splitlines()) == 9
