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
_CAPTURE, _FORMER_CAPTURE, _STEP, _WARMUP = "_capture_graph", "capture_graph", "_generation_step", "warmup"


def _describe(frame: FrameType, _: object) -> Descriptor:
    around = enclosing(frame, _PACKAGE, {_CAPTURE, _FORMER_CAPTURE, _STEP, _WARMUP})
    phase = Phase.STARTUP if _WARMUP in around else Phase.RUNTIME
    capturing = around.get(_CAPTURE) or around.get(_FORMER_CAPTURE) or around.get(_STEP)
    tokens, cached = local(capturing, "padded_q"), local(capturing, "padded_read_index_size")
    more: list[str] = []
    if tokens is None:
        tokens, cached, more = _padded(getattr(local(capturing, "self"), "inputs_and_outputs", None))
    if tokens is None:
        return Descriptor(phase=phase)
    words = [f"num_tokens={tokens}", "decode" if cached is None else f"max_kv_read={cached}", *more]
    return Descriptor(phase=phase, runtime_mode="FULL", key=" ".join(words), num_tokens=tokens)


def _padded(io: Any) -> tuple[Any, Any, list[str]]:
    """Return the padded tokens of the batch, its cached ones, None where it only decodes, and what is left.

    As the engine's own key has them: graphs may differ in the lengths alone.
    """
    more = []
    if hasattr(io, "io_pairs"):  # asynchronous batching has two sets of buffers, each with its graphs
        more, io = [f"io_pair={io.current_pair}"], io.io_pairs[io.current_pair].device_io
    if not hasattr(io, "num_q_tokens"):
        return None, None, more
    if io.use_block_table:
        return io.num_q_tokens, None, more
    # 5.17 named them otherwise; one for each kind of attention layer.
    lengths = getattr(io, "max_length_k", None) or getattr(io, "max_seqlen_k", None) or {}
    if lengths:
        more.insert(0, f"max_kv_length={','.join(map(str, lengths.values()))}")
    return io.num_q_tokens, io.max_kv_read, more


HOOKS: tuple[Hook, ...] = ()
CALLERS = (Caller(_PACKAGE, "", Descriptor(engine=ENGINE_TRANSFORMERS), _describe),)

_API, _RUNNER, _IO = f"{_PACKAGE}continuous_api", f"{_PACKAGE}model_runner", f"{_PACKAGE}input_outputs"
_PROCESSOR = "ContinuousBatchProcessor"
"""What captures before 5.9: in its step; from 5.5 on in a method of its own."""
READS = (
    Place(_API, f"{_PROCESSOR}.{_STEP}", variables=("padded_q", "padded_read_index_size"), before="5.4"),
    Place(_API, f"{_PROCESSOR}.{_STEP}", parameters=("self",)),
    Place(_API, f"{_PROCESSOR}.{_FORMER_CAPTURE}", parameters=("self",), since="5.5", before="5.9"),
    Place(_API, f"{_PROCESSOR}.inputs_and_outputs", since="5.1"),
    Place(_API, f"{_PROCESSOR}.{_WARMUP}", since="5.5"),
    Place(_RUNNER, f"ModelRunner.{_CAPTURE}", parameters=("self",), since="5.9"),
    Place(_RUNNER, f"ModelRunner.{_WARMUP}", since="5.9"),
    Place(_RUNNER, "ModelRunner.inputs_and_outputs", since="5.9"),
    Place(_IO, "ContinuousBatchingIOs.num_q_tokens", since="5.4"),
    Place(_IO, "ContinuousBatchingIOs.max_kv_read", since="5.4"),
    Place(_IO, "ContinuousBatchingIOs.use_block_table", since="5.4"),
    Place(_IO, "ContinuousBatchingAsyncIOs.io_pairs", since="5.3"),
    Place(_IO, "ContinuousBatchingAsyncIOs.current_pair", since="5.3"),
    Place(_IO, "HostDeviceIOPair.device_io", since="5.3"),
)
