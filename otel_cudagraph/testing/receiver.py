"""An OTLP receiver on loopback: gRPC and HTTP, traces and metrics.

For tests of engines that capture in another process, and for looking at what a
run exports without a collector. It keeps everything in memory.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from otel_cudagraph.testing.received import Received

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from google.protobuf.message import Message
    from typing_extensions import Self

_MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one export request; gRPC's own limit of 4 MiB is less than 2,048 spans with stack traces."""


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "identity": bytes,
}
"""By ``Content-Encoding``."""


class OtlpReceiver:
    """Takes OTLP on free ports of 127.0.0.1 while used as a context manager.

    Example::

        with OtlpReceiver() as receiver:
            subprocess.run([...], env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint})
        assert len(receiver.received.spans("cuda.graph.capture")) == 14

    Attributes:
        received: What arrived so far; may be read while the receiver runs.
    """

    def __init__(self) -> None:
        self.received = Received()
        self.headers: list[dict[str, str]] = []
        """Headers (gRPC: metadata) of each request, lower-case names."""
        self._arrived = threading.Condition()
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(max_workers=4, thread_name_prefix="otlp-grpc"),
            options=[("grpc.max_receive_message_length", _MAX_MESSAGE)],
        )
        trace_grpc.add_TraceServiceServicer_to_server(_TraceService(self), self._grpc)
        metrics_grpc.add_MetricsServiceServicer_to_server(_MetricsService(self), self._grpc)
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._http = _HttpServer(self)
        self._http_thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-http", daemon=True
        )

    @property
    def grpc_endpoint(self) -> str:
        """``OTEL_EXPORTER_OTLP_ENDPOINT`` for ``OTEL_EXPORTER_OTLP_PROTOCOL=grpc``."""
        return f"http://127.0.0.1:{self._grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """``OTEL_EXPORTER_OTLP_ENDPOINT`` for ``OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf``."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._grpc.start()
        self._http_thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._grpc.stop(grace=None).wait()
        self._http.shutdown()
        self._http.server_close()

    def wait_for(self, condition: Callable[[Received], bool], timeout_s: float = 10.0) -> bool:
        """Wait until `condition` holds for what arrived; return whether it does."""
        with self._arrived:
            return self._arrived.wait_for(lambda: condition(self.received), timeout_s)

    def take(self, request: Message, headers: dict[str, str]) -> None:
        """Keep an export request."""
        body = request.SerializeToString()
        with self._arrived:
            self.headers.append(headers)
            if isinstance(request, trace_service.ExportTraceServiceRequest):
                self.received.traces.append(TracesData.FromString(body))
            else:
                self.received.metrics_data.append(MetricsData.FromString(body))
            self._arrived.notify_all()


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    return {str(key).lower(): str(value) for key, value in context.invocation_metadata()}


class _TraceService(trace_grpc.TraceServiceServicer):  # type: ignore[misc]  # generated, untyped
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  the service's name for it
        self._receiver.take(request, _metadata(context))
        return trace_service.ExportTraceServiceResponse()


class _MetricsService(metrics_grpc.MetricsServiceServicer):  # type: ignore[misc]  # likewise
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._receiver.take(request, _metadata(context))
        return metrics_service.ExportMetricsServiceResponse()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: OtlpReceiver) -> None:
        super().__init__(("127.0.0.1", 0), _HttpHandler)
        self.receiver = receiver


class _HttpHandler(BaseHTTPRequestHandler):
    """OTLP/HTTP with binary protobuf (OTLP specification, OTLP/HTTP)."""

    server: _HttpServer
    protocol_version = "HTTP/1.1"
    _requests: ClassVar[dict[str, Any]] = {
        "/v1/traces": trace_service.ExportTraceServiceRequest,
        "/v1/metrics": metrics_service.ExportMetricsServiceRequest,
    }

    def do_POST(self) -> None:
        """Take one export request."""
        request_type = self._requests.get(self.path)
        if request_type is None:
            self._respond(404, f"{self.path} is not one of {', '.join(self._requests)}".encode())
            return
        try:
            request = request_type.FromString(self._body())
        except Exception as error:  # noqa: BLE001  protobuf, gzip and zlib raise their own kinds
            self._respond(400, f"not an OTLP protobuf request: {error}".encode())
            return
        self.server.receiver.take(request, {key.lower(): value for key, value in self.headers.items()})
        self._respond(200, b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "identity")
        return _DECODERS[encoding](body)

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf" if status == 200 else "text/plain")  # noqa: PLR2004
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
