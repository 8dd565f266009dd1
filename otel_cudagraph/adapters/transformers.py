"""transformers' continuous batching, which captures while it serves, a graph per padded batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cudagraph.adapters.hooks import Hook, Place
from otel_cudagraph.attribution import Caller
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import enclosing, local
from otel_cudagraph.semconv import ENGINE_TRANSFORMERS, Phase

if TYPE_CHECKING:
    from types import FrameType

_PACKAGE = "transformers.generation.continuous_batching."
_CAPTURE, _FORMER_CAPTURE, _WARMUP = "_capture_graph", "_generation_step", "run_one_warmup"


def _describe(frame: FrameType, _: object) -> Descriptor:
    around = enclosing(frame, _PACKAGE, {_CAPTURE, _FORMER_CAPTURE, _WARMUP})
    phase = Phase.STARTUP if _WARMUP in around else Phase.RUNTIME
    pair = None
    if _CAPTURE in around:
        io = local(around[_CAPTURE], "self").inputs_and_outputs
        pair = getattr(io, "current_pair", None)
        tokens, cached, lengths = _padded(io)
    else:
        step = around.get(_FORMER_CAPTURE)
        tokens, cached = local(step, "padded_q"), local(step, "padded_read_index_size")
        lengths = ()
    if tokens is None:
        return Descriptor(phase=phase)
    words = [f"num_tokens={tokens}", "decode" if cached is None else f"max_kv_read={cached}"]
    if lengths:  # one for each kind of attention layer
        words.append(f"max_kv_length={','.join(map(str, lengths))}")
    if pair is not None:  # asynchronous batching has two sets of buffers, each with its graphs
        words.append(f"io_pair={pair}")
    return Descriptor(phase=phase, runtime_mode="FULL", key=" ".join(words), num_tokens=tokens)


def _padded(io: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return the padded tokens of the batch, its cached ones, None where it only decodes, and its lengths.

    As the engine's own key has them: graphs may differ in the lengths alone.
    """
    if hasattr(io, "io_pairs"):
        io = io.io_pairs[io.current_pair].device_io
    if io.use_block_table:
        return io.num_q_tokens, None, ()
    # 5.17 named them otherwise.
    lengths = getattr(io, "max_length_k", None) or getattr(io, "max_seqlen_k", None) or {}
    return io.num_q_tokens, io.max_kv_read, tuple(lengths.values())


HOOKS: tuple[Hook, ...] = ()
CALLERS = (Caller(_PACKAGE, "", Descriptor(engine=ENGINE_TRANSFORMERS), _describe),)

_API, _RUNNER, _IO = f"{_PACKAGE}continuous_api", f"{_PACKAGE}model_runner", f"{_PACKAGE}input_outputs"
_MOVED = "5.5"
READS = (
    Place(
        _API,
        f"ContinuousBatchProcessor.{_FORMER_CAPTURE}",
        variables=("padded_q", "padded_read_index_size"),
        before=_MOVED,
    ),
    Place(_RUNNER, f"ModelRunner.{_CAPTURE}", parameters=("self",), since="5.17"),
    Place(_RUNNER, f"ModelRunner.{_WARMUP}", since="5.17"),
    Place(_RUNNER, "ModelRunner.inputs_and_outputs", since="5.17"),
    Place(_IO, "ContinuousBatchingIOs.num_q_tokens", since="5.17"),
    Place(_IO, "ContinuousBatchingIOs.max_kv_read", since="5.17"),
    Place(_IO, "ContinuousBatchingIOs.use_block_table", since="5.17"),
    Place(_IO, "ContinuousBatchingAsyncIOs.io_pairs", since="5.17"),
    Place(_IO, "ContinuousBatchingAsyncIOs.current_pair", since="5.17"),
    Place(_IO, "HostDeviceIOPair.device_io", since="5.17"),
)
