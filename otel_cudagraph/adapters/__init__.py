"""What is known of each engine: where its trigger is, and what its keys are. Nothing else.

One row per engine here, one small file each beside it. A file is imported when the
engine is, and holds no code that runs while the engine serves.
"""

from __future__ import annotations

from typing import NamedTuple

from otel_cudagraph.semconv import (
    ENGINE_SGLANG,
    ENGINE_TORCH,
    ENGINE_TORCH_COMPILE,
    ENGINE_TRANSFORMERS,
    ENGINE_VLLM,
)


class AdapterRow(NamedTuple):
    """An engine, and the file that knows it."""

    name: str
    """Of the adapter's module in this package."""
    engine: str
    """``cuda.graph.engine`` of its captures."""
    distribution: str
    """Whose version decides which hooks there must be."""
    package: str
    """The import that loads the adapter."""
    has_triggers: bool = True
    """Whether the engine's graphs are captured in triggers: false for one that captures while it runs."""


ADAPTERS = (
    AdapterRow("vllm_graphs", ENGINE_VLLM, "vllm", "vllm", has_triggers=False),
    AdapterRow("vllm_v1", ENGINE_VLLM, "vllm", "vllm"),
    AdapterRow("vllm_v2", ENGINE_VLLM, "vllm", "vllm"),
    AdapterRow("sglang", ENGINE_SGLANG, "sglang", "sglang"),
    AdapterRow("transformers", ENGINE_TRANSFORMERS, "transformers", "transformers", has_triggers=False),
    AdapterRow("torch_compile", ENGINE_TORCH_COMPILE, "torch", "torch", has_triggers=False),
    AdapterRow("graphed_callables", ENGINE_TORCH, "torch", "torch", has_triggers=False),
)
