"""Encode the history of every step with the teacher, with as few tokens as the window allows.

The history of step t of a trip r_0 … r_n is [SOT, token of r_0, …, token of r_t], cut to its last W tokens at
positions 0 … W-1. The model is causal, so one pass over a trip encodes all histories that are not cut: position t + 1
is step t. Cut histories share no computation, because their positions differ; each is a separate sequence.

Shapes: n trips, P tokens of all trips, S steps, K steps of a batch, B batch, T tokens, W window, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import Int64Array, offsets_of, ranges, row_of_value, take_rows
from hoser_kd.lmtad.model import LMTAD, half_precision

Window = Literal["full"] | int
"""`full`: the last `block_size` tokens of the history; W: the last W tokens."""

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 65_536
"""Tokens per batch: per CPU thread, so that activations fit its cache, and per GPU, which needs large batches."""


def window_tokens(teacher: LMTAD, window: Window) -> int:
    """Return the maximum length of a history, at most the teacher's context. Raises ValueError for a bad window."""
    if window == "full":
        return teacher.config.block_size
    if not isinstance(window, int | np.integer) or window < 1:
        raise ValueError(f"window is {window!r}; it must be 'full' or an integer of at least 1.")
    return min(window, teacher.config.block_size)


def ready(teacher: LMTAD, device: torch.device | str | None) -> LMTAD:
    """Return the teacher in eval mode on the device (None: its own), as a copy if anything has to change."""
    target = teacher.device if device is None else torch.device(device)
    is_there = target.type == teacher.device.type and target.index in (None, teacher.device.index)
    if teacher.training or not is_there:
        teacher = copy.deepcopy(teacher).to(target).eval()
    return teacher


def step_vectors(
    teacher: LMTAD,
    offsets: Int64Array,
    tokens: Int64Array,
    window: Window = "full",
    batch_tokens: int | None = None,
    half: bool = False,
) -> Iterator[tuple[Int64Array, Tensor]]:
    """Yield (steps, hidden states) in batches that cover each step with a next token once.

    `offsets` (n + 1,) int64 and `tokens` (P,) int64 are the trips; steps are numbered as in
    `Trajectories.step_positions`. Yields (K,) int64 and (K, D) float32 on the teacher's device. Trips of similar length
    share a batch of about `batch_tokens` tokens.
    """
    size = window_tokens(teacher, window)
    on_cpu = teacher.device.type == "cpu"
    budget = batch_tokens or (CPU_BATCH_TOKENS * torch.get_num_threads() if on_cpu else GPU_BATCH_TOKENS)
    num_steps = np.maximum(np.diff(offsets) - 1, 0)
    first_step = offsets_of(num_steps)[:-1]
    whole = np.minimum(num_steps, size - 1)
    rows = np.argsort(-whole, kind="stable")
    rows = rows[whole[rows] > 0]
    while len(rows):
        batch, rows = np.split(rows, [max(1, budget // (int(whole[rows[0]]) + 1))])
        hidden_BTD = _pass(teacher, _prefixes(teacher, offsets, tokens, batch, whole[batch]), half, last_only=False)
        kept = torch.from_numpy(np.arange(hidden_BTD.shape[1] - 1) < whole[batch, None]).to(hidden_BTD.device)
        yield ranges(first_step[batch], whole[batch]), hidden_BTD[:, 1:][kept]
    cut = ranges(first_step + whole, num_steps - whole)
    at = ranges(offsets[:-1] + whole, num_steps - whole)
    for start in range(0, len(cut), max(1, budget // size)):
        part = slice(start, start + max(1, budget // size))
        windows_BT = tokens[at[part, None] + np.arange(1 - size, 1)]
        yield cut[part], _pass(teacher, windows_BT, half, last_only=True)[:, 0]


def _prefixes(
    teacher: LMTAD, offsets: Int64Array, tokens: Int64Array, rows: Int64Array, lengths: Int64Array
) -> Int64Array:
    """Return SOT and the first `lengths` tokens of these trips, (B, T) int64, right-padded."""
    places = offsets_of(lengths)
    row = row_of_value(places)
    column = np.arange(len(row)) - places[row]
    out = np.full((len(rows), int(lengths.max()) + 1), teacher.config.pad_token, np.int64)
    out[:, 0] = teacher.config.sot_token
    out[row, column + 1] = tokens[offsets[rows][row] + column]
    return out


@torch.no_grad()
def _pass(teacher: LMTAD, tokens_BT: Int64Array, half: bool, last_only: bool) -> Tensor:
    with half_precision(teacher.device, half):
        hidden_BTD = teacher.hidden(torch.from_numpy(tokens_BT).to(teacher.device), last_only=last_only)
    return hidden_BTD.float()


def candidate_tokens(
    indptr: Int64Array, indices: Int64Array, grid_tokens: Int64Array, roads: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return offsets (K + 1,) and the tokens of all candidates of these roads, in the order of the road graph."""
    offsets, at = take_rows(indptr, roads)
    return offsets, grid_tokens[indices[at]]
