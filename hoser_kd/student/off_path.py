"""Off-path distillation: a destination-aware teacher on the states that the student itself visits.

A student is trained on steps of real trips. Its own search also reaches states off any real trip, where it can be
confident and wrong. After the training, the student therefore samples trips for the requests of its training trips, and
at every state of a sampled trip a teacher that knows the destination d of the real trip gives the target

    q(r | road, d) ∝ exp(w · log p_LMTAD(r | history) - (1 - w) · cost(road → r) - cost_to_go(r, d))

over the candidates r. Costs are minus the log-probabilities of a Markov chain of the student's own training trips, the
cost to go is that of the likeliest path, and w is `distill.off_path.teacher_weight` (0: the chain alone). A candidate
from which the destination is unreachable has q = 0. A state from which it is unreachable by every candidate has no
signal: its loss is 0. Training on the student's own samples follows GKD (Agarwal et al., ICLR 2024).

Shapes: n trips of the student, E temperatures, S steps of the sampled trips, A candidates of these steps, C maximum
number of candidates per step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.optimizer import autocast
from hoser_kd.common.progress import Progress, silent
from hoser_kd.hoser import collate
from hoser_kd.network.markov import MarkovChain, destination_costs
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.student.losses import LossTerm, StoredLabels, kl_loss

if TYPE_CHECKING:
    from hoser_kd.config.schema import OffPathConfig
    from hoser_kd.hoser import HOSER, Batch, StudentOutput
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.student.losses import LabelSource

CHUNK_STEPS = 1_000_000
"""Steps whose costs to go are computed together."""
MIN_LOG_TARGET = -20.0
"""Smallest log q in the reverse KL divergence, which would be infinite at a candidate with q = 0."""
SECONDS = ("sampling_seconds", "cost_to_go_seconds", "training_seconds")
"""Metrics of an epoch that say how long its parts took."""
_COSTS_STAGE = "costs to go"


class TripSampler(Protocol):
    """Samples trips from a student, such as `hoser_kd.generation.student_trips.sample_trips`."""

    def __call__(
        self, model: HOSER, requests: Trajectories, *, temperature: float, seed: int, max_steps: int, progress: Progress
    ) -> Trajectories:
        """Return a trip for the origin, start time and destination of each trip of `requests`.

        Every road of a trip follows the one before it; a trip need not arrive. The result follows from the arguments.
        """


class StepScores(NamedTuple):
    """Log-targets of the candidates of S steps, ragged in the order of the network's successors."""

    offsets: Int64Array
    """(S + 1,) int64."""
    scores: Float32Array
    """(A,) float32: log q up to a constant per step; -inf where q is 0."""


def target_scores(
    chain: MarkovChain,
    trips: Trajectories,
    destinations: Int64Array,
    teacher_weight: float = 0.0,
    *,
    chunk_steps: int = CHUNK_STEPS,
    progress: Progress = silent,
) -> StepScores:
    """Return -(1 - `teacher_weight`) · cost - cost to go of the candidates of every step of trips.

    Trips are processed by destination, so each destination is searched once or, where a chunk ends, twice. Memory is
    that of the result and of a chunk. `destinations` (n,) int64; `progress` gets the finished steps.
    """
    steps = np.maximum(trips.lengths - 1, 0)
    first_step = offsets_of(steps)
    at, _ = trips.step_positions()
    offsets = offsets_of(chain.network.successors.degrees[trips.road_ids[at]])
    scores = np.empty(offsets[-1], np.float32)
    order = np.argsort(destinations, kind="stable")
    chunk = np.cumsum(steps[order]) // chunk_steps
    done = 0
    for rows in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
        chosen = ranges(first_step[rows], steps[rows])
        costs = destination_costs(chain, trips.road_ids[at[chosen]], np.repeat(destinations[rows], steps[rows]))
        place = ranges(offsets[chosen], np.diff(costs.offsets))
        scores[place] = -(1 - teacher_weight) * costs.step - costs.to_go
        done += len(chosen)
        progress(_COSTS_STAGE, done, int(first_step[-1]))
    return StepScores(offsets, scores)


@dataclass(frozen=True)
class OffPathTeacher:
    """What the states and targets of off-path distillation depend on, besides the student."""

    chain: MarkovChain
    """Chain of the student's own training trips."""
    sampler: TripSampler
    """Samples trips from the student."""
    scores: LabelSource | None = None
    """LM-TAD's scores of the candidates, given the history; required by a positive teacher weight."""

    @classmethod
    def fit(
        cls,
        own_trips: Trajectories,
        val: Trajectories,
        network: RoadNetwork,
        settings: OffPathConfig,
        sampler: TripSampler,
        scores: LabelSource | None = None,
    ) -> OffPathTeacher:
        """Fit the chain; its smoothing is that of the settings or, without one, that of least validation NLL."""
        if settings.smoothing is None:
            return cls(MarkovChain.tune(own_trips, val, network), sampler, scores)
        return cls(MarkovChain.fit(own_trips, network, settings.smoothing), sampler, scores)


class OffPathStates(NamedTuple):
    """Sampled trips and their targets: trip e · n + i is that of temperature e for the request of own trip i."""

    trips: Trajectories
    """E · n trips."""
    destinations: Int64Array
    """(E · n,) int64."""
    targets: StoredLabels
    """Log-targets of all candidates."""


class OffPath:
    """The off-path states of an epoch and the loss term on them."""

    def __init__(
        self,
        model: HOSER,
        own_trips: Trajectories,
        rows: Int64Array,
        settings: OffPathConfig,
        teacher: OffPathTeacher,
        *,
        seed: int,
        precision: str = "fp32",
    ) -> None:
        """`rows` (n,) int64, ascending: the rows of the own trips among the training trips."""
        self.model, self.own_trips, self.rows, self.settings, self.teacher = model, own_trips, rows, settings, teacher
        self.seed, self.precision = seed, precision
        self._states: OffPathStates | None = None

    def refresh(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Sample trips from the student and compute their targets; returns sizes and seconds.

        The result follows from the student, the seed and `epoch`, so an interrupted epoch can be repeated. With weight
        0 nothing is sampled.
        """
        if self.settings.weight == 0:
            return {}
        started = time.perf_counter()
        trips = concatenate(self._sample(epoch, progress))
        sampled = time.perf_counter()
        requested = self.own_trips.destinations
        destinations = np.tile(requested, len(self.settings.temperatures))
        scores = target_scores(
            self.teacher.chain,
            trips,
            destinations,
            self.settings.teacher_weight,
            progress=progress,
        )
        self._states = OffPathStates(trips, destinations, StoredLabels(scores, trips))
        reachable = np.bincount(row_of_value(scores.offsets), np.isfinite(scores.scores), trips.num_steps) > 0
        return {
            "off_path_states": float(trips.num_steps),
            "off_path_arrived_share": float((trips.road_ids[trips.offsets[1:] - 1] == destinations).mean()),
            "off_path_signal_share": float(reachable.mean()) if trips.num_steps else 0.0,
            "sampling_seconds": sampled - started,
            "cost_to_go_seconds": time.perf_counter() - sampled,
        }

    def _sample(self, epoch: int, progress: Progress) -> list[Trajectories]:
        """Return the sampled trips of each temperature."""
        was_training = self.model.training
        self.model.eval()
        count = len(self.settings.temperatures)
        trips = [
            self.teacher.sampler(
                self.model,
                self.own_trips,
                temperature=temperature,
                seed=(self.seed * 1_009 + epoch) * count + number,
                max_steps=self.settings.max_steps,
                progress=progress,
            )
            for number, temperature in enumerate(self.settings.temperatures)
        ]
        self.model.train(was_training)
        return trips

    def terms(self) -> list[LossTerm]:
        """Return the loss term, a mean over trips; none with weight 0."""
        return [LossTerm("off_path", self.settings.weight, self.loss, len)] if self.settings.weight else []

    def loss(self, batch: Batch, output: StudentOutput, epoch: int) -> Tensor:  # noqa: ARG002
        """Return the divergence from the targets on the trips sampled for the requests of a batch of own trips.

        It is a mean over the states of each temperature, then over the temperatures.
        """
        own = np.searchsorted(self.rows, batch.rows.cpu().numpy())
        count = len(self.settings.temperatures)
        parts = [self._divergence(number * len(self.rows) + own) for number in range(count)]
        return torch.stack(parts).sum() / count

    def _divergence(self, chosen: Int64Array) -> Tensor:
        """Return the mean divergence over the states of some sampled trips, 0 where these have none."""
        assert self._states is not None, "call refresh first"
        trips, destinations, targets = self._states
        chosen = chosen[trips.lengths[chosen] > 1]
        if not len(chosen):
            return torch.zeros((), device=self.model.device)
        batch = collate(trips, chosen, destinations[chosen]).to(self.model.device)
        with autocast(self.precision, self.model.device):  # type: ignore[arg-type]
            output = self.model(batch)
        states = output.step_mask
        scores = targets(batch, output.candidates)[states]
        if self.settings.teacher_weight and self.teacher.scores is not None:
            scores = scores + self.settings.teacher_weight * self.teacher.scores(batch, output.candidates)[states]
        settings = self.settings
        return divergence(
            output.logits[states], scores, output.candidate_mask[states], settings.divergence, settings.jsd_beta
        )


def divergence(logits: Tensor, scores: Tensor, mask: Tensor, kind: str, beta: float) -> Tensor:
    """Return the mean divergence between targets and student over states with a candidate (GKD, section 2).

    `logits`, `scores` (S, C) float, `mask` (S, C) bool. With q ∝ exp(scores) and p = softmax(logits): `forward_kl` is
    KL(q || p), `reverse_kl` KL(p || q) with log q of at least `MIN_LOG_TARGET`, and `jsd` beta · KL(q || m) +
    (1 - beta) · KL(p || m) with m = beta · q + (1 - beta) · p. A state whose scores are all -inf has no signal and
    is 0.
    """
    if kind == "forward_kl":
        return kl_loss(logits, scores, mask, 1.0)
    known = (mask & (scores != -torch.inf)).any(-1)
    # a state without signal gets any target; its divergence is dropped
    log_q = torch.where(mask & known[:, None], scores.detach().float(), 0.0).masked_fill(~mask, -torch.inf)
    log_q = log_q.log_softmax(-1).clamp(min=MIN_LOG_TARGET)
    log_p = torch.where(mask, logits.float(), -math.inf).log_softmax(-1)
    log_p = torch.where(mask, log_p, MIN_LOG_TARGET)
    q, p = torch.where(mask, log_q.exp(), 0.0), torch.where(mask, log_p.exp(), 0.0)
    if kind == "reverse_kl":
        rows = (p * (log_p - log_q)).sum(-1)
    else:
        log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
        rows = (beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)).sum(-1)
    return torch.where(known, rows, 0.0).sum() / mask.any(-1).sum().clamp(min=1)
