"""Trips sampled from the teacher along the road graph, for sequence-level distillation (Kim & Rush 2016).

The first road comes from the teacher's distribution of the first token, each further one from its distribution over the
cells of the successors and EOT; a trip ends at EOT. A cell's probability is divided evenly among its roads: among all
roads with a successor at the start, and among the candidates of a step after it. Histories are those of the labels:
the last W tokens, or `block_size`.

With a teacher that reads the destination first, the destination's road comes from the distribution of the first token,
and the first road from that of the token after it. Such a trip can still end elsewhere; those that do are counted.

Every attempt has random numbers of its own, a hash of seed, attempt and step, so a trip does not depend on the trips
beside it, up to the rounding of the teacher's matrix products.

Shapes: N roads, n trips, A attempts, B attempts under way, C maximum number of candidates, D width, L labels (cells).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import BoolArray, Csr, Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.hashing import mixed
from hoser_kd.config.section import MAX_TEMPERATURE, MIN_TEMPERATURE
from hoser_kd.lmtad.model import LMTAD, half_precision
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.teacher.history_encoding import Window, ready, window_tokens
from hoser_kd.teacher.label_scoring import checked_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hoser_kd.network.road_network import RoadNetwork

MIN_ROADS = 2
"""A trip has a step or more."""
_CACHE_BYTES = {"cpu": 1 << 28, "cuda": 1 << 33}
_MOST = {"cpu": 1024, "cuda": 8192}
_FEWEST = 64
_DESTINATION_STEP = (1 << 32) - 2
"""Step whose random number decides on the destination."""
_PROBABILITIES_AT_ONCE = 1 << 24
_COMPACT_BELOW = 0.7
"""Finished attempts are removed from the cache when fewer than this share of its rows are under way."""


class SampledTrips(NamedTuple):
    """Trips of A attempts that ended, and the number of those that did not."""

    offsets: Int64Array
    """(n + 1,) int64."""
    road_ids: Int64Array
    """Roads of the trips, flat."""
    attempt: Int64Array
    """(n,) int64, ascending: number of the attempt of each trip."""
    num_attempts: int
    """A."""
    too_long: int
    """Attempts without an end after `max_steps` roads."""
    too_short: int
    """Attempts that ended after their first road."""
    ended_elsewhere: int = 0
    """Trips that ended outside the cell of the destination that the teacher had read; 0 for one that reads none."""

    @property
    def lengths(self) -> Int64Array:
        """(n,) int64: number of roads of each trip."""
        return np.diff(self.offsets)

    def trajectories(self) -> Trajectories:
        """Return the trips with the number of their attempt as id; their times are 0, since the teacher has none."""
        ids = np.asarray([f"synthetic-{attempt}" for attempt in self.attempt.tolist()], object)
        return Trajectories(self.offsets, self.road_ids, np.zeros(len(self.road_ids), np.int64), ids)


@dataclass(frozen=True)
class _Tables:
    """What a step reads, on the teacher's device."""

    token: Tensor
    """(N,) int64: token of each road."""
    candidates: Tensor
    """(N, C) int64: successors of each road, -1 where there is none."""
    options: Tensor
    """(N, C + 1) int64: tokens of the candidates, EOT last; that of road 0 where there is none."""
    log_sharing: Tensor
    """(N, C + 1) float64: log of the number of candidates in an option's cell; infinite where there is no option."""

    @classmethod
    def of(cls, tokens: Int64Array, successors: Csr, eot_token: int, device: torch.device) -> _Tables:
        degrees = successors.degrees
        candidates = np.full((len(tokens), max(1, int(degrees.max(initial=0)))), -1, np.int64)
        row = row_of_value(successors.indptr)
        candidates[row, np.arange(len(row)) - successors.indptr[row]] = successors.indices
        exists = candidates >= 0
        cells = np.where(exists, tokens[candidates], -1)
        together = (cells[:, :, None] == cells[:, None, :]).sum(2)
        log_sharing = np.where(exists, np.log(together), np.inf)
        eot = np.full((len(tokens), 1), eot_token)
        return cls(
            torch.tensor(tokens, device=device),
            torch.from_numpy(candidates).to(device),
            torch.from_numpy(np.concatenate([np.where(exists, cells, tokens[0]), eot], 1)).to(device),
            torch.from_numpy(np.concatenate([log_sharing, np.zeros_like(eot, float)], 1)).to(device),
        )


class TripSampler:
    """Samples trips from a teacher on a road network; validated once, `sample` can be called repeatedly."""

    def __init__(
        self,
        teacher: LMTAD,
        grid_tokens: Int64Array,
        network: RoadNetwork,
        window: Window = "full",
        *,
        temperature: float = 1.0,
        max_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        half: bool = False,
    ) -> None:
        """`grid_tokens` (N,) integers: token of each road; `window` and `half` as in `soft_labels.label`.

        `temperature` divides all logits. `max_steps`: maximum number of roads of a trip; None: `block_size` minus SOT,
        EOT and the destination. Raises CheckpointError if a token is out of the teacher's vocabulary, TypeError if
        tokens are not integers, ValueError for a bad window, temperature or number of steps, or if no road has a
        successor.
        """
        self.model = ready(teacher, device)
        tokens = checked_tokens(self.model, grid_tokens, network)
        self.network, self.window, self.seed, self.half = network, window, seed, half
        self._window_tokens = window_tokens(self.model, window)
        self.max_steps = max_steps or max(MIN_ROADS, self.model.config.block_size - self.model.config.frame)
        if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature is {temperature}, not a finite number above 0 (0.0001 to 10000).")
        if self.max_steps < MIN_ROADS:
            raise ValueError(f"max_steps is {max_steps}; a trip has {MIN_ROADS} roads or more.")
        self.temperature = temperature
        self._tables = _Tables.of(tokens, network.successors, self.model.config.eot_token, self.model.device)
        self._tokens = tokens
        self._can_start = network.successors.degrees > 0
        if not self._can_start.any():
            raise ValueError("no road has a successor, so there is no trip to sample.")

    @property
    def attempts_at_once(self) -> int:
        """Number of attempts whose keys and values fit the memory set aside for them, 64 or more."""
        config, kind = self.model.config, "cpu" if self.model.device.type == "cpu" else "cuda"
        length = min(self.max_steps + 1 + config.prefix_tokens, self._window_tokens)
        bytes_each = 2 * config.n_layer * config.n_embd * length * 4
        return int(np.clip(_CACHE_BYTES[kind] // bytes_each, _FEWEST, _MOST[kind]))

    @cached_property
    def start_probability(self) -> Float64Array:
        """(N,) float64: probability of each road as the first one of a teacher that reads no destination.

        Roads without a successor have probability 0.
        """
        probability: Float64Array = self._road_probability([[self.model.config.sot_token]], self._can_start)[0]
        return probability

    @cached_property
    def destination_probability(self) -> Float64Array:
        """(N,) float64: probability of each road as the destination of a teacher that reads it first."""
        everywhere = np.ones_like(self._can_start)
        probability: Float64Array = self._road_probability([[self.model.config.sot_token]], everywhere)[0]
        return probability

    @torch.no_grad()
    def _road_probability(self, history_BT: Sequence[Sequence[int]] | Int64Array, allowed: BoolArray) -> Float64Array:
        """Return (B, N) float64: the next token's distribution, each cell's share divided among its allowed roads."""
        tokens = self._tokens
        with half_precision(self.model.device, self.half):
            history = torch.as_tensor(history_BT, device=self.model.device)
            hidden_BD = self.model.hidden(history, last_only=True)[:, 0]
        logits_BL = torch.nn.functional.linear(hidden_BD.float(), self.model.lm_head.weight.float()).double()
        log_cell = logits_BL.cpu().numpy()[:, tokens] / self.temperature
        roads_in_cell = np.bincount(tokens[allowed], minlength=logits_BL.shape[1])[tokens]
        highest = log_cell[:, allowed].max(1, keepdims=True)
        weight = np.where(allowed, np.exp(log_cell - highest) / np.maximum(roads_in_cell, 1), 0.0)
        probability: Float64Array = weight / weight.sum(1, keepdims=True)
        return probability

    @torch.no_grad()
    def next_probability(self, vectors_BD: Tensor, roads: Tensor) -> Tensor:
        """Return (B, C + 1) float64: probabilities of the successors, in their order, and of the end of the trip, last.

        `vectors_BD` float32: the teacher's hidden states after the history up to `roads`, (B,) int64.
        """
        head_BOD = self.model.lm_head.weight[self._tables.options[roads]]
        logits = (head_BOD.float() * vectors_BD[:, None]).sum(2).double() / self.temperature
        return (logits - self._tables.log_sharing[roads]).softmax(1)

    @torch.no_grad()
    def sample(self, first: int, count: int) -> SampledTrips:
        """Return the trips of the attempts `first` to `first + count` - 1."""
        device, tables = self.model.device, self._tables
        attempts = np.arange(first, first + count, dtype=np.int64)
        destinations = self._destinations(attempts)
        roads = torch.from_numpy(self._starts(attempts, destinations)).to(device)
        path = np.full((count, self.max_steps), -1, np.int64)
        path[:, 0] = roads.cpu().numpy()
        ended = np.zeros(count, bool)
        rows = np.arange(count)
        history = _History(self.model, count, self._window_tokens, self.max_steps, self.half, destinations)
        for step in range(1, self.max_steps + 1):
            vectors_BD = history.append(tables.token[roads])
            chance = torch.from_numpy(uniform(self.seed, attempts[rows], step)).to(device)
            choice = _inverse(self.next_probability(vectors_BD, roads), chance)
            goes_on = choice < tables.candidates.shape[1]
            kept = goes_on.cpu().numpy()
            ended[rows[~kept]] = True
            rows = rows[kept]
            if step == self.max_steps or len(rows) == 0:
                break
            roads = tables.candidates[roads[goes_on], choice[goes_on]]
            path[rows, step] = roads.cpu().numpy()
            history.keep(goes_on)
        lengths = (path >= 0).sum(1)
        trips = ended & (lengths >= MIN_ROADS)
        taken = path[trips]
        elsewhere = 0
        if destinations is not None:
            last = taken[np.arange(len(taken)), lengths[trips] - 1]
            elsewhere = int((self._tokens[last] != destinations[trips]).sum())
        return SampledTrips(
            offsets_of(lengths[trips]),
            taken[taken >= 0],
            attempts[trips],
            count,
            too_long=int((~ended).sum()),
            too_short=int((ended & (lengths < MIN_ROADS)).sum()),
            ended_elsewhere=elsewhere,
        )

    def _destinations(self, attempts: Int64Array) -> Int64Array | None:
        """Return the token of each attempt's destination, (A,) int64; None if the teacher reads none."""
        if not self.model.config.destination_prefix:
            return None
        chance = uniform(self.seed, attempts, _DESTINATION_STEP)
        return self._tokens[_drawn(self.destination_probability[None], chance)]

    def _starts(self, attempts: Int64Array, destinations: Int64Array | None = None) -> Int64Array:
        """Return the first road of each attempt, (A,) int64."""
        chance = uniform(self.seed, attempts, 0)
        if destinations is None:
            return _drawn(self.start_probability[None], chance)
        rows = max(1, _PROBABILITIES_AT_ONCE // len(self._tokens))
        starts = np.zeros(len(attempts), np.int64)
        for first in range(0, len(attempts), rows):
            part = slice(first, first + rows)
            history_BT = np.stack(
                [np.full_like(destinations[part], self.model.config.sot_token), destinations[part]], 1
            )
            probability_BN = self._road_probability(history_BT, self._can_start)
            starts[part] = _drawn(probability_BN, chance[part])
        return starts


def _drawn(probability_BN: Float64Array, chance_A: Float64Array) -> Int64Array:
    """Return (A,) int64: the road at each quantile of its row, or of the only row; none has probability 0."""
    total_BN = probability_BN.cumsum(1)
    if len(total_BN) == 1:
        roads = np.searchsorted(total_BN[0], chance_A * total_BN[0, -1], side="right")
    else:
        roads = (total_BN <= chance_A[:, None] * total_BN[:, -1:]).sum(1)
    last = probability_BN.shape[1] - 1 - np.argmax(probability_BN[:, ::-1] > 0, 1)
    drawn: Int64Array = np.minimum(roads, last).astype(np.int64)
    return drawn


class _History:
    """Tokens so far of the attempts under way, with the teacher's keys and values while the window holds them all."""

    def __init__(
        self,
        model: LMTAD,
        count: int,
        window: int,
        max_steps: int,
        half: bool,
        destinations: Int64Array | None = None,
    ) -> None:
        self._model, self._window, self._half = model, window, half
        self._tokens_BT = torch.full((count, 1), model.config.sot_token, device=model.device)
        if destinations is not None:
            prefix_B1 = torch.from_numpy(destinations).to(model.device)[:, None]
            self._tokens_BT = torch.cat([self._tokens_BT, prefix_B1], 1)
        self._kept = 2 if model.config.destination_prefix else 0
        """Tokens that stay where a history is cut."""
        self._cache = model.start_cache(count, min(window, max_steps + self._tokens_BT.shape[1]), half=half)
        self._rows = torch.arange(count, device=model.device)

    def append(self, tokens_B: Tensor) -> Tensor:
        """Add a token to each attempt under way; return their hidden states, (B, D) float32."""
        self._tokens_BT = torch.cat([self._tokens_BT, tokens_B[:, None]], 1)
        length = self._tokens_BT.shape[1]
        with half_precision(self._model.device, self._half):
            if length > self._window:  # positions shift, so that the cache no longer applies
                last_BT = self._tokens_BT[:, self._kept - self._window :]
                cut_BT = torch.cat([self._tokens_BT[:, : self._kept], last_BT], 1)
                return self._model.hidden(cut_BT, last_only=True)[:, 0].float()
            new = length - self._cache.length
            # finished attempts keep their rows until the cache is compacted; their token has no effect on the others
            tokens = self._tokens_BT.new_zeros(self._cache.keys.shape[1], new)
            tokens[self._rows] = self._tokens_BT[:, -new:]
            return self._model.hidden(tokens, self._cache, last_only=True)[self._rows, 0].float()

    def keep(self, kept: Tensor) -> None:
        """Drop the attempts that have ended; `kept` (B,) bool."""
        self._tokens_BT, self._rows = self._tokens_BT[kept], self._rows[kept]
        if len(self._rows) < _COMPACT_BELOW * self._cache.keys.shape[1]:
            self._cache.take(self._rows)
            self._rows = torch.arange(len(self._rows), device=self._rows.device)


def uniform(seed: int, attempts: Int64Array, step: int) -> Float64Array:
    """Return (A,) float64 in [0, 1): a random number of each attempt and step, the same in any batch."""
    key = np.full(len(attempts), seed, np.int64).view(np.uint64)
    for part in (attempts.astype(np.int64).view(np.uint64), np.uint64(step)):
        key = mixed(mixed(key) ^ part)
    # the upper 53 bits are the significand of a float64
    return (mixed(key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _inverse(probability_BO: Tensor, chance_B: Tensor) -> Tensor:
    """Return (B,) int64: the option at each quantile of its row; options of probability 0 are never returned."""
    total = probability_BO.cumsum(1)
    return (total <= chance_B[:, None] * total[:, -1:]).sum(1)
