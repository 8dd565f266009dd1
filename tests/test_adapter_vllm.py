"""vLLM's triggers and keys, through its call structure on the CPU stand-in."""

from __future__ import annotations

import gc
import importlib
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace

from otel_cudagraph.testing import Span
from tests.engine_fakes import install_fake
from tests.pipeline import Pipeline
from tests.vllm_table import VLLM_TABLE

RUNNERS = {"v1": "vllm.v1.worker.gpu_model_runner", "v2": "vllm.v1.worker.gpu.model_runner"}
BOTH = pytest.mark.parametrize("version", ["v1", "v2"])


@pytest.fixture(params=["0.25.1"])
def vllm(request, monkeypatch, tmp_path, stand_in) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports a model runner's module."""
    fake = install_fake("vllm", request.param, monkeypatch, tmp_path)
    next(fake)
    yield lambda version: importlib.import_module(RUNNERS[version])
    next(fake, None)


def keys(spans: list[Span]) -> list[str]:
    return [span.attributes["cuda.graph.key"] for span in spans]


def serving(pipeline: Pipeline) -> list[Span]:
    return [s for s in pipeline.captures() if s.attributes["cuda.graph.purpose"] == "serving"]


@VLLM_TABLE
def test_triggers_and_graphs_as_the_engine_counts_them(
    vllm, pipeline, version: str, mode: str, counts: tuple[int, int, int]
) -> None:
    triggers, graphs, profiling = counts
    runner = vllm(version).GPUModelRunner(mode)
    counter = importlib.import_module("vllm.compilation.counter").compilation_counter
    if version == "v1":
        runner.profile_cudagraph_memory()

    runner.capture_model()

    assert (len(pipeline.triggers()), len(serving(pipeline))) == (triggers, graphs)
    assert pipeline.total("cuda.graph.capture_triggers") == counter.num_gpu_runner_capture_triggers
    assert pipeline.total("cuda.graph.captures", purpose="serving") == counter.num_cudagraph_captured
    assert pipeline.total("cuda.graph.captures", purpose="profiling") == profiling


@BOTH
def test_every_graph_has_a_key_of_its_own_a_mode_and_its_trigger(vllm, pipeline, version: str) -> None:
    vllm(version).GPUModelRunner("FULL_AND_PIECEWISE", sizes=(1, 8)).capture_model()

    (trigger,) = pipeline.triggers()
    spans = pipeline.captures()
    assert trigger.attributes["cuda.graph.runtime_mode"] == "FULL_AND_PIECEWISE"
    assert trigger.attributes["code.function.name"] == f"{RUNNERS[version]}.GPUModelRunner.capture_model"
    uniform = " uniform=True" if version == "v1" else ""
    assert keys(spans) == [
        *(f"PIECEWISE num_tokens=8 piece={piece}" for piece in range(5)),
        *(f"PIECEWISE num_tokens=1 piece={piece}" for piece in range(5)),
        f"FULL num_tokens=8 num_reqs=8{uniform}",
        f"FULL num_tokens=1 num_reqs=1{uniform}",
    ]
    assert [s.attributes["cuda.graph.runtime_mode"] for s in spans] == ["PIECEWISE"] * 10 + ["FULL"] * 2
    assert [s.attributes["cuda.graph.num_tokens"] for s in spans] == [8] * 5 + [1] * 5 + [8, 1]
    assert "cuda.graph.batch_size" not in spans[0].attributes
    assert spans[-1].attributes["cuda.graph.batch_size"] == 1
    assert {(s.attributes["cuda.graph.engine"], s.attributes["cuda.graph.phase"]) for s in spans} == {
        ("vllm", "startup")
    }
    assert {span.parent_id for span in spans} == {trigger.span_id}
    assert all(trigger.start_ns <= s.start_ns <= s.end_ns <= trigger.end_ns for s in spans)


@BOTH
def test_profiling_graphs_are_told_apart_and_make_no_trigger(vllm, pipeline, version: str) -> None:
    vllm(version).GPUModelRunner("FULL_DECODE_ONLY").profile_cudagraph_memory()

    assert pipeline.triggers() == []
    assert {
        (s.attributes["cuda.graph.purpose"], s.attributes["cuda.graph.phase"]) for s in pipeline.captures()
    } == {("profiling", "startup")}


def test_a_runner_that_skips_for_another_reason_makes_no_trigger(vllm, pipeline) -> None:
    vllm("v2").GPUModelRunner("FULL", pipeline_parallel=True).capture_model()

    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.capture_triggers") == 0


@BOTH
def test_a_failure_in_the_warm_up_is_a_failed_trigger_as_the_engine_counts_it(
    vllm, pipeline, version: str
) -> None:
    runner = vllm(version).GPUModelRunner("FULL")
    error = runner.fail_in_warm_up = MemoryError("no room")

    with pytest.raises(MemoryError) as seen:
        runner.capture_model()

    assert seen.value is error
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["error.type"] == "MemoryError"
    assert pipeline.total("cuda.graph.capture_triggers") == 1
    assert pipeline.total("cuda.graph.capture_trigger.active") == 0


def test_breakable_graphs_count_although_the_engine_does_not(vllm, pipeline) -> None:
    vllm("v2").GPUModelRunner("PIECEWISE", breakable=True, sizes=(4,)).capture_model()
    counter = importlib.import_module("vllm.compilation.counter").compilation_counter

    assert counter.num_cudagraph_captured == 0
    assert keys(pipeline.captures()) == [
        f"breakable PIECEWISE num_tokens=4 segment={segment}" for segment in range(5)
    ]
    assert len(pipeline.triggers()) == 1


def test_speculator_and_encoder_are_named(vllm, pipeline) -> None:
    module = vllm("v2")
    runner = module.GPUModelRunner("FULL", sizes=(2,)).with_encoder(lambda: None, budgets=(64, 128))
    speculators = importlib.import_module("vllm.v1.worker.gpu.spec_decode.speculator")
    runner.speculator = speculators.Speculator(runner.compilation_config)

    runner.capture_model()

    assert keys(pipeline.captures()) == [
        "encoder token_budget=128 path=default",
        "encoder token_budget=64 path=default",
        "FULL num_tokens=2 num_reqs=2",
        "speculator PrefillSpeculatorCudaGraphManager FULL num_tokens=2 num_reqs=2",
        "speculator FULL num_tokens=2 num_reqs=2",
    ]
    assert len(pipeline.triggers()) == 1


def test_the_engine_s_own_span_lies_between(vllm, pipeline, monkeypatch) -> None:
    """vLLM's V1 runner has a span of its own round `capture_model`, where its tracing is on."""
    module = vllm("v1")
    pipeline.instrumentor.uninstrument()
    tracer = pipeline.tracer_provider.get_tracer("vllm")
    monkeypatch.setattr(
        module.GPUModelRunner,
        "capture_model",
        tracer.start_as_current_span("Capture model")(module.GPUModelRunner.capture_model),
    )
    pipeline.instrumentor.instrument(
        tracer_provider=pipeline.tracer_provider, meter_provider=pipeline.meter_provider
    )

    module.GPUModelRunner("FULL", sizes=(1,)).capture_model()

    (trigger,) = pipeline.triggers()
    (own,) = pipeline.received.spans("Capture model")
    (graph,) = pipeline.captures()
    assert (own.parent_id, graph.parent_id) == (trigger.span_id, own.span_id)
    assert not trace.get_current_span().get_span_context().is_valid


@BOTH
def test_released_graphs_that_are_captured_again(vllm, pipeline, version: str) -> None:
    runner = vllm(version).GPUModelRunner("FULL", sizes=(1,))
    runner.capture_model()
    runner._reset()
    runner.capture_model()

    first, second = pipeline.captures()
    assert (first.attributes["cuda.graph.phase"], second.attributes["cuda.graph.phase"]) == (
        "startup",
        "recapture",
    )
    assert len(pipeline.triggers()) == 2


@BOTH
def test_an_engine_that_was_imported_first_is_hooked_and_let_go(vllm, stand_in, version: str) -> None:
    module = vllm(version)
    before = dict(vars(module.GPUModelRunner))

    with Pipeline() as pipeline:
        module.GPUModelRunner("FULL", sizes=(1,)).capture_model()
        assert len(pipeline.triggers()) == 1

    assert dict(vars(module.GPUModelRunner)) == before


@pytest.mark.parametrize("vllm", ["0.18.1"], indirect=True)
def test_a_hook_that_the_engine_lacks_is_named_and_graphs_are_counted(
    vllm, stand_in, monkeypatch, caplog
) -> None:
    module = vllm("v2")
    monkeypatch.delattr(module.LoRAModelRunnerMixin, "maybe_setup_dummy_loras")
    runner = module.GPUModelRunner("FULL", sizes=(1, 2))
    runner.maybe_setup_dummy_loras = lambda config: __import__("contextlib").nullcontext()

    with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
        runner.capture_model()
        assert len(pipeline.captures()) == 2
        assert pipeline.triggers() == []
        assert pipeline.total("cuda.graph.captures", engine="vllm") == 2

    name = f"{RUNNERS['v2']}.GPUModelRunner.maybe_setup_dummy_loras"
    lacking, unseen = [r.getMessage() for r in caplog.records if "vllm" in r.getMessage()]
    assert lacking == f"vllm 0.18.1 has no {name}: its captures are recorded with less detail"
    assert "no capture trigger of it was seen" in unseen
    assert f"vllm 0.18.1 has no {name}" in unseen


def test_an_adapter_that_cannot_describe_a_graph_leaves_it_counted(vllm, pipeline, monkeypatch) -> None:
    runner = vllm("v1").GPUModelRunner("FULL", sizes=(1,))
    context = importlib.import_module("vllm.forward_context")
    monkeypatch.setattr(context.BatchDescriptor, "_fields", 1 / 3)

    runner.capture_model()

    (span,) = pipeline.captures()
    assert "cuda.graph.key" not in span.attributes
    assert pipeline.total("cuda.graph.captures", engine="vllm") == 1


@BOTH
def test_profiling_graphs_of_another_wrapper_are_told_apart(vllm, pipeline, stand_in, version: str) -> None:
    """A wrapper outside vLLM, as other platforms bring it, captures in the same call."""
    module = vllm(version)
    runner = module.GPUModelRunner("FULL", sizes=(1,))
    runner._reset = stand_in.capture

    runner.profile_cudagraph_memory()

    purposes = [span.attributes["cuda.graph.purpose"] for span in pipeline.captures()]
    assert set(purposes) == {"profiling"}
    assert pipeline.total("cuda.graph.captures", purpose="serving") == 0


def test_graphs_of_micro_batches_have_a_key(vllm, pipeline, stand_in) -> None:
    vllm("v1")
    wrapper = importlib.import_module("vllm.v1.worker.gpu_ubatch_wrapper")

    wrapper.UBatchWrapper()._capture_ubatches([wrapper.UbatchMetadata(4), wrapper.UbatchMetadata(4)], None)

    (span,) = pipeline.captures()
    assert span.attributes["cuda.graph.key"] == "FULL num_tokens=8 num_ubatches=2"
    assert span.attributes["cuda.graph.runtime_mode"] == "FULL"


def test_a_runner_that_only_encodes(vllm, pipeline) -> None:
    vllm("v2")
    module = importlib.import_module("vllm.v1.worker.mm_encoder_model_runner")

    module.MMEncoderModelRunner(lambda: None, budgets=()).capture_model()
    assert pipeline.triggers() == []
    module.MMEncoderModelRunner(lambda: None, budgets=(8, 16)).capture_model()

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["cuda.graph.captured"] == 2


@BOTH
def test_nothing_is_said_where_a_trigger_is_seen(vllm, stand_in, caplog, version: str) -> None:
    """Not even where a model has captured graphs of its own before, while it was loaded."""
    module = vllm(version)
    loader = importlib.import_module("vllm.v1.spec_decode.gemma4")
    with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
        loader.capture_centroids(4)
        assert len(pipeline.captures()) == 4
        module.GPUModelRunner("FULL", sizes=(1, 2)).capture_model()
        assert len(pipeline.captures()) == 6

    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("purpose", ["profiling", "failed"])
def test_nothing_is_said_of_graphs_that_need_no_trigger(
    vllm, stand_in, caplog, monkeypatch, purpose: str
) -> None:
    runner = vllm("v1").GPUModelRunner("FULL", sizes=(1,))
    with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
        if purpose == "failed":
            monkeypatch.setattr(runner, "_forward", lambda x: 1 / 0)
            runner._reset()
            with pytest.raises(ZeroDivisionError):
                runner._dummy_run(1, importlib.import_module("vllm.config").CUDAGraphMode.FULL)
        else:
            runner.profile_cudagraph_memory()
        assert pipeline.captures()

    assert caplog.records == []


def test_a_forward_pass_is_not_kept_alive(vllm, pipeline) -> None:
    """Its context holds the batch's metadata, on the device."""
    runner = vllm("v1").GPUModelRunner("PIECEWISE", sizes=(1,))
    context = importlib.import_module("vllm.forward_context")
    seen = []
    runner.pieces[0].runnable = lambda x: seen.append(weakref.ref(context.get_forward_context())) or x

    runner.capture_model()

    assert keys(pipeline.captures())[-1] == "PIECEWISE num_tokens=1 piece=4"
    gc.collect()
    assert seen
    assert seen[-1]() is None


def test_a_trigger_that_is_never_called_is_named(vllm, stand_in, caplog) -> None:
    """A new version may capture by another way than the one that is hooked."""
    runner = vllm("v2").GPUModelRunner("FULL", sizes=(1,))
    with caplog.at_level(logging.WARNING, "otel_cudagraph"), Pipeline() as pipeline:
        runner.profile_cudagraph_memory()
        runner.cudagraph_manager.capture()
        assert len(pipeline.captures()) == 2

    (record,) = caplog.records
    assert "vllm captures CUDA graphs and no capture trigger of it was seen" in record.getMessage()
    assert f"vllm 0.25.1 called none of {RUNNERS['v2']}.GPUModelRunner.capture_model" in record.getMessage()
    assert "profile" not in record.getMessage()
