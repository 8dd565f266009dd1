"""Whatever breaks in telemetry, the host's captures and replays go on as if we were not there."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from otel_cudagraph import CudaGraphInstrumentor, _guard, capture_trigger
from otel_cudagraph.devices import DeviceTable
from otel_cudagraph.ledger import Ledger
from otel_cudagraph.recorder import CaptureRecorder
from otel_cudagraph.scope import OpenTriggers
from otel_cudagraph.telemetry import Telemetry
from tests.conftest import StandIn


class Bug(Exception):  # noqa: N818
    """Ours."""


def bug(*args, **kwargs):
    raise Bug


class BadProcessor(SpanProcessor):
    on_start = on_end = bug


class BadSampler(Sampler):
    should_sample = bug

    def get_description(self) -> str:
        return "bad"


class BadExporter(SpanExporter):
    export = bug


def provider_with(processor: SpanProcessor | None = None, sampler: Sampler | None = None) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    if processor:
        provider.add_span_processor(processor)
    return provider


@pytest.fixture(autouse=True)
def _reported_anew(monkeypatch) -> None:
    monkeypatch.setattr(_guard, "_reported", set())


def host_program(stand_in: StandIn) -> list[object]:
    """Return what a host sees of a capture, a failed one, a recapture, replays and a trigger."""
    seen: list[object] = []
    error = ValueError("the host's own")

    def body(x):
        raise error

    with capture_trigger(engine="mine"):
        graph = stand_in.capture()
        seen.append(graph.replay())
        try:
            stand_in.capture(body=body)
        except ValueError as raised:
            seen.append(raised is error)
        graph.reset()
        stand_in.capture(graph)
    seen += [graph.replay(), len(graph._operations), graph._recording]
    try:
        stand_in.graph().replay()
    except stand_in.module.StandInError as raised:
        seen.append(str(raised))
    return seen


@pytest.mark.parametrize(
    "provider",
    [
        lambda: provider_with(BadProcessor()),
        lambda: provider_with(sampler=BadSampler()),
        lambda: provider_with(SimpleSpanProcessor(BadExporter())),
    ],
    ids=["processor", "sampler", "exporter"],
)
def test_the_sdk_breaks(stand_in: StandIn, provider, caplog) -> None:
    expected = host_program(stand_in)

    CudaGraphInstrumentor().instrument(tracer_provider=provider())
    try:
        assert host_program(stand_in) == expected
        CudaGraphInstrumentor().force_flush()
    finally:
        CudaGraphInstrumentor().uninstrument()


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (DeviceTable, "current"),
        (OpenTriggers, "current"),
        (Telemetry, "start_trigger_span"),
        (Telemetry, "emit"),
        (Ledger, "capture_began"),
        (Ledger, "open_capture"),
        (Ledger, "captured"),
        (Ledger, "graph_reset"),
        (Ledger, "trigger_started"),
        (Ledger, "trigger_ended"),
        (Ledger, "adopt"),
        (CaptureRecorder, "_finish"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_we_break(stand_in: StandIn, monkeypatch, caplog, owner: type, method: str) -> None:
    expected = host_program(stand_in)

    CudaGraphInstrumentor().instrument(tracer_provider=provider_with())
    monkeypatch.setattr(owner, method, bug)
    try:
        assert host_program(stand_in) == expected
        CudaGraphInstrumentor().force_flush()
    finally:
        monkeypatch.undo()
        CudaGraphInstrumentor().uninstrument()

    if method != "adopt":  # reached only by graphs that were not seen captured
        faults = [record for record in caplog.records if "the program goes on" in record.message]
        assert faults
        assert len({record.message for record in faults}) == len(
            [record for record in faults if record.levelname == "WARNING"]
        )
