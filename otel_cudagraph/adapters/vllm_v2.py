"""vLLM's V2 model runner: ``vllm/v1/worker/gpu/model_runner.py``, 0.12 and newer."""

from __future__ import annotations

from typing import Any

from otel_cudagraph.adapters.hooks import Hook, Place, decision, described_by, undecided_trigger
from otel_cudagraph.adapters.vllm_graphs import PROFILING, VLLM
from otel_cudagraph.facts import Descriptor
from otel_cudagraph.frames import calling_frame, enclosing
from otel_cudagraph.semconv import ENGINE_VLLM, Phase, Purpose

_RUNNER = "vllm.v1.worker.gpu.model_runner"


def _configured(runner: Any, *_: Any, **__: Any) -> Descriptor | None:
    """Describe the trigger; one that only estimates memory is none: vLLM takes its count back, too."""
    if PROFILING in enclosing(calling_frame(), VLLM, {PROFILING}):
        return None
    mode = runner.compilation_config.cudagraph_mode.name
    return Descriptor(ENGINE_VLLM, Purpose.SERVING, Phase.STARTUP, runtime_mode=mode)


HOOKS = (
    Hook(
        Place(_RUNNER, "GPUModelRunner.capture_model", since="0.12"),
        described_by(undecided_trigger, _configured),
    ),
    # The first call after all reasons to skip the capture have been looked at, and before
    # the first graph: the runner counts its trigger just before, from 0.21 on.
    Hook(Place(_RUNNER, "GPUModelRunner.maybe_setup_dummy_loras", since="0.12"), decision),
)

READS = (
    Place(_RUNNER, "GPUModelRunner.compilation_config", since="0.12"),
    Place("vllm.config", "CompilationConfig.cudagraph_mode"),
    Place(_RUNNER, "GPUModelRunner.profile_cudagraph_memory", since="0.18"),
)
