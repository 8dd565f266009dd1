"""transformers' keys and phases, through its continuous batching's call structure on the CPU stand-in."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from otel_cudagraph.testing import Span
from tests.engine_fakes import install_fake

PACKAGE = "transformers.generation.continuous_batching"


@pytest.fixture(params=["5.23.0"])
def transformers(request, monkeypatch, tmp_path, stand_in) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports a module of the continuous batching."""
    fake = install_fake("transformers", request.param, monkeypatch, tmp_path)
    next(fake)
    yield lambda module: importlib.import_module(f"{PACKAGE}.{module}")
    next(fake, None)


def model_runner(transformers, ios: str = "ContinuousBatchingIOs") -> Any:
    return transformers("model_runner").ModelRunner(getattr(transformers("input_outputs"), ios)())


def keys(spans: list[Span]) -> list[str]:
    return [span.attributes["cuda.graph.key"] for span in spans]


def phases(spans: list[Span]) -> list[object]:
    return [span.attributes["cuda.graph.phase"] for span in spans]


def test_graphs_captured_while_serving(transformers, pipeline) -> None:
    runner = model_runner(transformers)
    for _ in range(2):
        runner.compute_batch(64, 128)
        runner.compute_batch(4)

    spans = pipeline.captures()
    assert keys(spans) == ["num_tokens=64 max_kv_read=128 max_kv_length=1024", "num_tokens=4 decode"]
    assert phases(spans) == ["runtime"] * 2
    assert [span.attributes["cuda.graph.num_tokens"] for span in spans] == [64, 4]
    assert {span.attributes["cuda.graph.engine"] for span in spans} == {"transformers"}
    assert {span.attributes["cuda.graph.runtime_mode"] for span in spans} == {"FULL"}
    assert pipeline.triggers() == []
    assert pipeline.total("cuda.graph.captures", engine="transformers", phase="runtime") == 2
    assert pipeline.total("cuda.graph.replays") == 2


@pytest.mark.parametrize("ios", ["ContinuousBatchingIOs", "FormerContinuousBatchingIOs"])
def test_graphs_that_differ_in_their_lengths_alone(transformers, pipeline, ios: str) -> None:
    runner = model_runner(transformers, ios)
    runner.compute_batch(64, 0, {"full_attention": 1024, "sliding_attention": 512})
    runner.compute_batch(64, 0, {"full_attention": 2048, "sliding_attention": 512})

    spans = pipeline.captures()
    assert keys(spans) == [
        "num_tokens=64 max_kv_read=0 max_kv_length=1024,512",
        "num_tokens=64 max_kv_read=0 max_kv_length=2048,512",
    ]
    assert phases(spans) == ["runtime"] * 2


def test_warm_up_captures_at_the_start(transformers, pipeline) -> None:
    runner = model_runner(transformers)
    runner.warmup()
    runner.compute_batch(8)

    assert keys(pipeline.captures())[2] == "num_tokens=8 decode"
    assert phases(pipeline.captures()) == ["startup", "startup", "runtime"]
    assert pipeline.triggers() == []


def test_both_buffers_of_asynchronous_batching_have_graphs_of_their_own(transformers, pipeline) -> None:
    model_runner(transformers, "ContinuousBatchingAsyncIOs").warmup()

    spans = pipeline.captures()
    assert keys(spans) == [
        "num_tokens=64 max_kv_read=128 max_kv_length=1024 io_pair=0",
        "num_tokens=1 decode io_pair=0",
        "num_tokens=64 max_kv_read=128 max_kv_length=1024 io_pair=1",
        "num_tokens=1 decode io_pair=1",
    ]
    assert phases(spans) == ["startup"] * 4


def test_a_batch_captured_again_is_a_recapture(transformers, pipeline) -> None:
    runner = model_runner(transformers)
    runner.compute_batch(8)
    runner.inputs_and_outputs.graphs.clear()
    pipeline.captures()
    runner.compute_batch(8)

    assert phases(pipeline.captures()) == ["runtime", "recapture"]


@pytest.mark.parametrize("transformers", ["5.0.0"], indirect=True)
def test_the_former_layout(transformers, pipeline) -> None:
    processor = transformers("continuous_api").ContinuousBatchProcessor()
    processor._generation_step(5, 9)
    processor._generation_step(6, 10)

    (span,) = pipeline.captures()
    assert span.attributes["cuda.graph.key"] == "num_tokens=8 max_kv_read=16"
    assert span.attributes["cuda.graph.phase"] == "runtime"
    assert span.attributes["cuda.graph.engine"] == "transformers"


def test_the_fake_hides_an_imported_engine_and_gives_it_back(monkeypatch, tmp_path) -> None:
    real = ModuleType("transformers")
    monkeypatch.setitem(sys.modules, "transformers", real)
    fake = install_fake("transformers", "5.23.0", monkeypatch, tmp_path)
    next(fake)
    assert importlib.import_module(f"{PACKAGE}.model_runner").ModelRunner
    assert importlib.metadata.version("transformers") == "5.23.0"
    next(fake, None)

    assert sys.modules["transformers"] is real
    assert PACKAGE not in sys.modules
