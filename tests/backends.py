"""The real OpenTelemetry Collector and Jaeger, started on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"


def backends_folder() -> Path:
    """Return where the programs are.

    Raises:
        LookupError: They are not built; the message says why or how.
    """
    script = ROOT / "backends" / "build.sh"
    run = subprocess.run([script], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise LookupError(run.stderr.strip().splitlines()[-1] if run.stderr else f"{script} failed")
    return Path(run.stdout.strip())


def free_ports(number: int) -> list[int]:
    """Return ports that nobody has now."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def eventually(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Return the first true value of `condition`.

    Raises:
        AssertionError: It stayed false.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout_s} s"
        time.sleep(0.05)


def get(url: str) -> str | None:
    """Return a page, None while nobody serves it."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


@dataclass
class Program:
    """A process with its configuration in variables; can be stopped and started again."""

    command: list[str]
    variables: dict[str, str]
    log: Path
    is_ready: Callable[[], Any]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start, and return when it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env={**os.environ, **self.variables}, stdout=log, stderr=subprocess.STDOUT
            )
        eventually(lambda: self._fail_if_dead() or self.is_ready())

    def stop(self, *, kill: bool = False) -> None:
        """End it, orderly or not."""
        assert self._process is not None
        self._process.kill() if kill else self._process.terminate()
        self._process.wait(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop(kill=True)

    def _fail_if_dead(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]


class Jaeger(Program):
    """Jaeger with its spans in memory."""

    def __init__(self, programs: Path, folder: Path) -> None:
        grpc, http, query, query_grpc = free_ports(4)
        self.grpc_endpoint = f"http://{LOOPBACK}:{grpc}"
        self.http_endpoint = f"http://{LOOPBACK}:{http}"
        self._query = f"http://{LOOPBACK}:{query}"
        super().__init__(
            command=[str(programs / "jaeger"), "--config", str(ROOT / "backends" / "jaeger-config.yaml")],
            variables={
                "JAEGER_GRPC_ENDPOINT": f"{LOOPBACK}:{grpc}",
                "JAEGER_HTTP_ENDPOINT": f"{LOOPBACK}:{http}",
                "JAEGER_QUERY_ENDPOINT": f"{LOOPBACK}:{query}",
                "JAEGER_QUERY_GRPC_ENDPOINT": f"{LOOPBACK}:{query_grpc}",
            },
            log=folder / "jaeger.log",
            is_ready=lambda: get(f"{self._query}/api/services"),
        )

    def spans(self, service: str) -> list[dict[str, Any]]:
        """Return the spans of a service as the query API gives them."""
        page = get(f"{self._query}/api/traces?service={service}&limit=100")
        traces = json.loads(page)["data"] if page else None
        return [span for trace in traces or [] for span in trace["spans"]]


class Collector(Program):
    """The collector with this project's own collector-config.yaml."""

    def __init__(self, programs: Path, folder: Path, jaeger_grpc_endpoint: str) -> None:
        grpc, http, prometheus, health, telemetry = free_ports(5)
        self.grpc_endpoint = f"http://{LOOPBACK}:{grpc}"
        self.http_endpoint = f"http://{LOOPBACK}:{http}"
        self._prometheus = f"http://{LOOPBACK}:{prometheus}/metrics"
        super().__init__(
            command=[str(programs / "otelcol"), "--config", str(ROOT / "collector-config.yaml")],
            variables={
                "OTELCOL_GRPC_ENDPOINT": f"{LOOPBACK}:{grpc}",
                "OTELCOL_HTTP_ENDPOINT": f"{LOOPBACK}:{http}",
                "PROMETHEUS_ENDPOINT": f"{LOOPBACK}:{prometheus}",
                "OTELCOL_HEALTH_ENDPOINT": f"{LOOPBACK}:{health}",
                "OTELCOL_TELEMETRY_PORT": str(telemetry),
                "OTELCOL_STORAGE_DIRECTORY": str(folder / "queue"),
                "JAEGER_OTLP_ENDPOINT": jaeger_grpc_endpoint.removeprefix("http://"),
            },
            log=folder / "otelcol.log",
            is_ready=lambda: get(f"http://{LOOPBACK}:{health}/"),
        )

    def prometheus_lines(self, name: str) -> list[str]:
        """Return the samples of one metric."""
        page = get(self._prometheus) or ""
        return [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]

    def prometheus_total(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.prometheus_lines(name))
