"""Causal attention with relative positions: distance and time interval of each pair of steps add to key and value.

P_ij = W_k [d_ij, t_ij] + b_k is added to key j, so q_i · P_ij = d_ij (q_i · w_d) + t_ij (q_i · w_t) + q_i · b_k: two
scalars per query and two (T, T) arrays instead of one (T, T, d) array. The sum over values is expanded in the same
way. In training, both are merged into the projections before and after, so that only the pairs are computed on padded
steps.

Shapes: B trips, T steps, S valid steps, H heads, d width of a head, e = H d width of the trajectory encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

if TYPE_CHECKING:
    from hoser_kd.hoser.config import HoserConfig


@dataclass(frozen=True)
class Pairs:
    """Pairwise inputs of attention for Q queries and T keys."""

    distance: Tensor
    """(…, 1, Q, T) float32: clipped distances."""
    interval: Tensor
    """(…, 1, Q, T) float32: clipped intervals."""
    hidden: Tensor
    """Additive mask, broadcasts to (…, 1, Q, T), float32: 0 where a query attends to a key, -inf elsewhere."""


@dataclass(frozen=True)
class HeadLayout:
    """Maps the valid steps of a batch to padded arrays by head and back; only pairs are computed padded."""

    shape: tuple[int, int, int]
    """(B, H, T)."""
    source: Tensor
    """(B * H * T,) int64: row s * H + h of each padded place; an arbitrary valid row in padding."""
    place: Tensor
    """(S * H,) int64: padded place of each row."""
    _sources: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, step_mask: Tensor, valid: Tensor, num_heads: int) -> HeadLayout:
        """Build the layout from a (B, T) bool mask of the valid steps, and their (S,) int64 places in it, flattened."""
        size, num_steps = step_mask.shape
        head = torch.arange(num_heads, device=step_mask.device)
        row = (step_mask.flatten().cumsum(0) - 1).clamp(min=0).view(size, 1, num_steps)
        source = row * num_heads + head[:, None]
        trip, step = valid // num_steps, valid % num_steps
        place = (trip[:, None] * num_heads + head) * num_steps + step[:, None]
        return cls((size, num_heads, num_steps), source.flatten(), place.flatten())

    def sources(self, parts: int) -> tuple[Tensor, ...]:
        """Return (B * H * T,) int64 for each part: `source` in rows of `parts` * H values, the same in all layers."""
        if parts not in self._sources:
            num_heads = self.shape[1]
            first = self.source // num_heads * (parts * num_heads) + self.source % num_heads
            self._sources[parts] = tuple(first + part * num_heads if part else first for part in range(parts))
        return self._sources[parts]

    def spread(self, rows: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Return each of the `parts` of (S, parts * H * w) rows as (B, H, T, w).

        Padding holds values of other rows: it must be masked for valid steps, and its gradient must be zero.
        """
        return _Spread.apply(rows, self, parts)  # type: ignore[no-any-return, no-untyped-call]

    def gather(self, padded: Tensor) -> Tensor:
        """Return (S, H * w) from (B, H, T, w)."""
        return _Gather.apply(padded, self)  # type: ignore[no-any-return, no-untyped-call]


class _Spread(torch.autograd.Function):
    """Gather with a gather as its gradient, which is faster than torch's scatter-add."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: HeadLayout, parts: int) -> tuple[Tensor, ...]:
        ctx.layout = layout
        size, num_heads, num_steps = layout.shape
        table = rows.view(rows.shape[0] * parts * num_heads, -1)
        return tuple(
            table.index_select(0, source).view(size, num_heads, num_steps, -1) for source in layout.sources(parts)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        layout = ctx.layout
        num_heads = layout.shape[1]
        parts = [
            gradient.flatten(0, 2).index_select(0, layout.place).view(len(layout.place) // num_heads, -1)
            for gradient in gradients
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], None, None


class _Gather(torch.autograd.Function):
    """Inverse of `_Spread`; padding has zero gradient."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, layout: HeadLayout) -> Tensor:
        ctx.layout = layout
        return padded.flatten(0, 2).index_select(0, layout.place).view(len(layout.place) // layout.shape[1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout = ctx.layout
        rows = gradient.reshape(len(layout.place), -1)
        padded = rows.new_zeros(len(layout.source), rows.shape[1]).index_copy_(0, layout.place, rows)
        return padded.view(*layout.shape, -1), None


class PairAttention(nn.Module):
    """Attention of HOSER's trajectory encoder; parameter names are the published ones."""

    def __init__(self, config: HoserConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        # unused: published checkpoints contain the causal mask
        self.register_buffer("bias", torch.ones(1, 1, config.max_len, config.max_len).tril())
        self.relative_position_emb_k = nn.Linear(2, self.head_dim)
        self.relative_position_emb_v = nn.Linear(2, self.head_dim)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.attn_dropout = nn.Dropout(config.dropout)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, pairs: Pairs, layout: HeadLayout) -> Tensor:
        """Return (S, e), to be added to the residual stream, from (S, e)."""
        width = x.shape[1]
        weight, bias = self.scaled()
        joint = linear(x, weight, bias + self.pair_bias())
        # q · w of each head is itself linear in x: (2, d) times (H, d, e), then (H * 2, e)
        per_head = (self.num_heads, self.head_dim)
        fold = self.relative_position_emb_k.weight.T
        slope_weight = (fold @ weight[:width].view(*per_head, width)).flatten(0, 1)
        slope_bias = (bias[:width].view(per_head) @ fold.T).flatten()
        (slope,) = layout.spread(linear(x, slope_weight, slope_bias), 1)
        query, key, value = layout.spread(joint, 3)
        mixed, sums = self.mix(query, key, value, slope, pairs)
        # W (v + W_v s) = W v + (W W_v) s: (e, H, d) times (d, 2), then (e, H * 2)
        sums_weight = (self.c_proj.weight.view(width, *per_head) @ self.relative_position_emb_v.weight).flatten(1)
        return self.finish(layout.gather(mixed), linear(layout.gather(sums), sums_weight))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Return weight (3 e, e) and bias (3 e,) of the input projection, that of queries scaled by 1 / sqrt(d)."""
        scale = self.c_attn.bias.new_ones(3, 1)
        scale[0] = 1 / math.sqrt(self.head_dim)
        scale = scale.repeat_interleave(len(self.c_attn.bias) // 3, 0)
        return self.c_attn.weight * scale, self.c_attn.bias * scale[:, 0]

    def pair_bias(self) -> Tensor:
        """Return (3 e,): what the bias of the pairs adds to queries (nothing), keys and values."""
        key, value = (
            part.bias.repeat(self.num_heads) for part in (self.relative_position_emb_k, self.relative_position_emb_v)
        )
        return pad(torch.cat([key, value]), (len(key), 0))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, slope: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return attention-weighted sums of values, (B, H, Q, d), and of distances and intervals, (B, H, Q, 2).

        `query` (B, H, Q, d) scaled by 1 / sqrt(d), `key` and `value` (B, H, T, d) including their pair biases, `slope`
        (B, H, Q, 2): products of the queries with w_d and w_t.
        """
        score = query @ key.transpose(-1, -2)
        score = score.addcmul(slope[..., :1], pairs.distance).addcmul(slope[..., 1:], pairs.interval)
        share = self.attn_dropout((score + pairs.hidden).softmax(dim=-1))
        sums = torch.stack([(share * pairs.distance).sum(-1), (share * pairs.interval).sum(-1)], dim=-1)
        return share @ value, sums

    def finish(self, mixed: Tensor, of_pairs: Tensor | None = None) -> Tensor:
        """Return (…, e), to be added to the residual stream; `of_pairs` is the projected sum over the pairs."""
        projected = self.c_proj(mixed)
        return self.resid_dropout(projected if of_pairs is None else projected + of_pairs)  # type: ignore[no-any-return]
