"""What ``torch.compile`` skips, counted by reason, and what it records, by key; real torch, no GPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from otel_cudagraph.semconv import SkipReason
from tests.pipeline import Pipeline

torch = pytest.importorskip("torch")
UTILS = "torch._inductor.cudagraph_utils"
SKIP = "log_cudagraph_skip_and_bump_counter"
HOLDERS = [
    UTILS,
    "torch._inductor.cudagraph_trees",
    "torch._inductor.compile_fx",
    "torch._inductor.output_code",
    "torch._dynamo.backends.cudagraphs",
]
TRACE = 'File "/app/mutation/cpu device.py", line 1, in unsafe'
MESSAGES = {
    "mutated_inputs": [
        "skipping cudagraphs due to mutated inputs (2 instances)",
        f"skipping cudagraphs due to mutated inputs (1 instances). Found from : \n {TRACE}",
        f"input storage mutation (1 instances). Found from:\n {TRACE}",
        "skipping cudagraphs due to ['input storage mutation', 'mutated inputs', 'non-Tensor inputs']",
    ],
    "cpu_device": [
        "skipping cudagraphs due to skipping cudagraphs due to cpu device (mutated_arg)",
        "skipping cudagraphs due to cpu device (mul). Found from : \n multiple devices, mutated inputs",
    ],
    "multiple_devices": [
        "skipping cudagraphs due to multiple devices: device(type='cuda', index=0), device(type='cpu')"
    ],
    "dynamic_shapes": [
        "graph with symbolic shapes inputs and config.triton.cudagraph_skip_dynamic_graphs=True. Found from "
        + TRACE
    ],
    "incompatible_op": [
        f"disabling cudagraphs due to incompatible op mylib.mutate.default Found from {TRACE}\n",
        "skipping cudagraphs due to incompatible op (_unsafe_index_put)",
        "index_put_ fallback with boolean indexing is not compatible with CUDA graphs Found from : \n "
        + TRACE,
        f"control flow operator: torch.while_loop. Found from : \n {TRACE}",
    ],
    "recapture_limit": [
        (
            "skipping cudagraph due to function 0 exceeding max re-recording limit (=128) on cudagraph "
            "node 1 due to static input data pointer changed.\ninput name: arg0_1. data pointer changed "
            f"from 1 to 2. input stack trace: {TRACE}\n."
        ),
        (
            "skipping cudagraph due to function 0 reaching the cudagraph-managed input re-recording "
            "threshold (=8) on cudagraph node None for input indices [0]."
        ),
    ],
    "other": [
        "skipping cudagraphs due to bisector",
        "skipping cudagraphs due to ['non-Tensor inputs']",
        "disabling cudagraphs due to override_cudagraphs annotation",
        "skipping cudagraphs due to cpp-wrapper does not support graph partition yet",
        "user CUDA MemPool contexts are not compatible with CUDA graphs",
        "sparsity not handled. Please file issue for sparse inference weights.",
        (
            "skipping cudagraphs due to cudagraph capture requires the caching allocator; "
            "current allocator is uncached"
        ),
    ],
}
"""As torch 2.15 writes them."""


@pytest.fixture
def config() -> Iterator[object]:
    from torch._dynamo.utils import counters
    from torch._inductor import config

    with config.patch("triton.cudagraph_or_error", False):
        yield config
    counters.clear()


def skips(pipeline: Pipeline) -> dict[object, float]:
    metric = pipeline.metrics().get("cuda.graph.skips")
    points = [] if metric is None else metric.points
    return {point.attributes["cuda.graph.skip_reason"]: point.value for point in points}


def holders() -> list[object]:
    return [getattr(importlib.import_module(module), SKIP) for module in HOLDERS]


@pytest.mark.parametrize("reason", MESSAGES)
def test_reasons(pipeline, config, reason: str) -> None:
    for message in MESSAGES[reason]:
        getattr(importlib.import_module(UTILS), SKIP)(message)

    assert skips(pipeline) == {reason: len(MESSAGES[reason])}


def test_every_reason_is_known_here() -> None:
    assert set(MESSAGES) == {reason.value for reason in SkipReason}


def test_reasons_that_torch_builds_itself(pipeline, config) -> None:
    """Torch's own functions say why; the words are theirs, whichever version runs."""
    utils = importlib.import_module(UTILS)
    backend = importlib.import_module("torch._dynamo.backends.cudagraphs")

    def traced(function, *inputs):
        from torch.fx.experimental.proxy_tensor import make_fx

        return make_fx(function)(*inputs)

    on_cpu = traced(lambda x: x * 2, torch.ones(2))
    mutating = traced(lambda x: x.add_(1), torch.ones(2))
    on_two = {torch.device("cuda", 0): None, torch.device("cuda", 1): None}
    for message in (
        backend.check_for_skip(on_cpu, 0),
        backend.check_for_skip(mutating, 0),
        utils.check_multiple_devices_or_any_cpu_nodes(on_two),
    ):
        getattr(backend, SKIP)(f"skipping cudagraphs due to {message}")

    assert skips(pipeline) == {"cpu_device": 1, "mutated_inputs": 1, "multiple_devices": 1}


def test_every_module_that_holds_the_function_counts(pipeline, config) -> None:
    from torch._dynamo.utils import counters

    assert len(set(holders())) == 1
    for function in holders():
        function("skipping cudagraphs due to bisector")
        function(msg="skipping cudagraphs due to bisector")

    assert pipeline.total("cuda.graph.skips", engine="torch.compile") == 10
    assert counters["inductor"]["cudagraph_skips"] == 10


def test_an_error_in_place_of_a_skip_passes_and_counts_once(pipeline, config) -> None:
    message = "skipping cudagraphs due to mutated inputs (1 instances)"
    with config.patch("triton.cudagraph_or_error", True), pytest.raises(RuntimeError) as seen:
        getattr(importlib.import_module("torch._inductor.cudagraph_trees"), SKIP)(message)

    assert seen.value.args == (message,)
    assert skips(pipeline) == {"mutated_inputs": 1}


def test_every_module_has_its_function_back(stand_in, config) -> None:
    before = holders()
    with Pipeline() as pipeline:
        assert not set(holders()) & set(before)
        holders()[1]("skipping cudagraphs due to bisector")
        assert pipeline.total("cuda.graph.skips") == 1

    assert [after is each for after, each in zip(holders(), before, strict=True)] == [True] * len(HOLDERS)


def test_torch_that_is_imported_after_instrument(tmp_path) -> None:
    """Each module then takes the hooked function from its owner, and gets the original in the end."""
    program = f"""
import importlib, sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_cudagraph import CudaGraphInstrumentor

reader = InMemoryMetricReader()
instrumentor = CudaGraphInstrumentor()
instrumentor.instrument(meter_provider=MeterProvider([reader]))
assert "torch" not in sys.modules
functions = [getattr(importlib.import_module(module), {SKIP!r}) for module in {HOLDERS!r}]
for function in functions:
    function("skipping cudagraphs due to bisector")
scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
metrics = {{metric.name: metric for scope in scopes for metric in scope.metrics}}
print(sum(point.value for point in metrics["cuda.graph.skips"].data.data_points))
instrumentor.uninstrument()
import {UTILS} as utils
print(all(getattr(sys.modules[module], {SKIP!r}) is utils.{SKIP} for module in {HOLDERS!r}))
print(utils.{SKIP}.__code__.co_filename == utils.__file__)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.split() == [str(len(HOLDERS)), "True", "True"], run.stderr[-2000:]


RECORDING = """
class CUDAGraphNode:
    def __init__(self, model):
        self._record(model)

    def _record(self, model):
        self.graph = StandInGraph()
        with graph(self.graph):
            model()


class CUDAGraphTreeManager:
    def __init__(self):
        self.id_to_mode = {}
        self.nodes = []
        self.graph = StandInGraph()
        with graph(self.graph):
            pass

    def record_function(self, new_inputs, function_id):
        self.nodes.append(CUDAGraphNode(new_inputs))


def cudagraphify_impl(manager, function_id):
    def deferred_cudagraphify(inputs, int_key):
        manager.record_function(lambda: inputs * 2, function_id)
    return deferred_cudagraphify
"""


@pytest.fixture
def trees(stand_in) -> SimpleNamespace:
    """Functions of the names that record, running under the real module's name."""
    module = stand_in.module
    space = {
        "__name__": "torch._inductor.cudagraph_trees",
        "StandInGraph": module.StandInGraph,
        "graph": module.graph,
    }
    exec(RECORDING, space)
    return SimpleNamespace(**space)


class TestRecordings:
    @pytest.fixture
    def manager(self, trees):
        from torch._inductor.cudagraph_trees import CompilationMode

        manager = trees.CUDAGraphTreeManager()
        for number, mode in enumerate(("FORWARD", "BACKWARD", "INFERENCE")):
            manager.id_to_mode[self.function(number)] = CompilationMode[mode]
        return manager

    @staticmethod
    def function(number: int):
        from torch._inductor.cudagraph_utils import FunctionID

        return FunctionID(number)

    def record(self, trees, manager, number: int, int_key=None) -> None:
        trees.cudagraphify_impl(manager, self.function(number))(torch.ones(4), int_key)

    def test_keys(self, pipeline, trees, manager) -> None:
        for number in range(3):
            self.record(trees, manager, number)
        self.record(trees, manager, 2, (4, 8))

        spans = [s for s in pipeline.captures() if s.attributes["cuda.graph.purpose"] == "serving"]
        assert [span.attributes["cuda.graph.key"] for span in spans] == [
            "function=0 forward",
            "function=1 backward",
            "function=2 inference",
            "function=2 inference symints=(4, 8)",
        ]
        assert {span.attributes["cuda.graph.engine"] for span in spans} == {"torch.compile"}
        assert {span.attributes["cuda.graph.phase"] for span in spans} == {"runtime"}
        assert pipeline.triggers() == []

    def test_a_function_recorded_again(self, pipeline, trees, manager) -> None:
        self.record(trees, manager, 0)
        pipeline.captures()
        self.record(trees, manager, 0)
        self.record(trees, manager, 1)

        spans = [s for s in pipeline.captures() if s.attributes["cuda.graph.purpose"] == "serving"]
        assert [s.attributes["cuda.graph.phase"] for s in spans] == ["runtime", "recapture", "runtime"]

    def test_the_tree_s_own_graph_serves_nobody(self, pipeline, trees) -> None:
        trees.CUDAGraphTreeManager()

        (span,) = pipeline.captures()
        assert span.attributes["cuda.graph.purpose"] == "internal"
        assert "cuda.graph.key" not in span.attributes

    def test_a_recording_that_cannot_be_named_is_counted(self, pipeline, trees, manager) -> None:
        manager.id_to_mode.clear()
        self.record(trees, manager, 0)

        assert pipeline.total("cuda.graph.captures", purpose="serving", engine="torch.compile") == 1
