"""The main job on the CPU stand-in: counts, tokens, labels, the screen."""

from __future__ import annotations

import dataclasses

import pytest

from otel_cudagraph.testing import Received
from runner.__main__ import main
from runner.config import PRESETS, CudaGraphMode, RunConfig
from runner.generation import generate
from runner.model_runner import ModelRunner
from runner.platforms import select_platform
from tests.anchor_table import ANCHOR_TABLE
from tests.pipeline import CAPTURE, TRIGGER, Pipeline

torch = pytest.importorskip("torch")


def show_no_progress(sizes, description):
    return sizes


def config(mode: str, sizes: tuple[int, ...], layers: int = 3, steps: int = 6) -> RunConfig:
    model = dataclasses.replace(PRESETS["tiny"], num_layers=layers, max_model_len=32)
    return RunConfig(model, CudaGraphMode(mode), sizes, steps)


@ANCHOR_TABLE
def test_anchor_table(mode: str, triggers: int, graphs: int, tmp_path, capsys) -> None:
    """Twelve layers, one size: the table that an instrumented vLLM gives, too."""
    file = tmp_path / "arrived.jsonl"
    arguments = ["--device", "cpu", "--num-layers", "12", "--capture-sizes", "1", "--decode-steps", "3"]

    code = main([*arguments, "--cudagraph-mode", mode, "--otlp-json", str(file)])

    screen = capsys.readouterr().out
    assert code == 0, screen
    assert screen.startswith("No CUDA graph was captured")
    assert "the same tokens" in screen
    received = Received.from_file(file)
    assert len(received.spans(TRIGGER)) == triggers
    assert len(received.spans(CAPTURE)) == graphs
    assert all(span.attributes["cuda.graph.simulated"] is True for span in received.spans())
    assert all(span.attributes["hw.type"] == "cpu" for span in received.spans())
    assert screen.count("|") >= 2 * (triggers + graphs)


@pytest.mark.parametrize("mode", [mode.value for mode in CudaGraphMode])
@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 2, 4, 8)])
def test_graphs_give_the_tokens_of_the_eager_path(mode: str, sizes: tuple[int, ...]) -> None:
    asked = config(mode, sizes)
    runner = ModelRunner(asked, select_platform("cpu"))
    runner.capture_model(show_no_progress)

    through_graphs = generate(runner.execute, asked)
    eager = generate(lambda batch: runner.execute(batch, eager=True), asked)

    assert through_graphs.tokens == eager.tokens
    assert len({token for tokens in eager.tokens for token in tokens}) > 3


def test_a_graph_that_computes_something_else_is_noticed(capsys, monkeypatch) -> None:
    """The proof can fail: a replay that leaves its output as it is gives other tokens, and exit 1."""
    from runner.stand_in import StandInGraph

    monkeypatch.setattr(StandInGraph, "replay", lambda graph: None)

    code = main(["--device", "cpu", "--num-layers", "2"])

    assert code == 1
    assert "DIFFERENT tokens" in capsys.readouterr().out


def test_largest_first_one_pool_and_readable_keys(pipeline: Pipeline) -> None:
    runner = ModelRunner(config("FULL_AND_PIECEWISE", (1, 2, 4), layers=2), select_platform("cpu"))
    runner.capture_model(show_no_progress)

    spans = pipeline.captures()
    assert len({span.attributes["cuda.graph.pool_id"] for span in spans}) == 1
    pieces = [span for span in spans if span.attributes["cuda.graph.runtime_mode"] == "PIECEWISE"]
    full = [span for span in spans if span.attributes["cuda.graph.runtime_mode"] == "FULL"]
    assert [span.attributes["cuda.graph.num_tokens"] for span in pieces] == [4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert [span.attributes["cuda.graph.num_tokens"] for span in full] == [4, 2, 1]
    assert [span.attributes["cuda.graph.batch_size"] for span in full] == [4, 2, 1]
    assert spans[0].attributes["cuda.graph.key"] == "PIECEWISE num_tokens=4 piece=0"
    (trigger,) = pipeline.triggers()
    assert trigger.attributes["cuda.graph.engine"] == "runner"
    assert trigger.attributes["cuda.graph.runtime_mode"] == "FULL_AND_PIECEWISE"
    assert trigger.attributes["code.function.name"].startswith("runner.model_runner.")
    assert trigger.attributes["code.function.name"].endswith("capture_model")


@pytest.mark.parametrize(
    ("mode", "decode", "mixed"),
    [
        ("NONE", "NONE", "NONE"),
        ("PIECEWISE", "PIECEWISE", "PIECEWISE"),
        ("FULL", "FULL", "FULL"),
        ("FULL_DECODE_ONLY", "FULL", "NONE"),
        ("FULL_AND_PIECEWISE", "FULL", "PIECEWISE"),
    ],
)
def test_which_batches_run_how(mode: str, decode: str, mixed: str) -> None:
    asked = CudaGraphMode(mode)

    assert asked.runtime_mode(is_decode=True).value == decode
    assert asked.runtime_mode(is_decode=False).value == mixed


def test_replays_are_those_that_the_batches_need(pipeline: Pipeline) -> None:
    """One sequence, prompt of three tokens by chunks of one: 3 prompt steps, 6 more tokens."""
    asked = config("FULL_DECODE_ONLY", (1,), steps=6)
    runner = ModelRunner(asked, select_platform("cpu"))
    runner.capture_model(show_no_progress)

    generate(runner.execute, asked)

    assert pipeline.total("cuda.graph.replays", runtime_mode="FULL") == 6


def test_a_batch_larger_than_every_graph_runs_eager() -> None:
    asked = config("FULL", (4,))
    runner = ModelRunner(asked, select_platform("cpu"))

    assert runner._graphs.padded_size(3) == 4
    assert runner._graphs.padded_size(5) is None


def test_two_thousand_spans_all_arrive(tmp_path, capsys) -> None:
    """150 sizes x 14 graphs = 2,100 spans; the SDK's default queue holds 2,048."""
    file = tmp_path / "arrived.jsonl"
    sizes = ",".join(map(str, range(1, 151)))

    code = main(
        [
            "--device",
            "cpu",
            "--num-layers",
            "12",
            "--capture-sizes",
            sizes,
            "--decode-steps",
            "2",
            "--otlp-json",
            str(file),
        ]
    )

    screen = capsys.readouterr().out
    assert code == 0, screen
    received = Received.from_file(file)
    assert len(received.spans(CAPTURE)) == 2100
    assert received.metrics()["cuda.graph.captures"].total() == 2100
    assert "Delivered 2101 spans to the runner's own receiver" in screen
    assert "… and 1,900 more" in screen


def test_capture_that_fails_otherwise_is_delivered_and_told(monkeypatch, capsys, tmp_path) -> None:
    from runner.model import Transformer

    def piece(*args, **kwargs):
        raise LookupError("no kernel for this device")

    monkeypatch.setattr(Transformer, "piece", piece)

    code = main(["--device", "cpu", "--cudagraph-mode", "PIECEWISE"])

    screen = capsys.readouterr()
    assert code == 1
    assert "Capture failed: LookupError: no kernel for this device" in screen.out
    assert "ERROR LookupError" in screen.out
    assert "Traceback" not in screen.out + screen.err


def test_out_of_memory_in_a_capture(monkeypatch, capsys, tmp_path) -> None:
    from runner.model import Transformer

    eager = Transformer.forward
    calls = []

    def forward(model, batch, cache):
        calls.append(len(batch.token_ids))
        if calls.count(2) == 2:  # the warm-up had room, the capture has not
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return eager(model, batch, cache)

    monkeypatch.setattr(Transformer, "forward", forward)
    file = tmp_path / "arrived.jsonl"

    code = main(
        ["--device", "cpu", "--cudagraph-mode", "FULL", "--capture-sizes", "1,2", "--otlp-json", str(file)]
    )

    screen = capsys.readouterr().out
    assert code == 1
    assert "out of memory while capturing the FULL graph of size 2: lower --capture-sizes" in screen
    received = Received.from_file(file)
    (trigger,), (capture,) = received.spans(TRIGGER), received.spans(CAPTURE)
    assert trigger.is_error
    assert capture.is_error
    assert capture.attributes["cuda.graph.num_tokens"] == 2
    assert "ERROR RuntimeError" in screen
