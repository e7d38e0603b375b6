"""Soft labels: the frozen teacher's scores of every step's candidates, computed once and kept.

A candidate's score is the teacher's unnormalised logit of the candidate's cell at temperature 1. The normaliser over
the vocabulary cancels when the teacher is renormalised on the candidates, so it is never computed, and any
temperature, weight or sharing rule is applied in training for free.

Letters: N roads, S labelled steps, C candidates of all steps together, K steps of a batch, V vocabulary, D width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from hoser_kd.atomic import atomic_path
from hoser_kd.digest import digest_arrays, digest_json
from hoser_kd.errors import CheckpointError, StoreError
from hoser_kd.lmtad.histories import Window, candidate_tokens, ready, step_vectors, window_tokens
from hoser_kd.lmtad.model import LMTAD, LOGITS_AT_ONCE
from hoser_kd.progress import Progress, silent
from hoser_kd.ragged import Int64Array, offsets_of, ranges
from hoser_kd.road_network import RoadNetwork
from hoser_kd.trajectories import Trajectories

Float32Array = npt.NDArray[np.float32]

_FINGERPRINT = b"fingerprint"
_PARTS = {"teacher": "the teacher's weights", "grid": "the roads' tokens", "roads": "the road graph",
          "trajectories": "the trips", "window": "the window"}
_GATHERED_NUMBERS = 1 << 22
"""Numbers of gathered embedding rows at once: 16 MiB of float32."""


@dataclass(frozen=True)
class SoftLabels:
    """Scores of S steps; the candidates of step s have `scores[offsets[s]:offsets[s + 1]]`.

    A row for every step that has a next road, in the order of `Trajectories.step_positions`; candidates are
    `network.successors` of the step's road, in their order.
    """

    offsets: Int64Array
    """(S + 1,) int64."""
    scores: Float32Array
    """(C,) float32: the teacher's logits at temperature 1, each step's up to a constant of its own."""
    outside_mass: Float32Array | None = None
    """(S,) float32: the teacher's probability outside the cells of the candidates, where it was asked for."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What the labels were made from: digests, by part."""

    def __len__(self) -> int:
        """S."""
        return len(self.offsets) - 1

    def save(self, path: str | PathLike[str], fingerprint: Mapping[str, str] | None = None) -> None:
        """Write one uncompressed Arrow IPC file, whole or not at all; `fingerprint` replaces the labels' own."""
        parts = self.fingerprint if fingerprint is None else fingerprint
        columns = {"scores": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.scores))}
        if self.outside_mass is not None:
            columns["outside_mass"] = pa.array(self.outside_mass)
        batch = pa.record_batch(columns).replace_schema_metadata({_FINGERPRINT: json.dumps(dict(parts))})
        with (atomic_path(path) as beside, pa.OSFile(str(beside), "wb") as sink,
              pa.ipc.new_file(sink, batch.schema) as writer):
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: str | PathLike[str], expect: Mapping[str, str] | None = None) -> SoftLabels:
        """Map a file written by `save`; arrays are read-only views of it.

        `expect` holds parts of the fingerprint that must be the same. Raises StoreError where the file is missing or
        damaged, or a part differs, naming it.
        """
        if not Path(path).is_file():
            raise StoreError(f"{path}: no such file. Label the trips first.")
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                batch = reader.get_batch(0)
            parts = json.loads((batch.schema.metadata or {}).get(_FINGERPRINT, b"{}"))
            scores = batch.column("scores")
            outside = batch.column("outside_mass").to_numpy() if "outside_mass" in batch.schema.names else None
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path}: not a readable file of soft labels ({error}). Label the trips again.") from None
        differing = [_PARTS.get(name, name) for name, value in (expect or {}).items() if parts.get(name) != value]
        if differing:
            raise StoreError(f"{path}: the labels were made from something else: {', '.join(differing)} differ. "
                             "Label the trips again.")
        return cls(scores.offsets.to_numpy(), scores.values.to_numpy(), outside, parts)


def fingerprint(teacher: LMTAD, grid_tokens: Int64Array, trajectories: Trajectories, network: RoadNetwork,
                window: Window = "full") -> dict[str, str]:
    """Return what labels depend on, as digests: teacher, grid, roads, trajectories, and the window in words."""
    state = {name: value.cpu().numpy() for name, value in teacher.state_dict().items()}
    shape = digest_json({**dataclasses.asdict(teacher.config), "names": list(state)})
    return {
        "teacher": f"{shape[:16]}-{digest_arrays(*state.values())}",
        "grid": digest_arrays(np.asarray(grid_tokens, np.int64)),
        "roads": digest_arrays(network.successors.indptr, network.successors.indices),
        "trajectories": digest_arrays(trajectories.offsets, trajectories.road_ids),
        "window": str(window),
    }


def label(
    teacher: LMTAD,
    grid_tokens: Int64Array,
    trajectories: Trajectories,
    network: RoadNetwork,
    window: Window = "full",
    *,
    batch_tokens: int | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
    progress: Progress = silent,
    shards_folder: str | PathLike[str] | None = None,
    shard_steps: int = 500_000,
    outside_mass: bool = False,
) -> SoftLabels:
    """Return the teacher's scores of the candidates of every step that has a next road.

    `grid_tokens` (N,) int64 is the teacher's token of each road. `window`: full reads the whole history in one pass a
    trip (beyond `block_size`, its last `block_size` tokens); W reads the last W tokens of [SOT, tokens so far], at
    positions restarting at 0. `half` asks for half precision, which only a GPU gives; scores are float32 either way.
    `batch_tokens` bounds a batch (default by device), `device` defaults to the teacher's own.

    With `shards_folder`, labels are written there shard by shard of about `shard_steps`, and a later call with the
    same arguments goes on behind the last whole shard; the folder can go once the labels are saved elsewhere.
    `outside_mass` adds the probability outside the candidates' cells, which costs the head over the vocabulary.

    Raises CheckpointError where a road's token is not a cell of the teacher's vocabulary, ValueError for a bad window.
    """
    model = ready(teacher, device)
    tokens = _checked_tokens(model, grid_tokens, network)
    window_tokens(model, window)
    made_from = fingerprint(model, tokens, trajectories, network, window)
    steps_before = offsets_of(np.maximum(trajectories.lengths - 1, 0))
    total = int(steps_before[-1])
    bounds = _shard_bounds(steps_before, shard_steps if shards_folder is not None else max(total, 1))
    shards: list[SoftLabels] = []
    for shard, (first, last) in enumerate(bounds):
        part = trajectories.take(np.arange(first, last))
        key = {**made_from, "shard": f"trips {first} to {last}", "half": str(half and model.device.type == "cuda"),
               "outside_mass": str(outside_mass)}
        path = None if shards_folder is None else Path(shards_folder) / f"shard-{shard:05d}.arrow"
        labels = None if path is None else _found(path, key)
        if labels is None:
            labels = _label(model, tokens, part, network, window, batch_tokens, half, outside_mass,
                            progress, int(steps_before[first]), total)
            if path is not None:
                labels.save(path, key)
        progress("labels", int(steps_before[last]), total)
        shards.append(labels)
    return _joined(shards, made_from)


def _checked_tokens(model: LMTAD, grid_tokens: Int64Array, network: RoadNetwork) -> Int64Array:
    tokens = np.asarray(grid_tokens, np.int64)
    if tokens.shape != (network.num_roads,):
        raise CheckpointError(f"there are {network.num_roads} roads and {tokens.shape} tokens of roads. Make the "
                              "token table from the same road network.")
    outside = (tokens < 0) | (tokens >= model.config.num_labels)
    if outside.any():
        road = int(np.argmax(outside))
        raise CheckpointError(f"road {road} has token {tokens[road]}, but the teacher's cells are 0 to "
                              f"{model.config.num_labels - 1} (vocabulary {model.config.vocab_size}); {outside.sum()} "
                              "roads are outside. Give the grid the teacher was trained on under `grid`.")
    return tokens


def _shard_bounds(steps_before: Int64Array, shard_steps: int) -> list[tuple[int, int]]:
    """Cut the trips into runs of about `shard_steps` steps; a trip is never cut."""
    targets = np.arange(shard_steps, int(steps_before[-1]), shard_steps)
    ends = np.unique(np.append(np.searchsorted(steps_before, targets), len(steps_before) - 1))
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def _found(path: Path, key: Mapping[str, str]) -> SoftLabels | None:
    try:
        return SoftLabels.load(path, key)
    except StoreError:
        return None


def _label(model: LMTAD, tokens: Int64Array, trips: Trajectories, network: RoadNetwork, window: Window,
           batch_tokens: int | None, half: bool, outside_mass: bool, progress: Progress, done: int,
           total: int) -> SoftLabels:
    roads = trips.road_ids[trips.step_positions()[0]]
    offsets = offsets_of(network.successors.degrees[roads])
    scores = np.zeros(offsets[-1], np.float32)
    outside = np.zeros(len(roads), np.float32) if outside_mass else None
    passes = step_vectors(model, trips.offsets, tokens[trips.road_ids], window, batch_tokens, half)
    for steps, vectors_KD in passes:
        places, cells = candidate_tokens(*network.successors, tokens, roads[steps])
        lengths = np.diff(places)
        row = torch.from_numpy(np.repeat(np.arange(len(steps)), lengths)).to(model.device)
        cell = torch.from_numpy(cells).to(model.device)
        scores[ranges(offsets[steps], lengths)] = _scores(model, vectors_KD, row, cell).cpu().numpy()
        if outside is not None:
            outside[steps] = _outside_mass(model, vectors_KD, row, cell).cpu().numpy()
        done += len(steps)
        progress("labels", min(done, total - 1), total)
    return SoftLabels(offsets, scores, outside)


@torch.no_grad()
def _scores(model: LMTAD, vectors_KD: Tensor, row: Tensor, cell: Tensor) -> Tensor:
    """Return the logits of `cell` after the history of `row`, float32, without the other logits."""
    head_VD = model.lm_head.weight
    size = max(1, _GATHERED_NUMBERS // head_VD.shape[1])
    parts = [(vectors_KD[rows] * head_VD[cells]).sum(1)
             for rows, cells in zip(torch.split(row, size), torch.split(cell, size), strict=True)]
    return torch.cat(parts) if parts else vectors_KD.new_zeros(0)


@torch.no_grad()
def _outside_mass(model: LMTAD, vectors_KD: Tensor, row: Tensor, cell: Tensor) -> Tensor:
    """Return (K,): the probability of everything but the candidates' cells, exact where it is tiny."""
    parts = []
    size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    for start in range(0, len(vectors_KD), size):
        logits_KV = model.lm_head(vectors_KD[start : start + size])
        whole_K = logits_KV.logsumexp(1)
        here = (row >= start) & (row < start + size)
        logits_KV[row[here] - start, cell[here]] = -torch.inf
        parts.append((logits_KV.logsumexp(1) - whole_K).exp())
    return torch.cat(parts)


def _joined(shards: list[SoftLabels], made_from: Mapping[str, str]) -> SoftLabels:
    masses = [shard.outside_mass for shard in shards if shard.outside_mass is not None]
    return SoftLabels(
        offsets_of(np.concatenate([np.diff(shard.offsets) for shard in shards])),
        np.concatenate([shard.scores for shard in shards]),
        np.concatenate(masses) if masses else None,
        made_from,
    )


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
    """Look at the teacher's whole distribution at the steps of `sample` trips drawn by `seed` (None: all).

    Returns arrays over the K sampled steps, in trip order: `step` (int64, row of the labels), `num_candidates`,
    `num_cells` (distinct cells among them), `candidate_mass` (probability on those cells), `entropy_nats` (of the
    whole distribution), `true_probability` (of the true next cell), `top_is_true` (it is the likeliest of all cells)
    and `candidate_top_is_true` (the likeliest among the candidates' cells); and `means`, a dict of their means.
    """
    model = ready(teacher, device)
    tokens = _checked_tokens(model, grid_tokens, network)
    count = len(trajectories) if sample is None else min(sample, len(trajectories))
    drawn = np.sort(np.random.default_rng(seed).choice(len(trajectories), count, replace=False))
    trips = trajectories.take(drawn)
    at, _ = trips.step_positions()
    roads, true_cells = trips.road_ids[at], tokens[trips.road_ids[at + 1]]
    lengths = np.maximum(trajectories.lengths - 1, 0)
    figures: dict[str, npt.NDArray[Any]] = {name: np.zeros(len(at), kind) for name, kind in _DIAGNOSED.items()}
    for steps, vectors_KD in step_vectors(model, trips.offsets, tokens[trips.road_ids], window, batch_tokens, half):
        size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
        for start in range(0, len(steps), size):
            part = steps[start : start + size]
            places, cells = candidate_tokens(*network.successors, tokens, roads[part])
            row = np.repeat(np.arange(len(part)), np.diff(places))
            found = _diagnose(model, vectors_KD[start : start + size], row, cells, true_cells[part])
            for name, values in found.items():
                figures[name][part] = values
    out: dict[str, Any] = {
        "step": ranges(offsets_of(lengths)[:-1][drawn], lengths[drawn]),
        "num_candidates": network.successors.degrees[roads],
        **figures,
    }
    out["means"] = {name: float(values.mean()) for name, values in figures.items() if len(values)}
    return out


_DIAGNOSED: dict[str, Any] = {"num_cells": np.int64, "candidate_mass": np.float32, "entropy_nats": np.float32,
              "true_probability": np.float32, "top_is_true": np.bool_, "candidate_top_is_true": np.bool_}


@torch.no_grad()
def _diagnose(model: LMTAD, vectors_KD: Tensor, row: Int64Array, cells: Int64Array,
              true_cells: Int64Array) -> dict[str, npt.NDArray[Any]]:
    logs_KV = model.lm_head(vectors_KD).log_softmax(1)
    probabilities_KV = logs_KV.exp()
    inside_KV = torch.zeros_like(logs_KV, dtype=torch.bool)
    inside_KV[torch.from_numpy(row).to(model.device), torch.from_numpy(cells).to(model.device)] = True
    true = torch.from_numpy(true_cells).to(model.device)
    found = {
        "num_cells": inside_KV.sum(1),
        "candidate_mass": (probabilities_KV * inside_KV).sum(1),
        "entropy_nats": -torch.special.xlogy(probabilities_KV, probabilities_KV).sum(1),
        "true_probability": probabilities_KV.gather(1, true[:, None])[:, 0],
        "top_is_true": logs_KV.argmax(1) == true,
        "candidate_top_is_true": logs_KV.masked_fill(~inside_KV, -torch.inf).argmax(1) == true,
    }
    return {name: values.cpu().numpy() for name, values in found.items()}
