"""Greedy decoding of a fixed set of prompts, timed step by step."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.scheduler import Scheduler, Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config import RunConfig
    from runner.scheduler import Batch

_SEED = 1
LONGEST_PROMPT = 12
"""Tokens."""


@dataclass(frozen=True)
class Generation:
    """What a run generated, and how long its steps took."""

    tokens: tuple[tuple[int, ...], ...]
    decode_times_s: tuple[float, ...]
    """Duration of each pure decode step."""

    @property
    def median_decode_time_s(self) -> float | None:
        """Median duration of a decode step; None without one."""
        return statistics.median(self.decode_times_s) if self.decode_times_s else None


def generate(execute: Callable[[Batch], list[int]], config: RunConfig) -> Generation:
    """Serve the prompts to their end.

    Args:
        execute: Runs a batch and returns the next token of each row; returning
            them to the host waits for the device, so that steps can be timed.
        config: Prompts and their lengths depend on nothing but this.
    """
    sequences = _sequences(config)
    scheduler = Scheduler(sequences, config.max_batch, config.decode_steps + 1)
    decode_times_s = []
    while (batch := scheduler.next_batch()) is not None:
        started = time.perf_counter()
        next_tokens = execute(batch)
        if batch.is_decode:
            decode_times_s.append(time.perf_counter() - started)
        batch.accept(next_tokens)
    return Generation(tuple(tuple(s.generated) for s in sequences), tuple(decode_times_s))


def _sequences(config: RunConfig) -> list[Sequence]:
    """Make prompts of different lengths that arrive one after another, so that batches mix."""
    chooser = random.Random(_SEED)  # noqa: S311  no secret
    return [
        Sequence(
            slot=slot,
            prompt=[
                chooser.randrange(config.model.vocab_size) for _ in range(3 + slot % (LONGEST_PROMPT - 2))
            ],
            arrives_at_step=2 * slot,
        )
        for slot in range(config.num_sequences)
    ]
