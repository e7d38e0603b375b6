"""Score the candidates of every step with the teacher; used for stored labels and for online distillation.

A candidate's score is the teacher's unnormalized logit of the candidate's cell at temperature 1. The normalizer over
the vocabulary cancels when the distribution is renormalized over the candidates, so it is computed only if the
probability outside the candidates is requested.

Shapes: N roads, S steps, C candidates of all steps, K steps of a batch, V vocabulary, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of, ranges
from hoser_kd.common.errors import CheckpointError
from hoser_kd.lmtad.model import LMTAD, LOGITS_AT_ONCE
from hoser_kd.teacher.history_encoding import Window, candidate_tokens, ready, step_vectors, window_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

_GATHERED_NUMBERS = 1 << 22
"""Elements of gathered embedding rows per chunk: 16 MiB of float32."""


class Scores(NamedTuple):
    """Scores of the candidates of S steps, ragged; the fields of `hoser_kd.teacher.soft_labels.SoftLabels`."""

    offsets: Int64Array
    """(S + 1,) int64."""
    scores: Float32Array
    """(C,) float32."""
    outside_mass: Float32Array | None
    """(S,) float32, if requested."""


class SoftLabelScorer:
    """A teacher with its tokens and network; validated once, `score` can be called repeatedly."""

    def __init__(
        self,
        teacher: LMTAD,
        grid_tokens: Int64Array,
        network: RoadNetwork,
        window: Window = "full",
        *,
        batch_tokens: int | None = None,
        device: torch.device | str | None = None,
        half: bool = False,
        outside_mass: bool = False,
    ) -> None:
        """The arguments are those of `hoser_kd.teacher.soft_labels.label`.

        Raises CheckpointError if a road's token is out of the range of the teacher's vocabulary, TypeError if the
        tokens are not integers, ValueError for a bad window.
        """
        self.model = ready(teacher, device)
        self.tokens = checked_tokens(self.model, grid_tokens, network)
        window_tokens(self.model, window)
        self.network, self.window = network, window
        self.half, self.outside_mass = half, outside_mass
        self._batch_tokens = batch_tokens

    def score(
        self,
        trips: Trajectories,
        on_progress: Callable[[int], object] = lambda _: None,
        destinations: Int64Array | None = None,
    ) -> Scores:
        """Score the candidates of every step of the trips; `on_progress` is called with the number of steps done.

        `destinations` (n,) int64: roads that the trips lead to, for a teacher that reads the destination; None: their
        last roads.
        """
        roads = trips.road_ids[trips.step_positions()[0]]
        offsets = offsets_of(self.network.successors.degrees[roads])
        scores = np.zeros(offsets[-1], np.float32)
        outside = np.zeros(len(roads), np.float32) if self.outside_mass else None
        done = 0
        for steps, vectors_KD in step_vectors(
            self.model,
            trips.offsets,
            self.tokens[trips.road_ids],
            self.window,
            self._batch_tokens,
            self.half,
            None if destinations is None else self.tokens[destinations],
        ):
            places, cells = candidate_tokens(*self.network.successors, self.tokens, roads[steps])
            lengths = np.diff(places)
            row = torch.from_numpy(np.repeat(np.arange(len(steps)), lengths)).to(self.model.device)
            cell = torch.from_numpy(cells).to(self.model.device)
            scores[ranges(offsets[steps], lengths)] = _scores(self.model, vectors_KD, row, cell).cpu().numpy()
            if outside is not None:
                outside[steps] = _outside_mass(self.model, vectors_KD, row, cell).cpu().numpy()
            done += len(steps)
            on_progress(done)
        return Scores(offsets, scores, outside)


def checked_tokens(model: LMTAD, tokens: Int64Array, network: RoadNetwork) -> Int64Array:
    """Return the roads' tokens, (N,) int64.

    Raises TypeError if they are not integers, CheckpointError if their number is not that of the roads or one of them
    is out of the vocabulary's range.
    """
    given = np.asarray(tokens)
    if given.dtype.kind not in "iu":
        raise TypeError(
            f"tokens is of type {type(tokens).__name__} with dtype {given.dtype}. Give the token of each road, "
            '(N,) integers: token_table(grid, network)["token"].to_numpy().'
        )
    tokens = given.astype(np.int64, copy=False)
    if tokens.shape != (network.num_roads,):
        raise CheckpointError(
            f"tokens has the shape {tokens.shape}, but the network has {network.num_roads} roads. "
            "Create the token table from the same road network."
        )
    outside = (tokens < 0) | (tokens >= model.config.num_labels)
    if outside.any():
        road = int(np.argmax(outside))
        raise CheckpointError(
            f"token {tokens[road]} of road {road} is out of range [0, {model.config.num_labels - 1}] (vocabulary "
            f"{model.config.vocab_size}), as are those of {outside.sum()} roads in all. Set `grid` to the teacher's "
            "training grid."
        )
    return tokens


@torch.no_grad()
def _scores(model: LMTAD, vectors_KD: Tensor, row: Tensor, cell: Tensor) -> Tensor:
    """Return the logits of `cell` after the history of `row`, float32, without computing the other logits."""
    head_VD = model.lm_head.weight
    size = max(1, _GATHERED_NUMBERS // head_VD.shape[1])
    parts = [
        (vectors_KD[rows] * head_VD[cells]).sum(1)
        for rows, cells in zip(torch.split(row, size), torch.split(cell, size), strict=True)
    ]
    return torch.cat(parts) if parts else vectors_KD.new_zeros(0)


@torch.no_grad()
def _outside_mass(model: LMTAD, vectors_KD: Tensor, row: Tensor, cell: Tensor) -> Tensor:
    """Return (K,): the probability outside the candidates' cells, accurate even if tiny."""
    parts = []
    size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    for start in range(0, len(vectors_KD), size):
        logits_KV = model.lm_head(vectors_KD[start : start + size])
        total_K = logits_KV.logsumexp(1)
        here = (row >= start) & (row < start + size)
        logits_KV[row[here] - start, cell[here]] = -torch.inf
        parts.append((logits_KV.logsumexp(1) - total_K).exp())
    return torch.cat(parts)
