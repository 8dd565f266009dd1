"""What arrived over OTLP from real GPUs, recorded; see tests/data/README.md for how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otel_cudagraph.testing import Received, waterfall
from tests.anchor_table import ANCHOR_TABLE
from tests.pipeline import CAPTURE, TRIGGER

DATA = Path(__file__).parent / "data"
MACHINES = sorted(folder for folder in DATA.iterdir() if (folder / "machine.json").is_file())


@pytest.fixture(params=MACHINES, ids=lambda folder: folder.name)
def machine(request) -> Path:
    return request.param


def read(machine: Path, name: str) -> Received:
    return Received.from_file(machine / f"{name}.jsonl")


def captures(machine: Path, name: str):
    return read(machine, name).spans(CAPTURE)


def total(machine: Path, name: str, metric: str, **attributes) -> float:
    return read(machine, name).metrics()[metric].total(**attributes)


def test_there_is_a_machine() -> None:
    assert MACHINES


def test_the_machine_is_named(machine: Path) -> None:
    facts = json.loads((machine / "machine.json").read_text())

    assert facts["gpu"].startswith("NVIDIA")
    assert facts["command"].endswith("make gpu-test PYTHON=python3")


@ANCHOR_TABLE
def test_anchor_table(machine: Path, mode: str, triggers: int, graphs: int) -> None:
    received = read(machine, f"anchor_{mode}")
    independent = json.loads((machine / f"anchor_{mode}.json").read_text())

    assert len(received.spans(TRIGGER)) == triggers
    assert len(received.spans(CAPTURE)) == graphs
    assert independent["capture_end_returned"] == graphs
    assert independent["exit_code"] == 0  # the tokens are the eager path's, and what arrived is what was done
    metrics = received.metrics()
    if triggers:
        assert metrics["cuda.graph.capture_triggers"].total() == triggers
        assert metrics["cuda.graph.captures"].total() == graphs
        assert metrics["cuda.graph.replays"].total() > 0
        (trigger,) = received.spans(TRIGGER)
        assert {span.parent_id for span in received.spans(CAPTURE)} == {trigger.span_id}
        assert trigger.attributes["cuda.graph.captured"] == graphs


def test_nothing_from_a_gpu_is_labelled_simulated(machine: Path) -> None:
    gpu = json.loads((machine / "machine.json").read_text())["gpu"]
    for file in machine.glob("*.jsonl"):
        received = Received.from_file(file)
        for span in received.spans(CAPTURE):
            assert "cuda.graph.simulated" not in span.attributes
            assert (span.attributes["hw.type"], span.attributes["hw.name"]) == ("gpu", gpu)
            assert span.attributes["hw.id"].startswith("GPU-")
        assert all(
            "cuda.graph.simulated" not in point.attributes
            for metric in received.metrics().values()
            for point in metric.points
        )


@pytest.mark.parametrize(
    ("check", "error_type", "exceptions"),
    [
        ("python_error_in_the_body", "ValueError", 1),
        ("synchronising_call_in_the_body", "torch.AcceleratorError", 2),
        ("out_of_memory_in_the_body", "torch.OutOfMemoryError", 1),
    ],
)
def test_failures_have_their_root_cause_and_the_next_capture_works(
    machine: Path, check: str, error_type: str, exceptions: int
) -> None:
    failed, good = captures(machine, check)

    assert (failed.is_error, good.is_error) == (True, False)
    assert failed.attributes["error.type"] == error_type
    assert len(failed.events) == exceptions
    assert total(machine, check, "cuda.graph.captures") == 1
    assert any("ERROR" in line.text for line in waterfall(read(machine, check)))


def test_direct_begin_and_end(machine: Path) -> None:
    (span,) = captures(machine, "direct_begin_and_end")

    assert not span.is_error
    assert total(machine, "direct_begin_and_end", "cuda.graph.captures") == 1


def test_recapture_after_reset(machine: Path) -> None:
    phases = [span.attributes["cuda.graph.phase"] for span in captures(machine, "recapture_after_reset")]

    assert phases == ["runtime", "recapture"]


def test_captures_in_two_threads(machine: Path) -> None:
    check = "captures_in_two_threads_that_the_trigger_started"
    (trigger,) = read(machine, check).spans(TRIGGER)

    assert [span.parent_id for span in captures(machine, check)] == [trigger.span_id] * 2


def test_torch_compile(machine: Path) -> None:
    spans = captures(machine, "torch_compile_of_two_batch_sizes")

    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch.compile"}
    assert [span.attributes["cuda.graph.purpose"] for span in spans].count("internal") == 1


def test_replay_benchmark_counted_exactly(machine: Path) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(machine.glob("replay*.json"))]

    assert runs
    assert all(run["replays_counted"] == run["replays_made"] for run in runs)
    assert all(run["interval_95"][0] <= run["ratio"] <= run["interval_95"][1] for run in runs)
