"""Continuous batching: decodes go first, prompts fill what room is left, in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequence_


@dataclass
class Sequence:
    """One request: its prompt and what has been generated."""

    slot: int
    prompt: list[int]
    arrives_at_step: int
    generated: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens whose keys and values are in the cache."""

    @property
    def is_decoding(self) -> bool:
        """The prompt is in the cache; the next token is the last generated one."""
        return self.computed >= len(self.prompt)


class Row(NamedTuple):
    """One token of a batch."""

    sequence: Sequence
    token_id: int
    position: int
    is_last: bool
    """The last known token of its sequence: its logits give the next one."""


@dataclass(frozen=True)
class Batch:
    """The tokens of one step."""

    rows: tuple[Row, ...]
    is_decode: bool
    """Every sequence has one generated token in it."""

    def accept(self, next_tokens: Sequence_[int]) -> None:
        """Give each sequence the token that follows its last row.

        Args:
            next_tokens: One for each row.
        """
        for row, token in zip(self.rows, next_tokens, strict=True):
            row.sequence.computed += 1
            if row.is_last:
                row.sequence.generated.append(token)


class Scheduler:
    """Makes batches of at most `max_batch` tokens until every sequence has its tokens."""

    def __init__(self, sequences: list[Sequence], max_batch: int, tokens_each: int) -> None:
        self._sequences = sequences
        self._max_batch = max_batch
        self._tokens_each = tokens_each
        self._step = 0

    def next_batch(self) -> Batch | None:
        """Return the next step's batch, None when all is done."""
        unfinished = [s for s in self._sequences if len(s.generated) < self._tokens_each]
        if not unfinished:
            return None
        arrived = [s for s in unfinished if s.arrives_at_step <= self._step] or unfinished[:1]
        self._step += 1
        rows: list[Row] = []
        for sequence in sorted(arrived, key=lambda s: not s.is_decoding):
            rows += _rows(sequence, self._max_batch - len(rows))
        return Batch(tuple(rows), is_decode=all(row.sequence.is_decoding for row in rows))


def _rows(sequence: Sequence, room: int) -> list[Row]:
    """Return the next token of a decoding sequence, or the next chunk of a prompt."""
    known = sequence.prompt + sequence.generated
    end = min(len(known), sequence.computed + room)
    return [
        Row(sequence, known[position], position, is_last=position == len(known) - 1)
        for position in range(sequence.computed, end)
    ]
