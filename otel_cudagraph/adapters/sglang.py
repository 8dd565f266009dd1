"""SGLang, 0.5.9 and newer: its capture moved twice, so each hook has its versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cudagraph.adapters.hooks import Hook, Place, decision, described_by, trigger, undecided_trigger
from otel_cudagraph.attribution import Caller
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import enclosing, local, module_name
from otel_cudagraph.semconv import ENGINE_SGLANG, Phase, Purpose

if TYPE_CHECKING:
    from types import FrameType

    from otel_cudagraph._patching import Method

_SGLANG = "sglang.srt."
_EXECUTOR = "sglang.srt.model_executor."
_SHAPES = "0.5.14"
"""The version from which on runners capture shapes with a backend."""

_DRAFTS = "sglang.srt.speculative.multi_layer_eagle_draft_extend_cuda_graph_runner"
_ONE_BATCH, _ONE_SHAPE, _BACKEND = "capture_one_batch_size", "capture_one_shape", "capture_one"
_ONE_PREFILL = "_capture_one"
"""Of the breakable runner that there was from 0.5.11 to 0.5.13."""
_IN_PIECES = ("Piecewise", "Breakable")
_MODES = {"full": "FULL", "breakable": "PIECEWISE", "tc_piecewise": "PIECEWISE"}


def _attempt(*_: Any, **__: Any) -> Descriptor:
    return Descriptor(ENGINE_SGLANG, Purpose.SERVING, Phase.STARTUP)


def _attempt_while_serving(*_: Any, **__: Any) -> Descriptor:
    return _attempt()._replace(phase=Phase.RUNTIME)


def _runner(original: Method) -> Method:
    """A runner captures: what the attempt round it waits for, or an attempt of its own (draft models)."""
    return decision(trigger(original, _attempt))


def _describe(frame: FrameType, _: object) -> Descriptor:
    around = enclosing(frame, _SGLANG, {_ONE_BATCH, _ONE_SHAPE, _ONE_PREFILL, _BACKEND})
    if _BACKEND in around:
        return _shape(around[_BACKEND], around.get(_ONE_SHAPE))
    batch = around.get(_ONE_BATCH) or around.get(_ONE_PREFILL)
    return Descriptor() if batch is None else _batch(batch)


def _shape(backend: FrameType, runner: FrameType | None) -> Descriptor:
    shape = local(backend, "shape_key")
    name = module_name(backend).rpartition(".")[2].removesuffix("_cuda_graph_backend")
    shaped = local(runner, "self")
    of = type(shaped).__name__ if runner is not None else None
    prefill = of is not None and "Prefill" in of
    fields = {"stream": "stream_idx", "variant": "variant_label", "attention": "attention_variant"}
    extras = {word: getattr(shape, field, None) for word, field in fields.items()}
    # The runners of a draft model's steps are alike but for the step.
    extras["step"] = getattr(shaped, "step", None)
    words = [f"{'num_tokens' if prefill else 'batch_size'}={shape.size}", *_said(extras)]
    return Descriptor(
        runtime_mode=_MODES.get(name),
        key=" ".join([*([of] if of else []), name, *words]),
        batch_size=None if prefill else shape.size,
        num_tokens=shape.size if prefill else None,
    )


def _batch(frame: FrameType) -> Descriptor:
    of = type(local(frame, "self")).__name__
    size, tokens = local(frame, "bs") or local(frame, "num_seqs"), local(frame, "num_tokens")
    words = _said({"batch_size": size, "num_tokens": tokens, "stream": local(frame, "stream_idx")})
    return Descriptor(
        runtime_mode="PIECEWISE" if any(word in of for word in _IN_PIECES) else "FULL",
        key=" ".join([of, *words]),
        batch_size=size if isinstance(size, int) else None,
        num_tokens=tokens if isinstance(tokens, int) else None,
    )


def _said(words: dict[str, Any]) -> list[str]:
    return [f"{word}={value}" for word, value in words.items() if value is not None]


_attempts = described_by(undecided_trigger, _attempt)
_MODEL_RUNNER = f"{_EXECUTOR}model_runner"

HOOKS = (
    Hook(Place(_MODEL_RUNNER, "ModelRunner.init_device_graphs", before=_SHAPES), _attempts),
    Hook(Place(_MODEL_RUNNER, "ModelRunner.init_piecewise_cuda_graphs", before=_SHAPES), _attempts),
    Hook(Place(f"{_EXECUTOR}cuda_graph_runner", "CudaGraphRunner.capture", before=_SHAPES), _runner),
    Hook(
        Place(f"{_EXECUTOR}piecewise_cuda_graph_runner", "PiecewiseCudaGraphRunner.capture", before=_SHAPES),
        _runner,
    ),
    Hook(
        Place(
            f"{_EXECUTOR}breakable_cuda_graph_runner",
            "BreakableCudaGraphRunner._capture_all",
            since="0.5.11",
            before=_SHAPES,
        ),
        _runner,
    ),
    Hook(Place(_MODEL_RUNNER, "ModelRunner.init_cuda_graphs", since=_SHAPES), _attempts),
    # An instance that takes over decoding, and one whose experts have moved, capture while they serve.
    *(
        Hook(
            Place(_MODEL_RUNNER, f"ModelRunner.{name}", since="0.5.21"),
            described_by(undecided_trigger, _attempt_while_serving),
        )
        for name in ("ensure_decode_cuda_graphs", "_recapture_elastic_cuda_graphs")
    ),
    Hook(
        Place(f"{_EXECUTOR}runner.decode_cuda_graph_runner", "DecodeCudaGraphRunner.capture", since=_SHAPES),
        _runner,
    ),
    Hook(
        Place(
            f"{_EXECUTOR}runner.prefill_cuda_graph_runner", "PrefillCudaGraphRunner.capture", since=_SHAPES
        ),
        _runner,
    ),
    Hook(
        Place(
            _DRAFTS,
            "OneGraphMultiLayerEagleMultiStepDraftExtendCudaGraphRunner._init_and_capture",
            since="0.5.16",
        ),
        _runner,
    ),
)
CALLERS = (Caller(_SGLANG, "", Descriptor(engine=ENGINE_SGLANG), _describe),)
READS = (
    Place(
        f"{_EXECUTOR}cuda_graph_runner",
        f"CudaGraphRunner.{_ONE_BATCH}",
        parameters=("self", "bs", "stream_idx"),
        variables=("num_tokens",),
        before=_SHAPES,
    ),
    Place(
        f"{_EXECUTOR}piecewise_cuda_graph_runner",
        f"PiecewiseCudaGraphRunner.{_ONE_BATCH}",
        parameters=("self", "num_tokens"),
        before=_SHAPES,
    ),
    Place(
        f"{_EXECUTOR}breakable_cuda_graph_runner",
        f"BreakableCudaGraphRunner.{_ONE_PREFILL}",
        parameters=("self", "num_tokens"),
        since="0.5.11",
        before=_SHAPES,
    ),
    *(
        Place(
            f"{_EXECUTOR}runner_backend.{module}_cuda_graph_backend",
            f"{name}.{_BACKEND}",
            parameters=("shape_key",),
            since=_SHAPES,
        )
        for module, name in (
            ("full", "FullCudaGraphBackend"),
            ("breakable", "BreakableCudaGraphBackend"),
            ("tc_piecewise", "TcPiecewiseCudaGraphBackend"),
        )
    ),
    *(
        Place(f"{_EXECUTOR}runner.shape_key", f"ShapeKey.{field}", since=since)
        for field, since in (
            ("size", _SHAPES),
            ("stream_idx", _SHAPES),
            ("variant_label", _SHAPES),
            ("attention_variant", "0.5.20"),
        )
    ),
    *(
        Place(f"{_EXECUTOR}runner.{module}", f"{name}.{_ONE_SHAPE}", parameters=("self",), since=_SHAPES)
        for module, name in (
            ("decode_cuda_graph_runner", "DecodeCudaGraphRunner"),
            ("prefill_cuda_graph_runner", "PrefillCudaGraphRunner"),
        )
    ),
)
