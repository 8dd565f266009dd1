"""SGLang's triggers and keys, through its two call structures on the CPU stand-in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_cudagraph.testing import Span
from tests.engine_fakes import FAKES, install_fake
from tests.pipeline import Pipeline

FORMER, SHAPES = ("0.5.9", "sglang-0.5.9"), ("0.5.15", "sglang-0.5.14")
BREAKABLE = ("0.5.12", "sglang-0.5.9")
EXECUTOR = "sglang.srt.model_executor"


@pytest.fixture(params=[FORMER, SHAPES], ids=lambda layout: layout[0])
def sglang(request, monkeypatch, tmp_path, stand_in) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports a module of ``sglang.srt``."""
    version, folder = request.param
    fake = install_fake("sglang", version, monkeypatch, tmp_path, FAKES / folder)
    next(fake)
    yield lambda module: importlib.import_module(f"sglang.srt.{module}")
    next(fake, None)


def of(*layouts: tuple[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sglang", layouts, indirect=True, ids=lambda layout: layout[0])


def model_runner(sglang, **options: Any) -> Any:
    return sglang("model_executor.model_runner").ModelRunner(**options)


def keys(spans: list[Span]) -> list[str]:
    return [span.attributes["cuda.graph.key"] for span in spans]


def values(spans: list[Span], name: str) -> list[object]:
    return [span.attributes.get(f"cuda.graph.{name}") for span in spans]


@of(FORMER)
def test_start_up_of_a_model_with_both_runners_up_to_0_5_13(sglang, pipeline) -> None:
    """The engine captures in two calls with other work between them: two triggers."""
    model_runner(sglang, prefill="piecewise").initialize()

    decode, prefill = pipeline.triggers()
    name = f"{EXECUTOR}.model_runner.ModelRunner"
    assert decode.attributes["code.function.name"] == f"{name}.init_device_graphs"
    assert prefill.attributes["code.function.name"] == f"{name}.init_piecewise_cuda_graphs"
    spans = pipeline.captures()
    assert keys(spans) == [
        "CudaGraphRunner batch_size=2 num_tokens=2",
        "CudaGraphRunner batch_size=1 num_tokens=1",
        *["PiecewiseCudaGraphRunner batch_size=1 num_tokens=64"] * 2,
        *["PiecewiseCudaGraphRunner batch_size=1 num_tokens=16"] * 2,
    ]
    assert values(spans, "runtime_mode") == ["FULL"] * 2 + ["PIECEWISE"] * 4
    assert values(spans, "batch_size") == [2, 1, 1, 1, 1, 1]
    assert values(spans, "num_tokens") == [2, 1, 64, 64, 16, 16]
    assert values([decode, prefill], "captured") == [2, 4]
    assert [s.parent_id for s in spans] == [decode.span_id] * 2 + [prefill.span_id] * 4


@of(SHAPES)
def test_start_up_of_a_model_with_both_runners_from_0_5_14_on(sglang, pipeline) -> None:
    model_runner(sglang, prefill="full").initialize()

    (trigger,) = pipeline.triggers()
    assert trigger.attributes["code.function.name"] == f"{EXECUTOR}.model_runner.ModelRunner.init_cuda_graphs"
    spans = pipeline.captures()
    assert keys(spans) == [
        "PrefillCudaGraphRunner full num_tokens=64",
        "PrefillCudaGraphRunner full num_tokens=16",
        "DecodeCudaGraphRunner full batch_size=2",
        "DecodeCudaGraphRunner full batch_size=1",
    ]
    assert values(spans, "num_tokens") == [64, 16, None, None]
    assert values(spans, "batch_size") == [None, None, 2, 1]
    assert values(spans, "runtime_mode") == ["FULL"] * 4
    assert {span.parent_id for span in spans} == {trigger.span_id}


def test_every_start_up_is_counted_once(sglang, pipeline) -> None:
    runner = model_runner(sglang)
    runner.initialize()
    runner.initialize()

    assert pipeline.total("cuda.graph.capture_triggers", engine="sglang") == 2
    assert pipeline.total("cuda.graph.captures", engine="sglang", purpose="serving") == 4
    assert pipeline.total("cuda.graph.capture_trigger.active") == 0
    assert values(pipeline.triggers(), "phase") == ["startup"] * 2
    assert values(pipeline.captures(), "phase") == ["startup"] * 2 + ["recapture"] * 2


@of(SHAPES)
@pytest.mark.parametrize(("backend", "graphs"), [("breakable", 1), ("tc_piecewise", 2)])
def test_prefill_backends_that_capture_in_pieces(sglang, pipeline, backend: str, graphs: int) -> None:
    model_runner(sglang, prefill=backend, disable_cuda_graph=True).initialize()

    spans = pipeline.captures()
    assert keys(spans) == [
        *[f"PrefillCudaGraphRunner {backend} num_tokens=64"] * graphs,
        *[f"PrefillCudaGraphRunner {backend} num_tokens=16"] * graphs,
    ]
    assert set(values(spans, "runtime_mode")) == {"PIECEWISE"}
    assert len(pipeline.triggers()) == 1


@of(BREAKABLE)
def test_breakable_prefill_runner_of_0_5_12(sglang, pipeline) -> None:
    model_runner(sglang, prefill="breakable", disable_cuda_graph=True).initialize()

    spans = pipeline.captures()
    assert keys(spans) == [
        "BreakableCudaGraphRunner num_tokens=64",
        "BreakableCudaGraphRunner num_tokens=16",
    ]
    assert values(spans, "runtime_mode") == ["PIECEWISE"] * 2
    assert len(pipeline.triggers()) == 1


def test_streams_have_keys_of_their_own(sglang, pipeline) -> None:
    model_runner(sglang, capture_bs=(1,), streams=(0, 1)).initialize()

    assert [key.rpartition(" ")[2] for key in keys(pipeline.captures())] == ["stream=0", "stream=1"]
    assert values(pipeline.captures(), "phase") == ["startup"] * 2


@of(SHAPES)
def test_variants_have_keys_of_their_own(sglang, pipeline) -> None:
    module = sglang("model_executor.runner.decode_cuda_graph_runner")
    module.DecodeCudaGraphRunner(model_runner(sglang, capture_bs=(4,)), variants=("nolora", "lora"))

    assert keys(pipeline.captures()) == [
        "DecodeCudaGraphRunner full batch_size=4 variant=nolora",
        "DecodeCudaGraphRunner full batch_size=4 variant=lora",
    ]


def test_a_model_without_graphs_makes_no_trigger(sglang, pipeline) -> None:
    model_runner(sglang, disable_cuda_graph=True).initialize()

    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.capture_triggers") == 0


def test_a_draft_model_is_a_trigger_of_its_own(sglang, pipeline) -> None:
    runner = model_runner(sglang, capture_bs=(2,))
    runner.initialize()
    sglang("speculative.eagle_draft_cuda_graph_runner").EAGLEDraftCudaGraphRunner(runner)

    _, draft = pipeline.triggers()
    graph = pipeline.captures()[-1]
    assert draft.attributes["code.function.name"].endswith("CudaGraphRunner.capture")
    assert graph.parent_id == draft.span_id
    assert graph.attributes["cuda.graph.key"].startswith("EAGLEDraftCudaGraphRunner ")
    assert graph.attributes["cuda.graph.batch_size"] == 2


def test_a_graph_captured_while_serving(sglang, pipeline) -> None:
    encoder = sglang("multimodal.vit_cuda_graph_runner").ViTCudaGraphRunner()
    encoder.run(196)

    (span,) = pipeline.captures()
    assert pipeline.triggers() == []
    assert (span.attributes["cuda.graph.engine"], span.attributes["cuda.graph.phase"]) == (
        "sglang",
        "runtime",
    )
    assert "cuda.graph.key" not in span.attributes
    assert pipeline.total("cuda.graph.captures", engine="sglang", phase="runtime") == 1


@of(SHAPES)
def test_a_graph_beside_the_shapes_belongs_to_the_start_up(sglang, pipeline) -> None:
    model_runner(sglang, glue=True, capture_bs=(1,)).initialize()

    (trigger,) = pipeline.triggers()
    glue, shape = pipeline.captures()
    assert "cuda.graph.key" not in glue.attributes
    assert values([glue, shape], "phase") == ["startup"] * 2
    assert glue.parent_id == trigger.span_id


def fails_at(call: int, error: BaseException) -> Callable[[Any], None]:
    calls = []

    def forward(x: Any) -> None:
        calls.append(x)
        if len(calls) == call:
            raise error

    return forward


def test_a_failure_that_the_engine_wraps(sglang, pipeline) -> None:
    """The trigger's error is the one in the capture, not what the engine made of it."""
    runner = model_runner(sglang)
    error = RuntimeError("operation not permitted when stream is capturing")
    runner.forward = fails_at(2, error)  # the first call is the warm-up

    with pytest.raises(Exception, match="Capture cuda graph failed") as seen:
        runner.initialize()

    assert type(seen.value) is Exception
    assert seen.value.__context__ is error
    (trigger,) = pipeline.triggers()
    (graph,) = pipeline.captures()
    assert trigger.is_error
    assert graph.is_error
    assert trigger.status_message == graph.status_message == f"RuntimeError: {error}"
    assert trigger.attributes["error.type"] == "RuntimeError"
    assert pipeline.total("cuda.graph.capture_triggers") == 1
    assert pipeline.total("cuda.graph.captures") == 0


@of(SHAPES)
def test_a_failure_after_a_graph_that_went_well(sglang, pipeline) -> None:
    error = IndexError("out of the pool")
    runner = model_runner(sglang, prefill="full")
    runner.forward = fails_at(4, error)

    with pytest.raises(IndexError) as seen:
        runner.initialize()

    assert seen.value is error
    (trigger,) = pipeline.triggers()
    good, bad = pipeline.captures()
    assert (good.is_error, bad.is_error) == (False, True)
    assert bad.attributes["cuda.graph.key"] == "PrefillCudaGraphRunner full num_tokens=16"
    assert trigger.attributes["error.type"] == bad.attributes["error.type"] == "IndexError"
    assert values([trigger], "captured") == values([trigger], "failed") == [1]


def test_an_engine_that_was_imported_first_is_hooked_and_let_go(sglang, stand_in) -> None:
    runner = model_runner(sglang)
    module = sglang("model_executor.model_runner")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    before = [dict(vars(each)) for each in classes]

    with Pipeline() as pipeline:
        runner.initialize()
        assert len(pipeline.triggers()) == 1
        assert [dict(vars(each)) for each in classes] != before

    assert [dict(vars(each)) for each in classes] == before


@pytest.mark.parametrize("sglang", [("0.5.23", "sglang-0.5.14")], indirect=True, ids=["0.5.23"])
@pytest.mark.parametrize("attempt", ["ensure_decode_cuda_graphs", "_recapture_elastic_cuda_graphs"])
def test_what_is_captured_while_requests_are_served(sglang, pipeline, attempt: str) -> None:
    runner = model_runner(sglang)
    runner.initialize()

    getattr(runner, attempt)()

    start_up, later = pipeline.triggers()
    assert values([start_up, later], "phase") == ["startup", "runtime"]
    assert later.attributes["code.function.name"].endswith(attempt)
    assert later.attributes["cuda.graph.captured"] == 2
