"""Installing and taking back: exactly, in any order of imports, beside other people's patches."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

import pytest

from otel_cudagraph import Config, CudaGraphInstrumentor, GraphFamily, batch_descriptor, register_graph_family
from tests import plain_graphs
from tests.backends import eventually
from tests.conftest import StandIn
from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")
PATCHED = [torch.cuda.CUDAGraph, torch.cuda.graph, torch.xpu.XPUGraph, torch.xpu.graph]


def contents(*classes: type) -> list[dict[str, object]]:
    return [dict(vars(cls)) for cls in classes]


def test_uninstrument_restores_every_class_exactly(stand_in: StandIn) -> None:
    register_graph_family(plain_graphs.FAMILY)
    classes = [*PATCHED, stand_in.module.StandInGraph, stand_in.module.graph, torch.accelerator.Graph]
    classes += [plain_graphs.PlainGraph, plain_graphs.Driver, plain_graphs.capture]
    before = contents(*classes)

    for _ in range(2):
        CudaGraphInstrumentor().instrument()
        changed = [
            name
            for cls, old in zip(classes, before, strict=True)
            for name in old
            if vars(cls)[name] is not old[name]
        ]
        CudaGraphInstrumentor().uninstrument()

        assert {"capture_begin", "capture_end", "replay", "reset", "__enter__", "__exit__"} <= set(changed)
        assert contents(*classes) == before


def test_a_patch_made_after_ours_stays_and_is_named(stand_in: StandIn, caplog) -> None:
    cls = stand_in.module.StandInGraph
    stock = vars(cls)["capture_end"]
    with Pipeline() as pipeline:
        ours = cls.capture_end
        calls = []

        def theirs(self):
            calls.append(self)
            return ours(self)

        cls.capture_end = theirs
        stand_in.capture()
        assert pipeline.total("cuda.graph.captures") == 1

        pipeline.instrumentor.uninstrument()
    try:
        assert vars(cls)["capture_end"] is theirs
        assert "StandInGraph.capture_end was patched by somebody else after us" in caplog.text
        assert vars(cls)["capture_begin"].__module__ == "runner.stand_in"
        stand_in.capture().replay()
        assert len(calls) == 2

        with Pipeline() as pipeline:
            stand_in.capture()
            assert pipeline.total("cuda.graph.captures") == 1
            assert len(pipeline.captures()) == 1
    finally:
        cls.capture_end = stock


def test_instrument_again_goes_on_counting(stand_in: StandIn) -> None:
    """Cumulative counters must not start anew for the same meter provider."""
    with Pipeline() as pipeline:
        first = stand_in.capture()
        first.replay()
        pipeline.instrumentor.uninstrument()
        first.replay()
        pipeline.instrumentor.instrument(
            tracer_provider=pipeline.tracer_provider, meter_provider=pipeline.meter_provider
        )
        stand_in.capture()
        first.replay()

        assert pipeline.total("cuda.graph.captures") == 2
        assert pipeline.total("cuda.graph.replays") == 2


@pytest.mark.parametrize("name", ["replay", "capture_end", "capture_begin"])
def test_a_leftover_patch_of_ours_stays_inert_when_instrumented_again(stand_in: StandIn, name: str) -> None:
    """Somebody saved our method, wrapped it, and put it back after `uninstrument()`."""
    cls = stand_in.module.StandInGraph
    stock = vars(cls)[name]
    with Pipeline() as pipeline:
        saved = vars(cls)[name]
        setattr(cls, name, functools.partialmethod(saved))
        pipeline.instrumentor.uninstrument()
        setattr(cls, name, saved)
        try:
            pipeline.instrumentor.instrument(
                tracer_provider=pipeline.tracer_provider, meter_provider=pipeline.meter_provider
            )
            stand_in.capture().replay()

            assert pipeline.total("cuda.graph.captures") == 1
            assert pipeline.total("cuda.graph.replays") == 1
            assert len(pipeline.captures()) == 1
            pipeline.instrumentor.uninstrument()
        finally:
            setattr(cls, name, stock)


def test_a_graph_reset_while_nobody_looked_is_not_live(stand_in: StandIn) -> None:
    with Pipeline() as pipeline:
        again = {"tracer_provider": pipeline.tracer_provider, "meter_provider": pipeline.meter_provider}
        with batch_descriptor(runtime_mode="FULL"):
            graph = stand_in.capture()
        graph.replay()
        pipeline.instrumentor.uninstrument()
        graph.reset()
        pipeline.instrumentor.instrument(**again)
        assert pipeline.total("cuda.graph.count") == 0

        with batch_descriptor(runtime_mode="PIECEWISE"):
            stand_in.capture(graph)
        graph.replay()
        assert pipeline.total("cuda.graph.count", runtime_mode="FULL") == 0
        assert pipeline.total("cuda.graph.count", runtime_mode="PIECEWISE") == 1
        assert pipeline.total("cuda.graph.replays", runtime_mode="FULL") == 1
        assert pipeline.total("cuda.graph.replays", runtime_mode="PIECEWISE") == 1


def test_a_capture_across_uninstrument_is_no_failure(stand_in: StandIn) -> None:
    with Pipeline() as pipeline:
        graph = stand_in.graph()
        graph.capture_begin()
        pipeline.instrumentor.uninstrument()
        graph.capture_end()
        pipeline.instrumentor.instrument(
            tracer_provider=pipeline.tracer_provider, meter_provider=pipeline.meter_provider
        )
        graph.reset()

        assert pipeline.captures() == []


def test_nothing_is_left_of_many_rounds(stand_in: StandIn) -> None:
    import gc
    import threading

    from otel_cudagraph.installation import Installation

    for _ in range(5):
        CudaGraphInstrumentor().instrument()
        stand_in.capture()
        CudaGraphInstrumentor().uninstrument()
    gc.collect()

    eventually(lambda: not [t for t in threading.enumerate() if t.name == "otel-cudagraph-outbox"])
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Installation]


def test_a_second_construction_keeps_the_state(pipeline: Pipeline, stand_in: StandIn) -> None:
    assert CudaGraphInstrumentor().is_instrumented_by_opentelemetry
    stand_in.capture()

    assert len(pipeline.captures()) == 1


def test_a_failed_instrument_rolls_back(stand_in: StandIn, monkeypatch, caplog) -> None:
    before = contents(*PATCHED, stand_in.module.StandInGraph)
    # A version whose context class is gone: patched last, after the others succeeded.
    module = sys.modules[__name__]
    monkeypatch.setattr("otel_cudagraph.families._TABLE", [])
    for family in (
        GraphFamily("cuda", "torch.cuda.graphs", "CUDAGraph", "graph", "torch.cuda"),
        GraphFamily("broken", module.__name__, "Pipeline", "no_such_class", "torch.cuda"),
    ):
        register_graph_family(family)

    CudaGraphInstrumentor().instrument()

    assert contents(*PATCHED, stand_in.module.StandInGraph) == before
    assert "CUDA graphs are not instrumented" in caplog.text
    assert "no_such_class" in caplog.text
    monkeypatch.undo()
    with Pipeline() as pipeline:
        stand_in.capture()
        assert pipeline.total("cuda.graph.captures") == 1


def test_two_families_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="another graph family is registered as 'cuda'"):
        register_graph_family(GraphFamily("cuda", "mine", "Graph", "graph", "mine"))


def test_torch_imported_later_is_patched() -> None:
    program = """
        import sys
        from otel_cudagraph import CudaGraphInstrumentor
        CudaGraphInstrumentor().instrument()
        assert "torch" not in sys.modules
        import torch
        print(torch.cuda.CUDAGraph.replay.__code__.co_filename)
        stock = torch.cuda.CUDAGraph.replay.__wrapped__
        CudaGraphInstrumentor().uninstrument()
        assert torch.cuda.CUDAGraph.replay is stock
    """
    assert "otel_cudagraph" in run_program(program)


def test_uninstrumented_before_torch_is_imported() -> None:
    program = """
        from otel_cudagraph import CudaGraphInstrumentor
        CudaGraphInstrumentor().instrument()
        CudaGraphInstrumentor().uninstrument()
        import torch
        print(torch.cuda.CUDAGraph.replay.__code__.co_filename)
    """
    assert "otel_cudagraph" not in run_program(program)


def test_opentelemetry_instrument_needs_no_code_change(tmp_path) -> None:
    """The report's own words: `opentelemetry-instrument python app.py`, torch imported by the app."""
    app = tmp_path / "app.py"
    app.write_text("import torch\nprint(torch.cuda.CUDAGraph.capture_end.__code__.co_filename)\n")
    command = [
        sys.executable,
        "-m",
        "opentelemetry.instrumentation.auto_instrumentation",
        sys.executable,
        str(app),
    ]
    command = [str(__import__("pathlib").Path(sys.executable).parent / "opentelemetry-instrument")]
    command += ["--traces_exporter", "none", "--metrics_exporter", "none", "--logs_exporter", "none"]
    run = subprocess.run([*command, sys.executable, str(app)], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert "otel_cudagraph" in run.stdout


def test_entry_points() -> None:
    (instrumentor,) = [p for p in entry_points(group="opentelemetry_instrumentor") if p.name == "cudagraph"]
    assert instrumentor.load() is CudaGraphInstrumentor
    (variables,) = [
        p for p in entry_points(group="opentelemetry_environment_variables") if p.name == "cudagraph"
    ]
    names = [name for name in vars(variables.load()) if name.startswith("OTEL_")]
    assert names
    assert all(name.startswith("OTEL_PYTHON_CUDAGRAPH_") for name in names)


@pytest.mark.parametrize("version", ["2.4.0", "2.14.0.dev20251001+cu130", "2.13.0a0+gitabcdef"])
def test_nightlies_and_vendor_builds_are_accepted(version: str) -> None:
    from packaging.requirements import Requirement

    (requirement,) = CudaGraphInstrumentor().instrumentation_dependencies()
    assert Requirement(requirement).specifier.contains(version, prereleases=True)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_PYTHON_CUDAGRAPH_REPLAYS", "maybe", "is not true or false; using True"),
        ("OTEL_PYTHON_CUDAGRAPH_MAX_PENDING", "0", "is not a whole number from 1; using 65536"),
    ],
)
def test_a_bad_setting_is_logged_and_the_default_used(
    stand_in, monkeypatch, caplog, name, value, said
) -> None:
    monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING), Pipeline() as pipeline:
        stand_in.capture().replay()
        assert pipeline.total("cuda.graph.replays") == 1

    assert f"{name}={value!r} {said}" in caplog.text


def run_program(program: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_arguments_are_what_was_given() -> None:
    instrumentor = CudaGraphInstrumentor()
    assert instrumentor.arguments is None

    instrumentor.instrument()
    arguments = instrumentor.arguments
    instrumentor.uninstrument()

    assert arguments == {"config": Config.from_env()}
    assert instrumentor.arguments is None
