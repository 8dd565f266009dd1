"""Names on the wire: spans, attributes, metrics, units, allowed values.

Stability of all of them: development. ``code.*``, ``error.type`` and ``hw.*``
are OpenTelemetry's own (semantic conventions: ``code``, ``error``,
``hardware``); the rest lives under ``cuda.``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

SCOPE: Final = "otel_cudagraph"

SPAN_CAPTURE_TRIGGER: Final = "cuda.graph.capture_trigger"
SPAN_CAPTURE: Final = "cuda.graph.capture"

ENGINE: Final = "cuda.graph.engine"
PURPOSE: Final = "cuda.graph.purpose"
PHASE: Final = "cuda.graph.phase"
RUNTIME_MODE: Final = "cuda.graph.runtime_mode"
KEY: Final = "cuda.graph.key"
BATCH_SIZE: Final = "cuda.graph.batch_size"
NUM_TOKENS: Final = "cuda.graph.num_tokens"
POOL_ID: Final = "cuda.graph.pool_id"
PREPARE_TIME: Final = "cuda.graph.prepare_time"
RECORD_TIME: Final = "cuda.graph.record_time"
INSTANTIATE_TIME: Final = "cuda.graph.instantiate_time"
OTHER_TIME: Final = "cuda.graph.other_time"
CAPTURED: Final = "cuda.graph.captured"
FAILED: Final = "cuda.graph.failed"
SIMULATED: Final = "cuda.graph.simulated"
SKIP_REASON: Final = "cuda.graph.skip_reason"
RANK: Final = "cuda.graph.rank"
DEVICE_INDEX: Final = "cuda.device.index"
CODE_FUNCTION_NAME: Final = "code.function.name"
ERROR_TYPE: Final = "error.type"
HW_ID: Final = "hw.id"
HW_NAME: Final = "hw.name"
HW_TYPE: Final = "hw.type"

EVENT_EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

METRIC_CAPTURE_TRIGGERS: Final = "cuda.graph.capture_triggers"
METRIC_CAPTURES: Final = "cuda.graph.captures"
METRIC_CAPTURE_DURATION: Final = "cuda.graph.capture.duration"
METRIC_CAPTURE_TRIGGER_DURATION: Final = "cuda.graph.capture_trigger.duration"
METRIC_CAPTURE_TRIGGER_ACTIVE: Final = "cuda.graph.capture_trigger.active"
METRIC_COUNT: Final = "cuda.graph.count"
METRIC_REPLAYS: Final = "cuda.graph.replays"
METRIC_SKIPS: Final = "cuda.graph.skips"

CAPTURE_DURATION_BUCKETS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds. A small graph takes about 1 ms, one of a large model up to seconds."""

CAPTURE_TRIGGER_DURATION_BUCKETS: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds. Engines spend 5 to 60 s capturing at start-up."""


class Purpose(str, Enum):
    """What a graph is captured for (``cuda.graph.purpose``)."""

    SERVING = "serving"
    PROFILING = "profiling"
    """A throw-away capture that estimates memory."""
    BENCHMARK = "benchmark"
    INTERNAL = "internal"
    """A graph that serves nobody, such as one that only keeps a pool alive."""


class Phase(str, Enum):
    """When a graph is captured (``cuda.graph.phase``)."""

    STARTUP = "startup"
    RUNTIME = "runtime"
    """While requests are served."""
    RECAPTURE = "recapture"
    """The key had been captured before."""


class SkipReason(str, Enum):
    """Why an engine refused to capture (``cuda.graph.skip_reason``)."""

    MUTATED_INPUTS = "mutated_inputs"
    CPU_DEVICE = "cpu_device"
    MULTIPLE_DEVICES = "multiple_devices"
    DYNAMIC_SHAPES = "dynamic_shapes"
    INCOMPATIBLE_OP = "incompatible_op"
    RECAPTURE_LIMIT = "recapture_limit"
    """The same function had been captured again too often."""
    OTHER = "other"


ENGINE_TORCH: Final = "torch"
"""The engine of a capture that nobody claims."""
ENGINE_TORCH_COMPILE: Final = "torch.compile"
ENGINE_VLLM: Final = "vllm"
ENGINE_SGLANG: Final = "sglang"
ENGINE_TRANSFORMERS: Final = "transformers"

ERROR_ABANDONED: Final = "CaptureAbandoned"
"""``error.type`` of a capture that began and whose graph was reset or died before its end."""
