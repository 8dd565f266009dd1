"""The captures that other processes make and export over OTLP."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from otel_cudagraph import semconv
from otel_cudagraph.testing import expectation as given
from otel_cudagraph.testing.block import Block, Start
from otel_cudagraph.testing.captures import Captures
from otel_cudagraph.testing.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from otel_cudagraph.testing.received import Received

_REPLACED = (
    *("OTEL_EXPORTER_", "OTEL_TRACES_", "OTEL_METRICS_", "OTEL_LOGS_"),
    *("OTEL_BSP_", "OTEL_METRIC_EXPORT_", "OTEL_SPAN_", "OTEL_ATTRIBUTE_"),
    *("OTEL_PYTHON_CUDAGRAPH_", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
    *("OTEL_SDK_DISABLED", "OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"),
    *("TRACEPARENT", "TRACESTATE"),
)
"""How variables begin that would send telemetry elsewhere, leave some out, or join it to a foreign trace."""


class OtlpCaptures(Captures):
    """The captures of other processes, which export them over OTLP to free ports of 127.0.0.1.

    Receives while used as a context manager; give `environment` to the processes.
    """

    def __init__(self, quiet_s: float = 1.0) -> None:
        """Prepare to receive.

        Args:
            quiet_s: After how many seconds without an export a process is taken to
                have said everything; more than it takes between two exports.
        """
        super().__init__()
        self._receiver = OtlpReceiver()
        self._quiet_s = given.seconds("quiet_s", quiet_s)
        self.received = self._receiver.received

    def __enter__(self) -> Self:
        self._receiver.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._receiver.__exit__(exc_type, error, tb)
        if error is None:
            self.check_that_all_began()

    @property
    def endpoint(self) -> str:
        """Where to export to by gRPC."""
        return self._receiver.grpc_endpoint

    @property
    def variables(self) -> dict[str, str | None]:
        """The variables that make a process export here; None is to be unset."""
        foreign = [name for name in os.environ if name.upper().startswith(_REPLACED)]
        return {
            **dict.fromkeys(foreign),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "no_grpc_proxy": _without_proxy(),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process with `variables` in it, for ``subprocess.run(env=...)``."""
        return {name: value for name, value in {**os.environ, **self.variables}.items() if value is not None}

    def begin(self, timeout_s: float) -> Start:
        """Return what there is, after each process has said how many replays it has had."""
        time_ns = time.time_ns()
        if _arrivals(self.received):
            self.conclude(Start(), lambda _: True, timeout_s)
        return Start.of(self.received, time_ns)

    def conclude(self, start: Start, look: Callable[[Block], bool], timeout_s: float) -> bool:
        """Let `look` see the block until all is there and each process has spoken since, or is silent."""
        since_ns, deadline = time.time_ns(), time.monotonic() + timeout_s
        is_quiet = False
        while True:
            arrivals = _arrivals(self.received)
            is_all = look(Block(self.received, start)) and (is_quiet or self._all_spoke_since(since_ns))
            left_s = deadline - time.monotonic()
            if is_all or left_s <= 0:
                return is_all
            wait_s = min(left_s, self._quiet_s)
            is_quiet = not self._receiver.wait_for(partial(_is_beyond, arrivals), wait_s)

    def catch_up(self) -> None:
        """Do nothing: what arrives is kept at once."""

    def hints(self) -> list[str]:
        """Return what to check where nothing was captured."""
        if not _arrivals(self.received):
            return [
                "no process exported here: was it started before the fixture, or with an env= of its own?",
                "does it set up the OpenTelemetry SDK and instrument? Start it with opentelemetry-instrument",
                "are opentelemetry-distro and opentelemetry-exporter-otlp installed where it runs?",
                "does the test's own process capture? Then use the fixture cudagraphs (InProcessCaptures)",
            ]
        return [
            "processes exported here, but no captures: does the one that captures instrument, and in time?",
            "was the capture reached? Eager mode, CUDA graph mode NONE and a warm engine capture nothing",
        ]

    def _all_spoke_since(self, since_ns: int) -> bool:
        """Return whether each process has exported its counters since then, or is silent for long."""
        silent_ns = time.time_ns() - int(self._quiet_s * 1e9)
        newest = [
            point.time_ns
            for name in (semconv.METRIC_CAPTURE_TRIGGERS, semconv.METRIC_CAPTURES, semconv.METRIC_REPLAYS)
            for point in self.received.points(name)
        ]
        return bool(newest) and all(spoke >= since_ns or spoke < silent_ns for spoke in newest)


def _without_proxy() -> str:
    """Return the hosts that gRPC reaches without a proxy: those it had, and this machine."""
    hosts = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))  # noqa: SIM112  gRPC's names
    return f"{hosts},127.0.0.1" if hosts else "127.0.0.1"


def _arrivals(received: Received) -> int:
    return len(received.traces) + len(received.metrics_data)


def _is_beyond(arrivals: int, received: Received) -> bool:
    return _arrivals(received) > arrivals
