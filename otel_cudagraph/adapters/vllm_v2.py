"""vLLM's V2 model runner: ``vllm/v1/worker/gpu/model_runner.py``, 0.12 and newer."""

from __future__ import annotations

from typing import Any

from otel_cudagraph.adapters.hooks import Hook, Place, decision, described_by, undecided_trigger
from otel_cudagraph.adapters.vllm_graphs import ENCODER_MANAGER, profiling
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.scope import batch_descriptor
from otel_cudagraph.semconv import ENGINE_VLLM, Phase, Purpose

_RUNNER = "vllm.v1.worker.gpu.model_runner"
_ENCODER_RUNNER = "vllm.v1.worker.mm_encoder_model_runner"


def _configured(runner: Any, *_: Any, **__: Any) -> Descriptor | None:
    """Describe the trigger; one that only estimates memory is none: vLLM takes its count back, too."""
    if batch_descriptor.get().purpose is Purpose.PROFILING:
        return None
    mode = runner.compilation_config.cudagraph_mode.name
    return Descriptor(ENGINE_VLLM, Purpose.SERVING, Phase.STARTUP, runtime_mode=mode)


def _encoder(*_: Any, **__: Any) -> Descriptor | None:
    """Describe the trigger of a runner that only encodes, and captures where its encoder does."""
    if batch_descriptor.get().purpose is Purpose.PROFILING:
        return None
    return Descriptor(ENGINE_VLLM, Purpose.SERVING, Phase.STARTUP, runtime_mode="FULL")


HOOKS = (
    Hook(
        Place(_RUNNER, "GPUModelRunner.capture_model", since="0.12"),
        described_by(undecided_trigger, _configured),
    ),
    # The first call after all reasons to skip the capture have been looked at, and before
    # the first graph: the runner counts its trigger just before, from 0.21 on.
    Hook(Place(_RUNNER, "GPUModelRunner.maybe_setup_dummy_loras", since="0.12"), decision),
    Hook(Place(_RUNNER, "GPUModelRunner.profile_cudagraph_memory", since="0.18"), profiling),
    Hook(
        Place(_ENCODER_RUNNER, "MMEncoderModelRunner.capture_model", since="0.29"),
        described_by(undecided_trigger, _encoder),
    ),
    Hook(Place(ENCODER_MANAGER, "EncoderCudaGraphManager.capture", since="0.19"), decision),
)

READS = (
    Place(_RUNNER, "GPUModelRunner.compilation_config", since="0.12"),
    Place("vllm.config", "CompilationConfig.cudagraph_mode"),
)
