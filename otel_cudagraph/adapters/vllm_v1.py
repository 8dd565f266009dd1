"""vLLM's V1 model runner: ``vllm/v1/worker/gpu_model_runner.py``, 0.11 and newer."""

from __future__ import annotations

from typing import Any

from otel_cudagraph.adapters.hooks import Hook, Place, described_by, trigger
from otel_cudagraph.adapters.vllm_graphs import profiling
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.semconv import ENGINE_VLLM, Phase, Purpose

_RUNNER = "vllm.v1.worker.gpu_model_runner"


def _configured(runner: Any, *_: Any, **__: Any) -> Descriptor | None:
    """Describe the trigger; `capture_model` counts where the mode is not NONE, which it looks at first."""
    mode = runner.compilation_config.cudagraph_mode.name
    if mode == "NONE":
        return None
    return Descriptor(ENGINE_VLLM, Purpose.SERVING, Phase.STARTUP, runtime_mode=mode)


HOOKS = (
    Hook(Place(_RUNNER, "GPUModelRunner.capture_model"), described_by(trigger, _configured)),
    Hook(Place(_RUNNER, "GPUModelRunner.profile_cudagraph_memory", since="0.18"), profiling),
)

READS = (
    Place(_RUNNER, "GPUModelRunner.compilation_config"),
    Place("vllm.config", "CompilationConfig.cudagraph_mode"),
    Place("vllm.config", "CUDAGraphMode.NONE"),
)
