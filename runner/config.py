"""What a run is asked to do: the model's shape, the graphs to capture, the steps to decode."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CudaGraphMode(str, Enum):
    """Which batches run through which graphs; vLLM uses the same names."""

    NONE = "NONE"
    PIECEWISE = "PIECEWISE"
    FULL = "FULL"
    FULL_DECODE_ONLY = "FULL_DECODE_ONLY"
    FULL_AND_PIECEWISE = "FULL_AND_PIECEWISE"

    def runtime_mode(self, *, is_decode: bool) -> CudaGraphMode:
        """Return how a batch runs: ``FULL``, ``PIECEWISE`` or ``NONE`` (eager).

        Args:
            is_decode: Every sequence of the batch has exactly one token in it.
        """
        if self is CudaGraphMode.FULL_DECODE_ONLY:
            return CudaGraphMode.FULL if is_decode else CudaGraphMode.NONE
        if self is CudaGraphMode.FULL_AND_PIECEWISE:
            return CudaGraphMode.FULL if is_decode else CudaGraphMode.PIECEWISE
        return self

    @property
    def captured_modes(self) -> tuple[CudaGraphMode, ...]:
        """The modes that graphs are captured for, pieces first."""
        modes = {self.runtime_mode(is_decode=decode) for decode in (False, True)}
        return tuple(mode for mode in (CudaGraphMode.PIECEWISE, CudaGraphMode.FULL) if mode in modes)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only transformer."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    max_model_len: int
    num_layers: int = 12
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


PRESETS = {
    "tiny": ModelConfig(64, 128, num_heads=4, num_kv_heads=2, vocab_size=256, max_model_len=128),
    "small": ModelConfig(512, 1024, num_heads=8, num_kv_heads=4, vocab_size=1024, max_model_len=512),
    "medium": ModelConfig(2048, 5632, num_heads=16, num_kv_heads=8, vocab_size=32_000, max_model_len=2048),
}
"""Model shapes by name; weights are random, from a fixed seed."""


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    model: ModelConfig
    mode: CudaGraphMode = CudaGraphMode.FULL_AND_PIECEWISE
    capture_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Batch sizes in tokens, ascending."""
    decode_steps: int = 16
    """Tokens to decode for each sequence, after its first."""

    @property
    def max_batch(self) -> int:
        """Tokens in the largest batch."""
        return self.capture_sizes[-1]

    @property
    def num_sequences(self) -> int:
        """Sequences served: fewer than the largest graph holds, so that batches are padded."""
        return min(6, max(1, self.max_batch - 1))
