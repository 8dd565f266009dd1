"""What the calling code is known to capture for: a table, which the engines' adapters extend."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otel_cudagraph._guard import guarded
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import module_name
from otel_cudagraph.semconv import ENGINE_TORCH_COMPILE, Purpose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType


class Caller(NamedTuple):
    """A place that captures, and what it captures."""

    module: str
    """Prefix of the module's name."""
    function: str = ""
    """Name of the function; empty: any."""
    descriptor: Descriptor = Descriptor()
    """What all captures made there are."""
    describe: Callable[[FrameType, object], Descriptor] | None = None
    """What this capture is, by its frame and its graph (None where it is not known yet)."""


_TABLE: tuple[Caller, ...] = (
    # CUDAGraphTreeManager captures an empty graph to keep its pool alive
    # (torch/_inductor/cudagraph_trees.py); no other __init__ there captures by itself.
    Caller(
        "torch._inductor.cudagraph_trees",
        "__init__",
        Descriptor(engine=ENGINE_TORCH_COMPILE, purpose=Purpose.INTERNAL),
    ),
    Caller("torch._inductor.runtime.benchmarking", "", Descriptor(ENGINE_TORCH_COMPILE, Purpose.BENCHMARK)),
    Caller("torch._inductor.", "", Descriptor(engine=ENGINE_TORCH_COMPILE)),
    # Inductor captures conditional nodes into a graph that it throws away.
    Caller("torch._higher_order_ops.cudagraph_conditional_nodes", "", Descriptor(purpose=Purpose.INTERNAL)),
    Caller("torch._dynamo.backends.cudagraphs", "", Descriptor(engine=ENGINE_TORCH_COMPILE)),
    Caller("triton.testing", "", Descriptor(purpose=Purpose.BENCHMARK)),
    # Graphs that an engine times its kernels with, and throws away.
    Caller("vllm.benchmarks.", "", Descriptor("vllm", Purpose.BENCHMARK)),
    Caller("vllm.model_executor.warmup.", "", Descriptor("vllm", Purpose.BENCHMARK)),
    Caller("sglang.kernels.jit.benchmark.", "", Descriptor("sglang", Purpose.BENCHMARK)),
    Caller("sglang.jit_kernel.benchmark.", "", Descriptor("sglang", Purpose.BENCHMARK)),
    Caller(
        "sglang.srt.distributed.device_communicators.pymscclpp",
        "",
        Descriptor("sglang", Purpose.BENCHMARK),
    ),
    Caller("vllm.", "", Descriptor(engine="vllm")),
    Caller("sglang.", "", Descriptor(engine="sglang")),
    Caller("tensorrt_llm.", "", Descriptor(engine="tensorrt_llm")),
    Caller("transformers.", "", Descriptor(engine="transformers")),
    Caller("lmdeploy.", "", Descriptor(engine="lmdeploy")),
    Caller("megatron.", "", Descriptor(engine="megatron")),
    Caller("transformer_engine.", "", Descriptor(engine="transformer_engine")),
)
"""First match wins."""

_UNKNOWN = Descriptor()
_adapted: list[Caller] = []


def add_callers(callers: Sequence[Caller]) -> None:
    """Put `callers` before the table."""
    _adapted.extend(callers)


def remove_callers(callers: Sequence[Caller]) -> None:
    """Take out what `add_callers` put in."""
    for caller in callers:
        _adapted.remove(caller)


def known_caller(frame: FrameType | None, graph: object = None) -> Descriptor:
    """Return what captures made by this frame are known to be."""
    if frame is None:
        return _UNKNOWN
    fixed = _find(_TABLE, frame)
    descriptor = _UNKNOWN if fixed is None else fixed.descriptor
    adapted = _find(_adapted, frame)
    if adapted is None:
        return descriptor
    described = None if adapted.describe is None else _described(adapted.describe, frame, graph)
    return (described or _UNKNOWN).over(adapted.descriptor).over(descriptor)


def _find(callers: Sequence[Caller], frame: FrameType) -> Caller | None:
    module, function = module_name(frame), frame.f_code.co_name
    return next(
        (each for each in callers if module.startswith(each.module) and each.function in ("", function)),
        None,
    )


@guarded
def _described(
    describe: Callable[[FrameType, object], Descriptor], frame: FrameType, graph: object
) -> Descriptor:
    return describe(frame, graph)
