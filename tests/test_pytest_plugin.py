"""The fixtures, in pytest sessions of their own: nothing leaks, nothing is in the way."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_cudagraph import Config, CudaGraphInstrumentor
from tests import plain_graphs, toy_engine

ROOT = Path(__file__).parents[1]
HEAD = """
import os
import subprocess
import sys
import pytest
from otel_cudagraph import CudaGraphInstrumentor
from tests import plain_graphs
from tests.toy_engine import capture_model, capture_one

"""


@pytest.fixture(autouse=True)
def _inner_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """They find the checkout, and no plugin but those that a test names."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    """Run `tests` in a process of its own."""
    pytester.makepyfile(HEAD + tests)
    return pytester.runpytest_subprocess(
        "-p", "otel_cudagraph.pytest_plugin", "-p", "no:cacheprovider", "-W", "error", *options
    )


def test_it_is_registered() -> None:
    (plugin,) = entry_points(group="pytest11", name="otel_cudagraph")

    assert plugin.value == "otel_cudagraph.pytest_plugin"


def test_a_test_that_passes_and_one_that_fails(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
def test_passes(cudagraphs):
    with cudagraphs.expect(triggers=1, graphs=3, keys=["batch=8", "batch=4", "batch=2"]) as captured:
        capture_model()
    assert captured.triggers[0].duration_s > 0

def test_fails(cudagraphs):
    with cudagraphs.expect(triggers=1, graphs=4):
        capture_model()
""",
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       with cudagraphs.expect(triggers=1, graphs=4):",
            "E       AssertionError: the captures are not as expected",
            "E       expected: triggers=1, graphs=4, failed=0 (purpose=serving)",
            "E       seen:     triggers=1, graphs=3, failed=0, replays=0",
            "E       - graphs: expected 4, saw 3",
            "E         batch=2 *| ok",
            "test_a_test_that_passes_and_one_that_fails.py:*: AssertionError",
        ]
    )
    result.stdout.no_fnmatch_line("*captures.py*")
    result.stdout.no_fnmatch_line("*contextlib*")


def test_no_frame_of_ours_in_the_report(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
def test_unknown(cudagraphs):
    cudagraphs.expect(graph=4)

def test_wrong(cudagraphs):
    cudagraphs.expect(purpose="warmup")

def test_taken_out(cudagraphs):
    with cudagraphs.expect():
        CudaGraphInstrumentor().uninstrument()

def test_block_raises(cudagraphs):
    with cudagraphs.expect(graphs=3):
        raise KeyError("mine")

def test_otlp(cudagraphs_otlp):
    with cudagraphs_otlp.expect(graphs=3, timeout_s=0.1):
        pass
""",
    )

    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(["E       TypeError: expect() has no parameter 'graph'*"])
    result.stdout.fnmatch_lines(["E       ValueError: purpose='warmup' is not known*"])
    result.stdout.fnmatch_lines(["E       RuntimeError: the instrumentation of this test was taken out*"])
    result.stdout.fnmatch_lines(["E  *KeyError: 'mine'"])
    result.stdout.fnmatch_lines(["E       - no process exported here*"])
    result.stdout.no_fnmatch_line("*otel_cudagraph/testing/*")


LEAKING = """
left_alive = []

def test_fails_in_a_trigger(cudagraphs):
    with cudagraphs.expect(triggers=5):
        left_alive.extend(capture_model())

def test_leaves_a_trigger_open(cudagraphs):
    from otel_cudagraph import capture_trigger
    left_alive.append(capture_trigger())
    left_alive[-1].__enter__()

def test_instruments_itself(cudagraphs):
    CudaGraphInstrumentor().uninstrument()
    CudaGraphInstrumentor().instrument()
    left_alive.append(capture_one(16))

def test_starts_from_zero(cudagraphs):
    with cudagraphs.expect(triggers=0, graphs=0, replays=0, purpose=None):
        pass
    assert cudagraphs.received.metrics() == {}
    assert cudagraphs.received.spans() == []
    with cudagraphs.expect(triggers=1, graphs=3, phase="startup"):
        capture_model()
    assert cudagraphs.received.metrics()["cuda.graph.count"].total() == 3 - 3  # none is kept alive

def test_is_left_alone():
    assert not CudaGraphInstrumentor().is_instrumented_by_opentelemetry
    assert vars(plain_graphs.PlainGraph)["replay"].__module__ == "tests.plain_graphs"
"""


def test_nothing_leaks_from_test_to_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAKING)

    result.assert_outcomes(failed=1, passed=4)


def test_under_xdist(pytester: pytest.Pytester) -> None:
    """Each worker counts its own, and receives on ports of its own."""
    result = run(
        pytester,
        """
@pytest.mark.parametrize("number", range(1, 7))
def test_in_process(cudagraphs, number):
    with cudagraphs.expect(triggers=1, graphs=number):
        capture_model(range(number, 0, -1))

@pytest.mark.parametrize("number", [2, 3])
def test_over_otlp(cudagraphs_otlp, number):
    with cudagraphs_otlp.expect(triggers=1, graphs=number):
        subprocess.run(
            [sys.executable, "-m", "tests.exporting_engine"],
            input=f"capture_model(range({number}))", text=True, check=True,
        )
""",
        *("-p", "xdist", "-n", "2"),
    )

    result.assert_outcomes(passed=8)


def test_the_environment_is_set_for_the_test_alone(pytester: pytest.Pytester, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = run(
        pytester,
        """
before = dict(os.environ)

def ours():
    return {n: v for n, v in os.environ.items() if n.startswith("OTEL_")}

def test_set(cudagraphs_otlp):
    assert ours() == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": cudagraphs_otlp.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    assert cudagraphs_otlp.environment.items() >= ours().items()
    assert cudagraphs_otlp.environment["PATH"] == os.environ["PATH"]

def test_unset():
    assert ours() == {n: v for n, v in before.items() if n.startswith("OTEL_")}

def test_in_process_does_not_care(cudagraphs):
    with cudagraphs.expect(triggers=1, graphs=3):
        capture_model()
    assert os.environ["OTEL_SDK_DISABLED"] == "true"
""",
    )

    result.assert_outcomes(passed=3)


STARTS_UNSEEN = """
import sys
import threading

def test_nothing_is_loaded_or_patched():
    heavy = ("torch", "opentelemetry.sdk", "grpc", "google.protobuf", "otel_cudagraph.testing")
    assert [name for name in heavy if name in sys.modules] == []
    assert "otel_cudagraph.pytest_plugin" in sys.modules
    assert threading.enumerate() == [threading.main_thread()]
    from otel_cudagraph import CudaGraphInstrumentor
    assert not CudaGraphInstrumentor().is_instrumented_by_opentelemetry
"""


def test_unused_it_is_out_of_the_way(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(STARTS_UNSEEN)

    pytester.runpytest_subprocess("-p", "otel_cudagraph.pytest_plugin").assert_outcomes(passed=1)


@pytest.mark.parametrize("module", ["grpc", "opentelemetry.sdk", "google.protobuf"])
def test_without_the_extra_only_the_fixtures_fail(pytester: pytest.Pytester, module: str) -> None:
    """None in `sys.modules` is a module that is not installed."""
    pytester.makeconftest(f"import sys; sys.modules[{module!r}] = None")
    result = run(
        pytester,
        """
def test_in_process(cudagraphs): ...
def test_otlp(cudagraphs_otlp): ...
def test_unconcerned(): ...
""",
    )

    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*fixture cudagraphs needs *pip install 'otel-cudagraph?testing?'"])
    result.stdout.fnmatch_lines(["*fixture cudagraphs_otlp needs *pip install 'otel-cudagraph?testing?'"])


def test_a_user_who_instrumented_already_gets_it_back(pytester: pytest.Pytester) -> None:
    """In this process, so that it can be looked at before and after."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    given = {
        "tracer_provider": tracer_provider,
        "meter_provider": meter_provider,
        "config": Config(replays=False),
    }
    instrumentor = CudaGraphInstrumentor()
    instrumentor.instrument(**given)
    toy_engine.capture_model((1,))

    pytester.makepyfile(
        HEAD
        + """
def test_takes_over(cudagraphs):
    with cudagraphs.expect(triggers=1, graphs=3, replays=1):
        capture_model()[0].replay()

def test_fails(cudagraphs):
    raise KeyError

def test_takes_it_all_out(cudagraphs):
    CudaGraphInstrumentor().uninstrument()
"""
    )
    result = pytester.runpytest_inprocess("-p", "otel_cudagraph.pytest_plugin", "-p", "no:cacheprovider")
    arguments = instrumentor.arguments
    replay = vars(plain_graphs.PlainGraph)["replay"]
    toy_engine.capture_model((1,))
    instrumentor.hand_over()
    instrumentor.uninstrument()

    result.assert_outcomes(passed=2, failed=1)
    assert arguments == given
    assert replay.__module__ == "tests.plain_graphs", "replays are not counted, as before"
    assert [span.name for span in spans.get_finished_spans()] == [
        "cuda.graph.capture",
        "cuda.graph.capture_trigger",
    ] * 2
    (captures,) = [
        metric
        for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "cuda.graph.captures"
    ]
    assert sum(point.value for point in captures.data.data_points) == 2


def test_without_pytest() -> None:
    program = """
import unittest
from otel_cudagraph.testing import InProcessCaptures
from tests.toy_engine import capture_model

class TestCapture(unittest.TestCase):
    def test_capture(self):
        with InProcessCaptures() as cudagraphs, cudagraphs.expect(triggers=1, graphs=4):
            capture_model()

unittest.main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert "FAILED (failures=1)" in result.stderr
    assert "- graphs: expected 4, saw 3" in result.stderr
