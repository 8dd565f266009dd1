"""A decoder-only transformer (RMSNorm, rotary embedding, grouped-query attention, SwiGLU) with a KV cache.

The model is a sequence of pieces with attention between them: ``num_layers + 1``
stretches of computation that look at one token at a time, cut where tokens look at
each other. Every tensor has a row for each token of the batch, whatever sequence
it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from runner.config import ModelConfig


class Piece(NamedTuple):
    """What one piece hands to attention, and past it to the next piece; ``[tokens, ...]`` each."""

    query: Tensor
    key: Tensor
    value: Tensor
    residual: Tensor


@dataclass
class TokenBatch:
    """The tokens of a batch, one row each; also the static inputs of graphs.

    Attributes:
        token_ids: ``int64 [tokens]``.
        positions: ``int64 [tokens]``, the place of each token in its sequence.
        slots: ``int64 [tokens]``, the row of the KV cache that its sequence owns.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor

    def first(self, num_tokens: int) -> TokenBatch:
        """Return the first rows, in the same memory."""
        return TokenBatch(self.token_ids[:num_tokens], self.positions[:num_tokens], self.slots[:num_tokens])


class KVCache:
    """Keys and values of all sequences; the last row belongs to padding and is never read back."""

    def __init__(self, config: ModelConfig, num_sequences: int, device: torch.device) -> None:
        shape = (
            config.num_layers,
            num_sequences + 1,
            config.max_model_len,
            config.num_kv_heads,
            config.head_dim,
        )
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)

    @property
    def padding_slot(self) -> int:
        """The row that padding tokens write to."""
        return self.keys.shape[1] - 1


class RMSNorm(nn.Module):
    """Root-mean-square layer normalisation."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One layer in two halves, before and after its attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.qkv = nn.Linear(config.hidden_size, heads * config.head_dim, bias=False)
        self.output = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def before_attention(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Piece:
        config = self.config
        heads = self.qkv(self.attention_norm(hidden)).view(len(hidden), -1, config.head_dim)
        query, key, value = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        return Piece(_rotate(query, cos, sin), _rotate(key, cos, sin), value, hidden)

    def after_attention(self, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = residual + self.output(attended.flatten(1))
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The whole model; `pieces` and `attend` are its two kinds of work."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos, sin = _rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def num_pieces(self) -> int:
        """Stretches of computation without attention."""
        return self.config.num_layers + 1

    def piece(
        self, index: int, batch: TokenBatch, attended: Tensor | None, residual: Tensor | None
    ) -> Piece | Tensor:
        """Run one piece: the end of layer `index - 1` and the beginning of layer `index`.

        Args:
            index: From 0, which begins with the embedding, to `num_layers`, which ends in logits.
            batch: The tokens.
            attended: What attention of the layer before gave; None for the first piece.
            residual: What the piece before handed past attention; None for the first piece.

        Returns:
            What the next attention needs, or logits ``[tokens, vocab_size]`` of the last piece.
        """
        if attended is None or residual is None:
            hidden = self.embedding(batch.token_ids)
        else:
            hidden = self.layers[index - 1].after_attention(attended, residual)  # type: ignore[operator]
        if index == self.config.num_layers:
            return self.head(self.norm(hidden))  # type: ignore[no-any-return]
        cos, sin = self.cos[batch.positions], self.sin[batch.positions]
        return self.layers[index].before_attention(hidden, cos, sin)  # type: ignore[operator,no-any-return]

    def attend(self, layer: int, piece: Piece, batch: TokenBatch, cache: KVCache) -> Tensor:
        """Write keys and values to the cache, then let each token look back at its own sequence.

        Returns:
            ``[tokens, heads, head_dim]``.
        """
        cache.keys[layer].index_put_((batch.slots, batch.positions), piece.key)
        cache.values[layer].index_put_((batch.slots, batch.positions), piece.value)
        keys, values = cache.keys[layer][batch.slots], cache.values[layer][batch.slots]
        places = torch.arange(keys.shape[1], device=keys.device)
        seen = places <= batch.positions[:, None]
        return _attention(piece.query, keys, values, seen)

    def forward(self, batch: TokenBatch, cache: KVCache) -> Tensor:
        """Return logits ``[tokens, vocab_size]``."""
        output = self.piece(0, batch, None, None)
        for layer in range(self.config.num_layers):
            assert isinstance(output, Piece)
            attended = self.attend(layer, output, batch, cache)
            output = self.piece(layer + 1, batch, attended, output.residual)
        assert isinstance(output, Tensor)
        return output


def _attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attend from ``[tokens, heads, dim]`` to ``[tokens, places, kv_heads, dim]`` where `seen`."""
    groups = query.shape[1] // keys.shape[2]
    grouped = query.unflatten(1, (-1, groups))
    scores = torch.einsum("tkgd,tpkd->tkgp", grouped, keys) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~seen[:, None, None, :], float("-inf"))
    return torch.einsum("tkgp,tpkd->tkgd", scores.softmax(-1), values).flatten(1, 2)


def _rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.arange(config.max_model_len)[:, None] * frequencies
    return angles.cos()[:, None], angles.sin()[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of ``[tokens, heads, dim]`` by ``[tokens, 1, dim / 2]``."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
