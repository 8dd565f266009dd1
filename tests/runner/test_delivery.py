"""Telemetry that goes elsewhere: by the standard variables, and what is said when nobody takes it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    assert "Captured 8 stand-in graphs" in screen
    assert "the same tokens" in screen
    (line,) = [line for line in screen.splitlines() if "NOT delivered" in line]
    assert f"9 spans to http://127.0.0.1:{port}" in line
    assert "metrics" in line
    assert "refused" in line.lower() or "unavailable" in line.lower()
    assert "Traceback" not in screen + errors
    assert "retrying" not in errors


def test_a_web_page_is_no_receiver(monkeypatch, capsys) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")

    code = main(SMALL_JOB)
    server.shutdown()
    server.server_close()

    screen = capsys.readouterr().out
    assert code == 3, screen
    assert "NOT delivered: 9 spans" in screen
    assert "text/html" in screen


def test_an_answer_that_never_ends(monkeypatch, capsys) -> None:
    """A header a second for ever: no time-out of a read ever fires."""

    def trickle(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X-More: yes\r\n")
                time.sleep(0.5)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")

        code = main(SMALL_JOB)

    screen = capsys.readouterr().out
    assert code == 3, screen
    assert "NOT delivered: 9 spans" in screen


def test_a_proxy_is_not_asked_for_the_own_receiver(monkeypatch, capsys) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert main(SMALL_JOB) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zzz"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc"),
    ],
)
def test_variables_that_the_sdk_refuses(variable: str, value: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv(variable, value)

    assert main(SMALL_JOB) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the SDK refuses an OTEL_* variable" in error


def test_ctrl_c_loses_nothing_and_shows_no_traceback(monkeypatch, capsys) -> None:
    from runner import session

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "generate", interrupt)
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.grpc_endpoint)

        assert main(SMALL_JOB) == 130

    assert capsys.readouterr().err == "runner: interrupted\n"
    assert len(receiver.received.spans(CAPTURE)) == 8
    assert receiver.received.metrics()["cuda.graph.captures"].total() == 8


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
    with contextlib.ExitStack() as held, contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            held.enter_context(connection)


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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ],
)
def test_what_is_left_out_on_purpose_is_not_missed(variable: str, value: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv(variable, value)

    code = main(SMALL_JOB)

    assert code == 0, capsys.readouterr().out


def test_json_is_not_silently_left_out(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")

    assert main([*SMALL_JOB, "--otlp-json", str(tmp_path / "file")]) == 2

    assert "unset OTEL_EXPORTER_OTLP_ENDPOINT" in capsys.readouterr().err


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
