"""`expect` for processes that export: real ones, with the SDK set up from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otel_cudagraph.testing import InProcessCaptures, OtlpCaptures
from tests.toy_engine import capture_model

ROOT = Path(__file__).parents[1]
KEYS = ["batch=8", "batch=4", "batch=2"]


class Engine:
    """A process that does what it is told."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.exporting_engine"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def tell(self, line: str) -> None:
        """Let it begin."""
        print(line, file=self.process.stdin, flush=True)

    def wait(self) -> None:
        """Wait until it has done what it was told."""
        assert self.process.stdout.readline() == "done\n"

    def do(self, line: str) -> None:
        self.tell(line)
        self.wait()


@contextmanager
def engine(environment: dict[str, str]) -> Iterator[Engine]:
    running = Engine(environment)
    with running.process:
        yield running
        running.process.stdin.close()


@pytest.fixture
def captures() -> Iterator[OtlpCaptures]:
    with OtlpCaptures() as receiving:
        yield receiving


def failure(captures: OtlpCaptures, block, **expected) -> str:
    with pytest.raises(AssertionError) as raised, captures.expect(**expected):
        block()
    return str(raised.value)


def test_a_process_that_ends(captures: OtlpCaptures) -> None:
    expected = captures.expect(triggers=1, graphs=3, engine="toy", keys=KEYS, largest_first=True, replays=2)
    with expected as seen, engine(captures.environment) as running:
        running.do("for graph in capture_model()[:2]: graph.replay()")

    assert seen.graphs[0].trigger is seen.triggers[0]
    assert running.process.returncode == 0


def test_a_process_that_goes_on(captures: OtlpCaptures) -> None:
    """The block ends as soon as the engine has been told; what it does arrives later."""
    with engine(captures.environment) as running:
        with captures.expect(triggers=1, graphs=3, keys=KEYS):
            running.tell("capture_model()")
        running.wait()
        with captures.expect(triggers=1, graphs=1, keys=["batch=16"], replays=0):
            running.do("capture_model([16])")
        with captures.expect(graphs=2) as outside:
            running.do("capture_one(3); capture_one(5)")
        with captures.expect(triggers=0, graphs=0):
            pass

    assert [graph.trigger for graph in outside.graphs] == [None, None]


def test_one_too_many(captures: OtlpCaptures) -> None:
    with engine(captures.environment) as running:
        text = failure(captures, lambda: running.do("capture_model([8, 4, 2, 1])"), graphs=3, keys=KEYS)
        assert "- graphs: expected 3, saw 4" in text
        assert "- unexpected keys: [batch=1]" in text
        assert "batch=1 " in text.splitlines()[-1]

        text = failure(captures, lambda: running.do("capture_one(8); capture_one(4)"), graphs=1)
        assert "- graphs: expected 1, saw 2" in text
        assert "timeout_s" not in text, "no time-out is needed to see it"

        text = failure(captures, lambda: running.do("capture_model(); capture_model()"), triggers=1)
        assert "- triggers: expected 1, saw 2" in text


def test_one_too_many_in_traces_alone(captures: OtlpCaptures) -> None:
    """Without metrics a trigger still says how many captures it had."""
    with engine({**captures.environment, "OTEL_METRICS_EXPORTER": "none"}) as running:
        assert "expected 3, saw 4" in failure(
            captures, lambda: running.do("capture_model([8, 4, 2, 1])"), triggers=1, graphs=3
        )
        with captures.expect(triggers=1, graphs=3):
            running.do("capture_model()")


def test_what_ended_before_the_block_does_not_count(captures: OtlpCaptures) -> None:
    """Its telemetry may arrive in the block."""
    with engine(captures.environment) as running:
        running.do("capture_model([64]); graph = capture_one(32)")
        with captures.expect(triggers=1, graphs=1, keys=["batch=16"]):
            running.do("capture_model([16])")
        running.do("graph.replay()")
        with captures.expect(replays=0):
            pass


def test_an_ended_process_holds_up_no_verdict(captures: OtlpCaptures) -> None:
    with engine(captures.environment) as alive:
        alive.do("capture_one(1)")
        with captures.expect(graphs=1), engine(captures.environment) as ended:
            ended.do("capture_one(2)")

        assert captures.conclude(captures.begin(timeout_s=30), lambda block: True, timeout_s=30)


def test_captures_are_waited_for_that_a_trigger_announces(captures: OtlpCaptures) -> None:
    def export_a_part() -> None:
        with InProcessCaptures() as here, here.expect(graphs=3):
            capture_model()
        first, *_, trigger = here.received.traces  # the trigger's span ends last
        with grpc.insecure_channel(captures.endpoint.removeprefix("http://")) as channel:
            for data in (first, trigger):
                request = ExportTraceServiceRequest(resource_spans=data.resource_spans)
                TraceServiceStub(channel).Export(request)

    text = failure(captures, export_a_part, keys=["batch=16"], timeout_s=1.5)

    assert "- unexpected keys: [batch=8]" in text
    assert "- a trigger says that it had 3 capture(s), there are 1 below it" in text
    assert "- waited for it until timeout_s=1.5 was over" in text


def test_a_missing_one_is_waited_for(captures: OtlpCaptures) -> None:
    with engine(captures.environment) as running:
        text = failure(captures, lambda: running.do("capture_model([8, 4])"), keys=KEYS, timeout_s=1.5)

    assert "- missing keys: [batch=2]" in text
    assert "- waited for it until timeout_s=1.5 was over" in text
    assert "  batch=4 " in text


def test_several_processes_of_one_name(captures: OtlpCaptures) -> None:
    environment = {**captures.environment, "OTEL_SERVICE_NAME": "engine"}
    expected = captures.expect(triggers=2, graphs=4, keys={"batch=8", "batch=4"}, replays=1)
    with expected, engine(environment) as one, engine(environment) as two:
        one.tell("capture_model([8, 4])[0].replay()")
        two.tell("capture_model([8, 4])")


def test_failures_and_purposes(captures: OtlpCaptures) -> None:
    with engine(captures.environment) as running, captures.expect(triggers=1, graphs=1, failed=1) as seen:
        running.tell("import contextlib")
        running.tell("capture_model([32], purpose='profiling')")
        line = "with contextlib.suppress(ValueError), capture_trigger(): "
        running.tell(line + "capture_one(8), capture_one(4, ValueError())")

    assert seen.failures[0].error_type == "ValueError"


def test_an_open_trigger_is_waited_for(captures: OtlpCaptures) -> None:
    with engine(captures.environment) as running:
        running.do("trigger = capture_trigger(); trigger.__enter__(); capture_one(8)")
        with captures.expect(triggers=1, graphs=2):
            running.tell("capture_one(4); trigger.__exit__(None, None, None)")

        text = failure(captures, lambda: running.do("trigger.__enter__()"), timeout_s=1.5)
        running.do("trigger.__exit__(None, None, None)")

    assert "- 1 capture trigger(s) still under way when the block ended" in text


def test_spans_that_never_come_are_missed(captures: OtlpCaptures) -> None:
    with engine({**captures.environment, "OTEL_TRACES_SAMPLER": "always_off"}) as running:
        text = failure(captures, lambda: running.do("capture_model()"), timeout_s=1.5)

    assert "- the counter cuda.graph.captures says 3, there are 0 such spans since the test began" in text


def test_nothing_exported_says_what_to_check(captures: OtlpCaptures) -> None:
    text = failure(captures, capture_model, triggers=1, timeout_s=0.1)
    assert "no process exported here" in text

    with engine(captures.environment) as running:
        running.do("from opentelemetry import trace")
        running.do("trace.get_tracer('mine').start_span('mine').end()")
    assert "but no captures" in failure(captures, lambda: None, triggers=1, timeout_s=0.1)


def test_the_block_s_exception_goes_on_at_once(captures: OtlpCaptures) -> None:
    with pytest.raises(KeyError, match="mine"), captures.expect(triggers=5) as seen:
        raise KeyError("mine")

    assert seen.graphs == []


def test_the_environment_overrides_what_would_lead_elsewhere(captures: OtlpCaptures, monkeypatch) -> None:
    foreign = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "token=secret",
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        "http_proxy": "http://127.0.0.1:1",
        "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")

    with captures.expect(triggers=1, graphs=3) as seen, engine(captures.environment) as running:
        running.do("capture_model()")

    assert seen.triggers[0].span.parent_id == ""
    assert seen.triggers[0].span.resource["service.name"] == "mine"
    assert os.environ["OTEL_SDK_DISABLED"] == "true", "this process keeps its own"
