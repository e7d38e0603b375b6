"""Encode the history of every step with the teacher, with as few tokens as the window allows.

The history of step t of a trip r_0 … r_n is [SOT, token of r_0, …, token of r_t], cut to its last W tokens at
positions 0 … W-1. The model is causal, so one pass over a trip encodes all histories that are not cut: position t + 1
is step t. Cut histories share no computation, because their positions differ; each is a separate sequence.

A teacher with `destination_prefix` reads [SOT, token of r_n, token of r_0, …, token of r_t]; SOT and the destination
stay where a history is cut.

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
    if teacher.config.destination_prefix and window < 3:
        raise ValueError(f"window is {window}; this teacher needs at least 3: SOT, the destination and a road.")
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
    destinations: Int64Array | None = None,
) -> Iterator[tuple[Int64Array, Tensor]]:
    """Yield (steps, hidden states) in batches that cover each step with a next token once.

    `offsets` (n + 1,) int64 and `tokens` (P,) int64 are the trips; steps are numbered as in
    `Trajectories.step_positions`. Yields (K,) int64 and (K, D) float32 on the teacher's device. Trips of similar length
    share a batch of about `batch_tokens` tokens. `destinations` (n,) int64: tokens of the destinations, for a teacher
    with `destination_prefix`; None: those of the last roads.
    """
    size = window_tokens(teacher, window)
    if teacher.config.destination_prefix and destinations is None:
        destinations = tokens[np.maximum(offsets[1:] - 1, 0)] if len(tokens) else np.zeros(len(offsets) - 1, np.int64)
    on_cpu = teacher.device.type == "cpu"
    budget = batch_tokens or (CPU_BATCH_TOKENS * torch.get_num_threads() if on_cpu else GPU_BATCH_TOKENS)
    num_steps = np.maximum(np.diff(offsets) - 1, 0)
    first_step = offsets_of(num_steps)[:-1]
    before = 1 + teacher.config.prefix_tokens
    whole = np.minimum(num_steps, size - before)
    rows = np.argsort(-whole, kind="stable")
    rows = rows[whole[rows] > 0]
    while len(rows):
        batch, rows = np.split(rows, [max(1, budget // (int(whole[rows[0]]) + before))])
        histories_BT = _histories(teacher, offsets, tokens, batch, whole[batch], destinations)
        hidden_BTD = _pass(teacher, histories_BT, half, last_only=False)
        kept = torch.from_numpy(np.arange(hidden_BTD.shape[1] - before) < whole[batch, None]).to(hidden_BTD.device)
        yield ranges(first_step[batch], whole[batch]), hidden_BTD[:, before:][kept]
    cut = ranges(first_step + whole, num_steps - whole)
    at = ranges(offsets[:-1] + whole, num_steps - whole)
    trip = np.repeat(np.arange(len(whole)), num_steps - whole)
    for start in range(0, len(cut), max(1, budget // size)):
        part = slice(start, start + max(1, budget // size))
        windows_BT = tokens[at[part, None] + np.arange(1 - size, 1)]
        if destinations is not None and teacher.config.destination_prefix:
            windows_BT[:, 0] = teacher.config.sot_token
            windows_BT[:, 1] = destinations[trip[part]]
        yield cut[part], _pass(teacher, windows_BT, half, last_only=True)[:, 0]


def _histories(
    teacher: LMTAD,
    offsets: Int64Array,
    tokens: Int64Array,
    rows: Int64Array,
    lengths: Int64Array,
    destinations: Int64Array | None,
) -> Int64Array:
    """Return SOT, the prefix and the first `lengths` tokens of these trips, (B, T) int64, right-padded."""
    places = offsets_of(lengths)
    row = row_of_value(places)
    column = np.arange(len(row)) - places[row]
    before = 1 + teacher.config.prefix_tokens
    out = np.full((len(rows), int(lengths.max()) + before), teacher.config.pad_token, np.int64)
    out[:, 0] = teacher.config.sot_token
    if destinations is not None and teacher.config.destination_prefix:
        out[:, 1] = destinations[rows]
    out[row, column + before] = tokens[offsets[rows][row] + column]
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
