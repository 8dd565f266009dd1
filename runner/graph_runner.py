"""Captures graphs for a list of batch sizes, largest first, and replays them.

All graphs share one memory pool and read the same static inputs. A batch runs in
the smallest captured size that holds it; the rows beyond are padding.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from otel_cudagraph import batch_descriptor
from runner.config import CudaGraphMode
from runner.model import Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from runner.model import KVCache, TokenBatch, Transformer
    from runner.platforms import Platform


class GraphMemoryError(RuntimeError):
    """The device has no memory for another graph."""


@dataclass
class CapturedPiece:
    """A graph and the static tensors that its replay fills."""

    graph: Any
    output: Any


class GraphRunner:
    """Graphs of one model, by mode and size."""

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        inputs: TokenBatch,
        platform: Platform,
        sizes: tuple[int, ...],
    ) -> None:
        self._model = model
        self._cache = cache
        self._inputs = inputs
        self._platform = platform
        self._sizes = sizes
        self._pool = platform.graph_pool()
        self._full: dict[int, CapturedPiece] = {}
        self._pieces: dict[int, list[CapturedPiece]] = {}
        config = model.config
        # What attention, which runs eager, hands to the next piece.
        self._attended = torch.zeros(
            (sizes[-1], config.num_heads, config.head_dim), device=inputs.token_ids.device
        )

    @property
    def num_graphs(self) -> int:
        """Graphs captured."""
        return len(self._full) + sum(map(len, self._pieces.values()))

    def padded_size(self, num_tokens: int) -> int | None:
        """Return the smallest captured size that holds `num_tokens`, None where none does."""
        index = bisect_left(self._sizes, num_tokens)
        return self._sizes[index] if index < len(self._sizes) else None

    @torch.no_grad()
    def capture(
        self, mode: CudaGraphMode, progress: Callable[[Iterable[int], str], Iterable[int]], *, is_decode: bool
    ) -> None:
        """Capture all sizes for one mode.

        Args:
            mode: ``FULL`` or ``PIECEWISE``.
            progress: Shows the way through the sizes.
            is_decode: The graphs serve decode batches only, whose tokens are their sequences.

        Raises:
            GraphMemoryError: the device has no memory for a size.
        """
        capture = self._capture_full if mode is CudaGraphMode.FULL else self._capture_pieces
        for size in progress(sorted(self._sizes, reverse=True), f"capturing {mode.value} graphs"):
            try:
                self._model(
                    self._inputs.first(size), self._cache
                )  # warm-up: kernels load, libraries allocate
                capture(size, size if is_decode else None)
            except Exception as error:
                if _is_out_of_memory(error):
                    raise GraphMemoryError(
                        f"out of memory while capturing the {mode.value} graph of size {size}: "
                        f"lower --capture-sizes (the largest is {self._sizes[-1]}) or --num-layers"
                    ) from error
                raise

    @torch.no_grad()
    def run(self, mode: CudaGraphMode, size: int) -> Tensor:
        """Replay the graphs of `size` over the static inputs; return logits ``[size, vocab_size]``."""
        if mode is CudaGraphMode.FULL:
            full = self._full[size]
            full.graph.replay()
            return full.output  # type: ignore[no-any-return]
        return self._run_pieces(size)

    def _capture_full(self, size: int, batch_size: int | None) -> None:
        with batch_descriptor(
            f"FULL num_tokens={size}", runtime_mode="FULL", num_tokens=size, batch_size=batch_size
        ):
            self._full[size] = self._captured(lambda: self._model(self._inputs.first(size), self._cache))

    def _capture_pieces(self, size: int, batch_size: int | None) -> None:
        inputs, attended = self._inputs.first(size), self._attended[:size]
        pieces: list[CapturedPiece] = []
        for index in range(self._model.num_pieces):
            before = (attended, pieces[-1].output.residual) if pieces else (None, None)
            with batch_descriptor(
                f"PIECEWISE num_tokens={size} piece={index}",
                runtime_mode="PIECEWISE",
                num_tokens=size,
                batch_size=batch_size,
            ):
                pieces.append(self._captured(partial(self._model.piece, index, inputs, *before)))
        self._pieces[size] = pieces

    def _captured(self, body: Callable[[], Any]) -> CapturedPiece:
        graph = self._platform.new_graph()
        with self._platform.capture(graph, pool=self._pool):
            output = body()
        return CapturedPiece(graph, output)

    def _run_pieces(self, size: int) -> Tensor:
        inputs = self._inputs.first(size)
        pieces = self._pieces[size]
        for layer, piece in enumerate(pieces[:-1]):
            piece.graph.replay()
            assert isinstance(piece.output, Piece)
            self._attended[:size] = self._model.attend(layer, piece.output, inputs, self._cache)
        pieces[-1].graph.replay()
        return pieces[-1].output  # type: ignore[no-any-return]


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what failed a capture: ending it may have raised another error on top."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(link):
            return True
        link = link.__cause__ or link.__context__
    return False
