"""Runs batches of tokens through the model: eager, or through the graphs that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from otel_cudagraph import capture_trigger
from runner.config import CudaGraphMode
from runner.graph_runner import GraphRunner
from runner.model import KVCache, TokenBatch, Transformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from runner.config import RunConfig
    from runner.platforms import Platform
    from runner.scheduler import Batch

_SEED = 0


class ModelRunner:
    """A model, its KV cache, its static inputs and its graphs."""

    def __init__(self, config: RunConfig, platform: Platform) -> None:
        self._mode = config.mode
        self._platform = platform
        torch.manual_seed(_SEED)
        self._model = Transformer(config.model).to(platform.device).eval()
        self._cache = KVCache(config.model, config.num_sequences, platform.device)
        self._inputs = _static_inputs(config.max_batch, self._cache.padding_slot, platform.device)
        self._graphs = GraphRunner(self._model, self._cache, self._inputs, platform, config.capture_sizes)

    @property
    def num_graphs(self) -> int:
        """Graphs captured."""
        return self._graphs.num_graphs

    def capture_model(self, progress: Callable[[Iterable[int], str], Iterable[int]]) -> None:
        """Capture the graphs of the configured mode; with ``NONE`` there is nothing to capture.

        Raises:
            GraphMemoryError: the device has no memory for a size.
        """
        if self._mode is CudaGraphMode.NONE:
            return
        with capture_trigger(
            engine="runner", runtime_mode=self._mode.value, simulated=self._platform.simulated
        ):
            for mode in self._mode.captured_modes:
                self._graphs.capture(mode, progress, is_decode=self._serves_decodes_only(mode))

    @torch.no_grad()
    def execute(self, batch: Batch, *, eager: bool = False) -> list[int]:
        """Run one batch; return the most likely next token of each row.

        Args:
            batch: The tokens.
            eager: Use no graph, whatever the mode.
        """
        num_tokens = len(batch.rows)
        mode = CudaGraphMode.NONE if eager else self._mode.runtime_mode(is_decode=batch.is_decode)
        size = self._graphs.padded_size(num_tokens)
        self._fill_inputs(batch)
        if mode is CudaGraphMode.NONE or size is None:
            logits = self._model(self._inputs.first(num_tokens), self._cache)
        else:
            logits = self._graphs.run(mode, size)
        return _most_likely(logits[:num_tokens])

    def _serves_decodes_only(self, mode: CudaGraphMode) -> bool:
        return mode is CudaGraphMode.FULL and self._mode is not CudaGraphMode.FULL

    def _fill_inputs(self, batch: Batch) -> None:
        inputs, num_tokens = self._inputs, len(batch.rows)
        rows = [(row.token_id, row.position, row.sequence.slot) for row in batch.rows]
        padding = [(0, 0, self._cache.padding_slot)] * (len(inputs.token_ids) - num_tokens)
        for target, values in zip(
            (inputs.token_ids, inputs.positions, inputs.slots), zip(*rows, *padding, strict=True), strict=True
        ):
            target.copy_(torch.tensor(values))


def _static_inputs(max_batch: int, padding_slot: int, device: torch.device) -> TokenBatch:
    def column(value: int) -> Tensor:
        return torch.full((max_batch,), value, dtype=torch.int64, device=device)

    return TokenBatch(column(0), column(0), column(padding_slot))


def _most_likely(logits: Tensor) -> list[int]:
    return logits.argmax(-1).tolist()
