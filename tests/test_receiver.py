"""The OTLP receiver that tests and the runner use, and how it shows what arrived."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cudagraph.testing import OtlpReceiver, Received, Span, format_duration, waterfall


def post(url: str, body: bytes, **headers: str) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/x-protobuf", **headers})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def receiver():
    with OtlpReceiver() as running:
        yield running


def request_with(*names: str) -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number, name in enumerate(names, start=1):
        spans.add(name=name, span_id=bytes([number] * 8), start_time_unix_nano=number)
    return request.SerializeToString()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_http(receiver: OtlpReceiver, encoding: str) -> None:
    body = request_with("a", "b")
    if encoding == "gzip":
        body = gzip.compress(body)

    status = post(f"{receiver.http_endpoint}/v1/traces", body, **{"Content-Encoding": encoding})

    assert status == 200
    assert [span.name for span in receiver.received.spans()] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/nonsense", b"", {}, 404),
        ("/v1/traces", b"\xff\xff not protobuf", {}, 400),
        ("/v1/traces", b"not gzip", {"Content-Encoding": "gzip"}, 400),
        ("/v1/traces", b"", {"Content-Encoding": "unheard-of"}, 400),
    ],
)
def test_http_that_makes_no_sense(receiver: OtlpReceiver, path, body, headers, status) -> None:
    assert post(receiver.http_endpoint + path, body, **headers) == status
    assert post(f"{receiver.http_endpoint}/v1/traces", request_with("still there")) == 200


def test_wait_for(receiver: OtlpReceiver) -> None:
    assert not receiver.wait_for(lambda received: received.spans(), timeout_s=0.01)
    post(f"{receiver.http_endpoint}/v1/traces", request_with("a"))

    assert receiver.wait_for(lambda received: received.spans("a"))


@pytest.mark.parametrize(
    ("text", "line"),
    [("nonsense", 1), ('{"resourceSpans": []}\n[]', 2), ('{"foreign": 1}', 1), ('{"resourceSpans": 3}', 1)],
)
def test_files_that_are_no_otlp(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line} is no OTLP/JSON"):
        Received.from_json_lines(text)


def span(name: str, span_id: str, parent: str, start: int, end: int, **more) -> Span:
    fields = {
        "attributes": {},
        "events": (),
        "is_error": False,
        "status_message": "",
        "resource": {},
        "scope": "",
    }
    return Span(name, "t", span_id, parent, start, end, **{**fields, **more})


def show(*spans: Span, **options) -> list[str]:
    received = Received()
    received.spans = lambda name=None: list(spans)
    return [line.text for line in waterfall(received, **options)]


def test_waterfall() -> None:
    lines = show(
        span(
            "cuda.graph.capture_trigger", "1", "elsewhere", 0, 2400, attributes={"cuda.graph.engine": "vllm"}
        ),
        span("cuda.graph.capture", "2", "1", 0, 1200, attributes={"cuda.graph.key": "FULL 8"}),
        span(
            "cuda.graph.capture", "3", "1", 1200, 2400, is_error=True, attributes={"error.type": "ValueError"}
        ),
    )

    assert lines == [
        "cuda.graph.capture_trigger vllm  2.40 µs |████████████████████████| ok",
        "  FULL 8                         1.20 µs |████████████            | ok",
        "  cuda.graph.capture             1.20 µs |            ████████████| ERROR ValueError",
    ]


def test_points_of_processes_with_one_name() -> None:
    """The newest of each, told apart by when its series began."""
    lines = [
        json.dumps(
            {
                "resourceMetrics": [
                    {"scopeMetrics": [{"metrics": [{"name": "m", "sum": {"dataPoints": [
                        {"startTimeUnixNano": start, "timeUnixNano": time, "asInt": value}
                    ]}}]}]}
                ]
            }
        )
        for start, time, value in [(1, 5, 2), (2, 6, 10), (1, 7, 3)]
    ]  # fmt: skip
    received = Received.from_json_lines("\n".join(lines))

    assert sorted((p.start_ns, p.time_ns, p.value) for p in received.points("m")) == [(1, 7, 3), (2, 6, 10)]
    assert received.points("other") == []


def test_waterfall_of_chosen_spans_with_notes() -> None:
    spans = [span("root", "1", "", 0, 1200), span("child", "2", "1", 0, 1200)]

    (_, line) = waterfall(spans, notes={"2": "not counted"})

    assert line.text.endswith("| ok  (not counted)")


def test_waterfall_leaves_out_many_but_no_failure() -> None:
    lines = show(
        span("root", "1", "", 0, 100),
        *[span(f"child{i}", f"c{i}", "1", i, i + 1, is_error=i == 7) for i in range(10)],
        max_children=3,
    )

    assert len(lines) == 1 + 4 + 1
    assert "ERROR" in lines[4]
    assert lines[5] == "  … and 6 more"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (1.234e-6, "1.23 µs"),
        (0.0009, "900 µs"),
        (0.0123, "12.3 ms"),
        (0.638, "638 ms"),
        (59.99, "60.0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
