"""What the real engines exported on a GPU, recorded: the report that started this project, and more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otel_cudagraph.testing import Received, Span
from tests.pipeline import CAPTURE, TRIGGER
from tests.test_recorded_on_gpu import MACHINES
from tests.vllm_table import VLLM_TABLE

RUNNERS = {
    "v1": "vllm.v1.worker.gpu_model_runner.GPUModelRunner.capture_model",
    "v2": "vllm.v1.worker.gpu.model_runner.GPUModelRunner.capture_model",
}


@pytest.fixture(params=MACHINES, ids=lambda folder: folder.name)
def machine(request) -> Path:
    return request.param


def read(machine: Path, name: str) -> tuple[Received, dict]:
    """Return what arrived, and what vLLM and a plain wrapper counted."""
    return Received.from_file(machine / f"{name}.jsonl"), json.loads((machine / f"{name}.json").read_text())


def of(received: Received, purpose: str) -> list[Span]:
    return [s for s in received.spans(CAPTURE) if s.attributes["cuda.graph.purpose"] == purpose]


def keys(spans: list[Span]) -> list[str]:
    return [span.attributes["cuda.graph.key"] for span in spans]


def captures(machine: Path, name: str) -> list[Span]:
    spans = Received.from_file(machine / f"{name}.jsonl").spans(CAPTURE)
    return [span for span in spans if span.attributes["cuda.graph.purpose"] == "serving"]


@VLLM_TABLE
def test_vllm_counts_the_same(machine: Path, version: str, mode: str, counts: tuple[int, int, int]) -> None:
    triggers, graphs, profiling = counts
    received, counted = read(machine, f"vllm_{version}_{mode}")

    assert (counted["num_gpu_runner_capture_triggers"], counted["num_cudagraph_captured"]) == (
        triggers,
        graphs,
    )
    assert counted["capture_end_returned"] == graphs + profiling
    assert len(received.spans(TRIGGER)) == triggers
    assert (len(of(received, "serving")), len(of(received, "profiling"))) == (graphs, profiling)
    if triggers:
        metrics = received.metrics()
        assert metrics["cuda.graph.capture_triggers"].total() == triggers
        assert metrics["cuda.graph.captures"].total(purpose="serving") == graphs
        assert metrics["cuda.graph.captures"].total(purpose="profiling") == profiling


@VLLM_TABLE
def test_every_graph_of_vllm_has_a_key_a_mode_and_lies_in_its_trigger(
    machine: Path, version: str, mode: str, counts: tuple[int, int, int]
) -> None:
    received, _ = read(machine, f"vllm_{version}_{mode}")

    parents = {span.span_id: span for span in received.spans()}
    for span in received.spans(CAPTURE):
        assert span.attributes["cuda.graph.engine"] == "vllm"
        assert span.attributes["cuda.graph.phase"] == "startup"
        assert span.attributes["cuda.graph.key"].startswith(span.attributes["cuda.graph.runtime_mode"])
    for trigger in received.spans(TRIGGER):
        assert trigger.attributes["code.function.name"] == RUNNERS[version]
        assert trigger.attributes["cuda.graph.runtime_mode"] == mode
        assert trigger.attributes["cuda.graph.captured"] == counts[1]
    for span in of(received, "serving"):
        trigger = parents[span.parent_id]
        if trigger.name != TRIGGER:  # vLLM's own span lies between, in the V1 runner
            assert trigger.name == "Capture model"
            trigger = parents[trigger.parent_id]
        assert trigger.start_ns <= span.start_ns <= span.end_ns <= trigger.end_ns
    assert len(set(keys(of(received, "serving")))) == counts[1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nothing_is_lost_of_an_engine_core_in_its_own_process(
    machine: Path, version: str, method: str
) -> None:
    received, counted = read(machine, f"vllm_{version}_{method}")

    assert counted["num_cudagraph_captured"] == 0  # of the parent, which captured nothing
    assert len(received.spans(TRIGGER)) == 1
    assert len(of(received, "serving")) == 24
    assert received.metrics()["cuda.graph.captures"].total(purpose="serving") == 24
    assert received.metrics()["cuda.graph.replays"].total() > 0


def test_breakable_graphs_which_vllm_forgets_to_count(machine: Path) -> None:
    received, counted = read(machine, "vllm_breakable")

    assert (counted["num_gpu_runner_capture_triggers"], counted["num_cudagraph_captured"]) == (1, 0)
    assert counted["capture_end_returned"] == 20
    assert keys(received.spans(CAPTURE)) == [
        f"breakable PIECEWISE num_tokens={size} segment={segment}"
        for size in (8, 4, 2, 1)
        for segment in range(5)
    ]
    assert {span.parent_id for span in received.spans(CAPTURE)} == {received.spans(TRIGGER)[0].span_id}


@pytest.mark.parametrize(
    ("version", "mode", "triggers", "graphs"),
    [
        ("v1", "NONE", 0, 0),
        ("v1", "PIECEWISE", 1, 13),
        ("v2", "NONE", 0, 0),
        ("v2", "PIECEWISE", 1, 13),
        ("v2", "FULL", 1, 1),
        ("v2", "FULL_DECODE_ONLY", 1, 1),
        ("v2", "FULL_AND_PIECEWISE", 1, 14),
    ],
)
def test_twelve_layers_and_one_size(
    machine: Path, version: str, mode: str, triggers: int, graphs: int
) -> None:
    received, counted = read(machine, f"vllm_{version}_anchor_{mode}")

    assert (len(received.spans(TRIGGER)), len(received.spans(CAPTURE))) == (triggers, graphs)
    assert counted["num_gpu_runner_capture_triggers"] == triggers
    assert counted["num_cudagraph_captured"] == counted["capture_end_returned"] == graphs


def test_vllm_s_own_span_lies_between_where_its_tracing_is_on(machine: Path) -> None:
    v1, v2 = (Received.from_file(machine / f"vllm_{v}_own_tracing.jsonl") for v in ("v1", "v2"))

    (trigger,) = v1.spans(TRIGGER)
    (own,) = v1.spans("Capture model")
    assert own.parent_id == trigger.span_id
    assert [span.parent_id for span in v1.spans(CAPTURE)] == [own.span_id] * 4
    (trigger,) = v2.spans(TRIGGER)
    assert [span.parent_id for span in v2.spans(CAPTURE)] == [trigger.span_id] * 4
    for spans in (v1, v2):
        assert spans.spans(TRIGGER)[0].resource["vllm.instrumenting_module_name"] == "vllm.llm_engine"


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_vllm_starts_with_the_same_tokens_and_counts(machine: Path, runner: str) -> None:
    report = json.loads((machine / f"vllm_startup_{runner}.json").read_text())

    assert report["tokens_identical"]
    assert report["graphs_recorded"] == report["graphs_counted_by_vllm"]


def test_torch_compile_records_each_size_once(machine: Path) -> None:
    spans = captures(machine, "torch_compile_of_two_batch_sizes")

    assert keys(spans) == [f"function={number} inference" for number in range(3)]
    assert {span.attributes["cuda.graph.phase"] for span in spans} == {"runtime"}


def test_torch_compile_records_again_and_names_sizes(machine: Path) -> None:
    again = captures(machine, "torch_compile_records_a_function_again")
    sizes = captures(machine, "torch_compile_with_dynamic_sizes_names_them")

    assert [span.attributes["cuda.graph.phase"] for span in again] == ["runtime", "recapture"]
    assert [key.split()[-1] for key in keys(sizes)] == ["symints=4", "symints=8"]


def test_torch_compile_names_the_direction(machine: Path) -> None:
    spans = captures(machine, "torch_compile_forward_and_backward")

    assert [key.split()[1] for key in dict.fromkeys(keys(spans))] == ["forward", "backward"]


def test_torch_compile_skips_a_mutated_input(machine: Path) -> None:
    received = Received.from_file(machine / "torch_compile_skips_a_mutated_input.jsonl")

    (point,) = received.metrics()["cuda.graph.skips"].points
    assert point.attributes["cuda.graph.skip_reason"] == "mutated_inputs"


def test_make_graphed_callables(machine: Path) -> None:
    received = Received.from_file(machine / "make_graphed_callables.jsonl")

    assert keys(received.spans(CAPTURE)) == [
        "Linear forward callable=0",
        "Linear forward callable=1",
        "Linear backward callable=1",
        "Linear backward callable=0",
    ]
    (trigger,) = received.spans(TRIGGER)
    assert {span.parent_id for span in received.spans(CAPTURE)} == {trigger.span_id}


@pytest.mark.parametrize(
    ("name", "phase"),
    [("continuous_batching_False_runtime", "runtime"), ("continuous_batching_True_startup", "startup")],
)
def test_transformers_captures_while_it_serves_or_warms_up(machine: Path, name: str, phase: str) -> None:
    spans = captures(machine, name)

    assert spans
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"transformers"}
    assert phase in {span.attributes["cuda.graph.phase"] for span in spans}
    assert all(key.startswith("num_tokens=") for key in keys(spans))
    assert len(set(keys(spans))) == len(spans)
