"""Diagnose the teacher's full distribution at a sample of steps: how much of it is on the candidates' cells.

Shapes: K steps, V vocabulary, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hoser_kd.common.arrays import Int64Array, offsets_of, ranges
from hoser_kd.lmtad.model import LMTAD, LOGITS_AT_ONCE
from hoser_kd.teacher.history_encoding import Window, candidate_tokens, ready, step_vectors
from hoser_kd.teacher.label_scoring import checked_tokens

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


def diagnose(
    teacher: LMTAD,
    grid_tokens: Int64Array,
    trajectories: Trajectories,
    network: RoadNetwork,
    window: Window = "full",
    *,
    sample: int | None = 256,
    seed: int = 0,
    batch_tokens: int | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """Compute statistics of the teacher's full distribution at the steps of `sample` random trips (None: all trips).

    Returns arrays over the K sampled steps, in trip order: `step` (int64, row of the labels), `num_candidates`,
    `num_cells` (distinct cells among them), `candidate_mass` (probability on those cells), `entropy_nats` (of the
    full distribution), `true_probability` (of the true next cell), `top_is_true` (it has the highest probability of
    all cells) and `candidate_top_is_true` (of the candidates' cells); and `means`, a dict of their means.
    """
    model = ready(teacher, device)
    tokens = checked_tokens(model, grid_tokens, network)
    count = len(trajectories) if sample is None else min(sample, len(trajectories))
    drawn = np.sort(np.random.default_rng(seed).choice(len(trajectories), count, replace=False))
    trips = trajectories.take(drawn)
    at, _ = trips.step_positions()
    roads, true_cells = trips.road_ids[at], tokens[trips.road_ids[at + 1]]
    lengths = np.maximum(trajectories.lengths - 1, 0)
    metrics: dict[str, npt.NDArray[Any]] = {name: np.zeros(len(at), kind) for name, kind in _DIAGNOSED.items()}
    for steps, vectors_KD in step_vectors(model, trips.offsets, tokens[trips.road_ids], window, batch_tokens, half):
        size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
        for start in range(0, len(steps), size):
            part = steps[start : start + size]
            places, cells = candidate_tokens(*network.successors, tokens, roads[part])
            row = np.repeat(np.arange(len(part)), np.diff(places))
            batch = _diagnose(model, vectors_KD[start : start + size], row, cells, true_cells[part])
            for name, values in batch.items():
                metrics[name][part] = values
    out: dict[str, Any] = {
        "step": ranges(offsets_of(lengths)[:-1][drawn], lengths[drawn]),
        "num_candidates": network.successors.degrees[roads],
        **metrics,
    }
    out["means"] = {name: float(values.mean()) for name, values in metrics.items() if len(values)}
    return out


_DIAGNOSED: dict[str, Any] = {
    "num_cells": np.int64,
    "candidate_mass": np.float32,
    "entropy_nats": np.float32,
    "true_probability": np.float32,
    "top_is_true": np.bool_,
    "candidate_top_is_true": np.bool_,
}


@torch.no_grad()
def _diagnose(
    model: LMTAD, vectors_KD: Tensor, row: Int64Array, cells: Int64Array, true_cells: Int64Array
) -> dict[str, npt.NDArray[Any]]:
    logs_KV = model.lm_head(vectors_KD).log_softmax(1)
    probabilities_KV = logs_KV.exp()
    inside_KV = torch.zeros_like(logs_KV, dtype=torch.bool)
    inside_KV[torch.from_numpy(row).to(model.device), torch.from_numpy(cells).to(model.device)] = True
    true = torch.from_numpy(true_cells).to(model.device)
    metrics = {
        "num_cells": inside_KV.sum(1),
        "candidate_mass": (probabilities_KV * inside_KV).sum(1),
        "entropy_nats": -torch.special.xlogy(probabilities_KV, probabilities_KV).sum(1),
        "true_probability": probabilities_KV.gather(1, true[:, None])[:, 0],
        "top_is_true": logs_KV.argmax(1) == true,
        "candidate_top_is_true": logs_KV.masked_fill(~inside_KV, -torch.inf).argmax(1) == true,
    }
    return {name: values.cpu().numpy() for name, values in metrics.items()}
