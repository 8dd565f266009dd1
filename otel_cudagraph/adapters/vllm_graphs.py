"""The graphs of vLLM: which batch each one serves, and which of them are no model's.

All of it is read from the calls round the capture, while it is prepared.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from otel_cudagraph.adapters.hooks import Hook, Place, within
from otel_cudagraph.attribution import Caller
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import enclosing, local, module_name
from otel_cudagraph.semconv import ENGINE_VLLM, Phase, Purpose

if TYPE_CHECKING:
    from types import FrameType

_VLLM = "vllm."
ENCODER_MANAGER = "vllm.v1.worker.encoder_cudagraph"

profiling = functools.partial(within, descriptor=Descriptor(purpose=Purpose.PROFILING, phase=Phase.STARTUP))
"""Wraps `profile_cudagraph_memory`, which captures graphs, estimates their memory and throws them away."""

_ENCODER, _MICRO_BATCHES, _CAPTURE = "_capture_budget_graph", "_capture_ubatches", "capture"
_SPECULATORS = ("vllm.v1.spec_decode.", "vllm.v1.worker.gpu.spec_decode.")
_UBATCH_WRAPPER = "vllm.v1.worker.gpu_ubatch_wrapper"
_EXECUTION = "vllm.v1.worker.gpu.cudagraph_utils"
_MANAGER = "CudaGraphManager"
_FORWARD_CONTEXT = "vllm.forward_context"
_NAMELESS = frozenset({"cg_mode"})
"""Fields of a descriptor that its key does not repeat."""
_PARTS = {"vllm.compilation.cuda_graph": "piece", "vllm.compilation.breakable_cudagraph": "segment"}
"""What captures one graph after another of the same forward pass, and what each is called."""


def _describe(frame: FrameType, _: object) -> Descriptor:
    around = enclosing(frame, _VLLM, {_ENCODER, _MICRO_BATCHES, _CAPTURE})
    if _ENCODER in around:
        return _encoder(around[_ENCODER])
    if _MICRO_BATCHES in around:
        return _micro_batches(around[_MICRO_BATCHES])
    return _model(frame, around.get(_CAPTURE))


def _micro_batches(frame: FrameType) -> Descriptor:
    """Describe a FULL graph of a batch that the V1 runner splits: it has no forward context of its own."""
    tokens = [part.num_tokens for part in local(frame, "ubatch_metadata")]
    key = f"FULL num_tokens={sum(tokens)} num_ubatches={len(tokens)}"
    return Descriptor(runtime_mode="FULL", key=key, num_tokens=_integer(sum(tokens)))


def _encoder(frame: FrameType) -> Descriptor:
    names = ("token_budget", "path", "axis_keys")
    words = [f"{name}={value}" for name in names if (value := local(frame, name))]
    key = " ".join(["encoder", *words])
    return Descriptor(runtime_mode="FULL", key=key, num_tokens=_integer(local(frame, "token_budget")))


def _model(frame: FrameType, capture: FrameType | None) -> Descriptor:
    context = _forward_context()
    batch = local(capture, "desc") if capture is not None and module_name(capture) == _EXECUTION else None
    if batch is not None:
        mode = batch.cg_mode.name
    elif context is not None:
        batch, mode = context.batch_descriptor, context.cudagraph_runtime_mode.name
    else:
        return Descriptor()
    breakable = "breakable" in module_name(frame)
    words = [
        *(_speculator(capture) if _in_speculator(frame) else []),
        *(["breakable"] if breakable else []),
        mode,
        *_fields(batch),
        *_part(frame, mode, context),
    ]
    return Descriptor(
        runtime_mode=mode,
        key=" ".join(words),
        batch_size=_integer(getattr(batch, "num_reqs", None)),
        num_tokens=_integer(getattr(batch, "num_tokens", None)),
    )


def _forward_context() -> Any:
    """Return the forward pass's context, None where there is none or it says of no graph."""
    context = getattr(sys.modules.get(_FORWARD_CONTEXT), "_forward_context", None)
    return None if context is None or context.cudagraph_runtime_mode.name == "NONE" else context


def _speculator(capture: FrameType | None) -> list[str]:
    """Name a speculator's graphs by their manager: those of the prefill and of the decode may be alike."""
    manager = type(local(capture, "self")).__name__ if capture is not None else ""
    return ["speculator", *([manager] if manager.endswith(_MANAGER) and manager != _MANAGER else [])]


def _in_speculator(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name != "capture_model":
        if module_name(frame).startswith(_SPECULATORS):
            return True
        frame = frame.f_back
    return False


def _fields(batch: Any) -> list[str]:
    """Write a batch descriptor's fields that say something, whichever its version has."""
    if dataclasses.is_dataclass(batch):
        names: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(batch))
    else:
        names = getattr(batch, "_fields", ())
    pairs = [(name, getattr(batch, name)) for name in names if name not in _NAMELESS]
    return [f"{name}={value}" for name, value in pairs if value not in (None, False, 0)]


class _Parts(threading.local):
    """Counts the graphs that one forward pass captures, on one thread."""

    context: weakref.ref[Any] | None = None
    number = -1

    def next(self, context: Any) -> int:
        same = self.context is not None and self.context() is context
        self.number = self.number + 1 if same else 0
        self.context = weakref.ref(context)
        return self.number


_parts = _Parts()


def _part(frame: FrameType, mode: str, context: Any) -> list[str]:
    word = _PARTS.get(module_name(frame))
    if context is None or word is None or (word == "piece" and mode != "PIECEWISE"):
        return []
    return [f"{word}={_parts.next(context)}"]


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


HOOKS: tuple[Hook, ...] = ()
CALLERS = (Caller(_VLLM, "", Descriptor(engine=ENGINE_VLLM), _describe),)

READS = (
    Place("vllm.compilation.cuda_graph", "CUDAGraphWrapper.__call__"),
    Place(_FORWARD_CONTEXT, "_forward_context"),
    Place(_FORWARD_CONTEXT, "ForwardContext.batch_descriptor"),
    Place(_FORWARD_CONTEXT, "ForwardContext.cudagraph_runtime_mode"),
    Place(_FORWARD_CONTEXT, "BatchDescriptor.num_tokens"),
    Place(_FORWARD_CONTEXT, "BatchDescriptor.num_reqs", since="0.12"),
    Place(_EXECUTION, f"CudaGraphManager.{_CAPTURE}", variables=("desc",), since="0.18"),
    Place(_EXECUTION, "BatchExecutionDescriptor.cg_mode", since="0.18"),
    Place(_EXECUTION, "BatchExecutionDescriptor.num_tokens", since="0.18"),
    Place(_EXECUTION, "BatchExecutionDescriptor.num_reqs", since="0.18"),
    Place(_UBATCH_WRAPPER, f"UBatchWrapper.{_MICRO_BATCHES}", parameters=("ubatch_metadata",)),
    Place(_UBATCH_WRAPPER, "UbatchMetadata.num_tokens"),
    Place(
        "vllm.compilation.breakable_cudagraph",
        "BreakableCUDAGraphCapture._begin_segment",
        since="0.22",
    ),
    *(
        Place(
            ENCODER_MANAGER,
            f"EncoderCudaGraphManager.{_ENCODER}",
            parameters=(parameter,),
            since=since,
        )
        for parameter, since in (("token_budget", "0.19"), ("path", "0.24"), ("axis_keys", "0.30"))
    ),
)
