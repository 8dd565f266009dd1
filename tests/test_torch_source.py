"""torch's own Python source round a fake of its C++ graph, which cannot be made without a driver.

From 2.14 on torch splits the end of a capture and instantiates from Python; its
contexts also close captures by themselves. No double count, nothing missed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from otel_cudagraph import GraphFamily, capture_trigger
from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")
NAME = "torch.cuda.graphs_on_a_fake_driver"
SOURCE = Path(os.environ.get("OTEL_CUDAGRAPH_TORCH_SOURCE", torch.cuda.graphs.__file__))
"""``torch/cuda/graphs.py``, perhaps of another version than the torch that surrounds it."""
SPLIT = "def capture_end_pre" in SOURCE.read_text("utf-8")
KEEPS = "keep_graph" in SOURCE.read_text("utf-8")


PROPERTIES = SimpleNamespace(name="NVIDIA Fake", uuid="7a2cf67e-e440-f2ce-2224-78f06aaad188")


class FakeDriverGraph:
    """Stands for `torch._C._CUDAGraph`."""

    instantiate_s = 0.0

    def __new__(cls, keep_graph=False):
        graph = super().__new__(cls)
        graph._has_graph_exec = False
        graph.fails = set()
        graph.calls = []
        return graph

    def _do(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise RuntimeError(f"CUDA error in {name}")

    def capture_begin(self, pool=None, capture_error_mode="global"):
        self._do("capture_begin")

    def capture_end(self):
        self._do("capture_end")

    def capture_end_pre(self):
        self._do("capture_end_pre")

    def capture_end_post(self):
        self._do("capture_end_post")

    def instantiate(self):
        time.sleep(self.instantiate_s)
        self._do("instantiate")
        self._has_graph_exec = True

    def replay(self):
        self._do("replay")

    def reset(self):
        self._do("reset")

    def pool(self):
        return (0, 7)


class FakeStream:
    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return None


def execute(monkeypatch, name, path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def graphs(monkeypatch) -> ModuleType:
    """`torch.cuda.graphs`, executed anew over the fake driver, and registered as a family."""
    monkeypatch.setattr(torch._C, "_CUDAGraph", FakeDriverGraph)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: FakeStream())
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: PROPERTIES)
    if Path(torch.cuda.graphs.__file__) != SOURCE:
        for beside in SOURCE.parent.glob("_graph_*.py"):
            execute(monkeypatch, f"torch.cuda.{beside.stem}", beside)
    module = execute(monkeypatch, NAME, SOURCE)
    family = GraphFamily("fake-driver", NAME, "CUDAGraph", "graph", "torch.cuda")
    monkeypatch.setattr("otel_cudagraph.families._TABLE", [family])
    return module


@pytest.fixture
def torch_pipeline(graphs):
    with Pipeline() as running:
        yield running


def context(graphs, graph):
    return graphs.graph(graph, stream=FakeStream())


def test_one_capture_is_one_span(torch_pipeline, graphs) -> None:
    graph = graphs.CUDAGraph()
    with context(graphs, graph):
        pass
    graph.replay()

    (span,) = torch_pipeline.captures()
    assert not span.is_error
    assert span.attributes["cuda.graph.pool_id"] == "(0, 7)"
    assert span.attributes["hw.type"] == "gpu"
    assert span.attributes["hw.name"] == "NVIDIA Fake"
    assert span.attributes["hw.id"] == "GPU-7a2cf67e-e440-f2ce-2224-78f06aaad188"
    assert torch_pipeline.total("cuda.graph.captures") == 1
    assert torch_pipeline.total("cuda.graph.replays") == 1


@pytest.mark.skipif(not KEEPS, reason="this torch does not keep graphs")
def test_kept_graph_instantiates_later(torch_pipeline, graphs) -> None:
    graph = graphs.CUDAGraph(keep_graph=True)
    with capture_trigger(engine="mine"):
        with context(graphs, graph):
            pass
        graph.instantiate_s = 0.02
        graph.instantiate()
        graph.instantiate()

    (span,) = torch_pipeline.captures()
    assert span.attributes["cuda.graph.instantiate_time"] >= 0.04
    assert torch_pipeline.total("cuda.graph.captures") == 1


@pytest.mark.parametrize("pool", [(0, 3), SimpleNamespace(id=(0, 3))], ids=["handle", "MemPool"])
def test_pool_of_a_failed_capture(torch_pipeline, graphs, pool) -> None:
    """It cannot be asked of the graph then: what it was given is what is known."""
    graph = graphs.CUDAGraph()
    graph.fails = {"capture_begin"}
    with pytest.raises(RuntimeError):
        graph.capture_begin(pool)

    assert torch_pipeline.captures()[0].attributes["cuda.graph.pool_id"] == "(0, 3)"


@pytest.mark.parametrize("where", ["capture_begin", "capture_end_pre" if SPLIT else "capture_end"])
def test_driver_errors(torch_pipeline, graphs, where) -> None:
    graph = graphs.CUDAGraph()
    graph.fails = {where}
    with pytest.raises(RuntimeError, match=f"CUDA error in {where}"), context(graphs, graph):
        pass

    (span,) = torch_pipeline.captures()
    assert span.attributes["error.type"] == "RuntimeError"
    assert torch_pipeline.total("cuda.graph.captures") == 0


@pytest.mark.skipif(not SPLIT, reason="this torch does not split the end of a capture")
class TestSplitEnd:
    def test_instantiation_that_fails(self, torch_pipeline, graphs) -> None:
        graph = graphs.CUDAGraph()
        graph.fails = {"instantiate"}
        with pytest.raises(RuntimeError, match="CUDA error in instantiate"), context(graphs, graph):
            pass

        (span,) = torch_pipeline.captures()
        assert span.is_error
        assert torch_pipeline.total("cuda.graph.captures") == 0

    def test_halves_used_directly(self, torch_pipeline, graphs) -> None:
        graph = graphs.CUDAGraph()
        graph.capture_begin()
        graph.capture_end_pre()
        graph.instantiate()
        assert torch_pipeline.captures() == []
        graph.capture_end_post()

        (span,) = torch_pipeline.captures()
        assert not span.is_error
        assert torch_pipeline.total("cuda.graph.captures") == 1

    @pytest.mark.parametrize("half", ["capture_end_pre", "capture_end_post"])
    def test_half_that_fails(self, torch_pipeline, graphs, half) -> None:
        graph = graphs.CUDAGraph()
        graph.fails = {half}
        graph.capture_begin()
        with pytest.raises(RuntimeError, match=half):
            graph.capture_end_pre()
            graph.capture_end_post()

        (span,) = torch_pipeline.captures()
        assert span.is_error
        assert torch_pipeline.total("cuda.graph.captures") == 0

    def test_whole_end_that_fails_after_its_second_half(self, torch_pipeline, graphs) -> None:
        """The halves within a ``capture_end`` decide nothing: it does."""

        class Late(graphs.CUDAGraph):
            def capture_end_post(self):
                super().capture_end_post()
                raise RuntimeError("late")

        graph = Late()
        graph.capture_begin()
        with pytest.raises(RuntimeError, match="late"):
            graph.capture_end()

        (span,) = torch_pipeline.captures()
        assert span.is_error
        assert torch_pipeline.total("cuda.graph.captures") == 0

    def test_second_half_that_never_comes(self, torch_pipeline, graphs) -> None:
        graph = graphs.CUDAGraph()
        graph.capture_begin()
        graph.capture_end_pre()
        graph.reset()

        (span,) = torch_pipeline.captures()
        assert span.attributes["error.type"] == "CaptureAbandoned"

    def test_context_that_fails_to_enter_after_the_begin(self, torch_pipeline, graphs, monkeypatch) -> None:
        """torch 2.15 ends the capture by ``capture_end_pre`` then, without ``capture_end``."""
        annotations = pytest.importorskip("torch.cuda._graph_annotations")
        if not hasattr(annotations, "maybe_stamp_capture_root"):
            pytest.skip("torch before 2.15")

        def fail(graph):
            raise RuntimeError("no root")

        monkeypatch.setattr(annotations, "maybe_stamp_capture_root", fail)
        monkeypatch.setattr(graphs, "maybe_stamp_capture_root", fail, raising=False)
        graph = graphs.CUDAGraph()
        with pytest.raises(RuntimeError, match="no root"), context(graphs, graph):
            pass

        (span,) = torch_pipeline.captures()
        assert span.status_message == "RuntimeError: no root"

    def test_hooks_of_others_run_once(self, torch_pipeline, graphs) -> None:
        ended = []
        graphs.register_graph_capture_end_hook(ended.append)
        graph = graphs.CUDAGraph()
        with context(graphs, graph):
            pass

        assert ended == [graph]
        assert torch_pipeline.total("cuda.graph.captures") == 1
