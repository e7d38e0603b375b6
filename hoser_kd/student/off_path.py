"""Off-path distillation: a destination-conditioned target on the states that the student itself visits.

A student is trained on steps of real trips. Its own search also reaches states off any real trip, where it can
assign high probability to wrong roads. After the training, the student therefore samples trips for the requests of its
training trips, or searches them (`distill.off_path.states`). At every state, with d the destination of the real trip,
the target is

    q(r | road, d) ∝ exp(w · log p_LMTAD(r | history) - (1 - w) · cost(road → r) - cost_to_go(r, d))

over the candidates r. Costs are minus the log-probabilities of a Markov chain of the student's own training trips, or
LM-TAD's (`distill.off_path.costs`, `hoser_kd.student.off_path_costs`), the cost to go is that of the likeliest path,
and w is `distill.off_path.teacher_weight`. A candidate from which the destination is unreachable has q = 0. A state
from which it is unreachable by every candidate has no signal: its loss is 0. Training on the student's own samples
follows GKD (Agarwal et al., ICLR 2024).

States and targets are computed in each epoch from the student in training, or once and before it from the vanilla
student (`distill.off_path.labels`, `hoser_kd.student.off_path_labels`).

Shapes: n trips of the student, E temperatures, S steps of the sampled trips, A candidates of these steps, C maximum
number of candidates per step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of, ranges, row_of_value
from hoser_kd.common.optimizer import autocast
from hoser_kd.common.progress import Progress, silent
from hoser_kd.hoser import collate
from hoser_kd.network.markov import ConnectionCosts, MarkovChain, destination_costs
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.student.losses import LossTerm, StoredLabels, kl_loss
from hoser_kd.student.off_path_costs import RoadCosts, pooled_costs, teacher_costs
from hoser_kd.student.pools import candidate_scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.config.off_path import OffPathConfig
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
        self,
        model: HOSER,
        requests: Trajectories,
        *,
        states: Literal["sampled", "expanded"],
        temperature: float,
        seed: int,
        max_steps: int,
        progress: Progress,
    ) -> Trajectories:
        """Return a trip for the origin, start time and destination of each trip of `requests`.

        Every road of a trip follows the one before it; a trip need not arrive. `states`: `sampled` or `expanded`
        (`distill.off_path.states`). The result follows from the arguments.
        """


class StepScores(NamedTuple):
    """Log-targets of the candidates of S steps, ragged in the order of the network's successors."""

    offsets: Int64Array
    """(S + 1,) int64."""
    scores: Float32Array
    """(A,) float32: log q up to a constant per step; -inf where q is 0."""


def target_scores(
    connections: ConnectionCosts,
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
    offsets = offsets_of(connections.network.successors.degrees[trips.road_ids[at]])
    scores = np.empty(offsets[-1], np.float32)
    order = np.argsort(destinations, kind="stable")
    chunk = np.cumsum(steps[order]) // chunk_steps
    done = 0
    for rows in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
        chosen = ranges(first_step[rows], steps[rows])
        costs = destination_costs(connections, trips.road_ids[at[chosen]], np.repeat(destinations[rows], steps[rows]))
        place = ranges(offsets[chosen], np.diff(costs.offsets))
        scores[place] = -(1 - teacher_weight) * costs.step - costs.to_go
        done += len(chosen)
        progress(_COSTS_STAGE, done, int(first_step[-1]))
    return StepScores(offsets, scores)


@dataclass(frozen=True)
class OffPathTeacher:
    """What the states and targets of off-path distillation depend on, besides the student."""

    costs: ConnectionCosts
    """Costs of connections: a chain of the student's own training trips, or LM-TAD's."""
    sampler: TripSampler
    """Samples trips from the student."""
    scores: LabelSource | None = None
    """LM-TAD's scores of the candidates, given the history; required by a positive teacher weight."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Where the costs come from; empty for those of the chain."""
        return self.costs.metrics if isinstance(self.costs, RoadCosts) else {}

    @classmethod
    def fit(
        cls,
        own_trips: Trajectories,
        val: Trajectories,
        network: RoadNetwork,
        settings: OffPathConfig,
        sampler: TripSampler,
        scores: LabelSource | None = None,
        synthetic: Trajectories | None = None,
    ) -> OffPathTeacher:
        """Fit the chain; its smoothing is that of the settings or, without one, that of least validation NLL.

        Costs of LM-TAD are means over the histories of the own and of the `synthetic` trips.
        """
        if settings.smoothing is None:
            chain = MarkovChain.tune(own_trips, val, network)
        else:
            chain = MarkovChain.fit(own_trips, network, settings.smoothing)
        if settings.costs == "markov" or settings.weight == 0:
            return cls(chain, sampler, scores)
        assert scores is not None
        histories = own_trips if synthetic is None else concatenate([own_trips, synthetic])
        costs = teacher_costs(scores, histories, chain)
        return cls(costs if settings.costs == "lmtad" else pooled_costs(costs, chain, val), sampler, scores)


class OffPathStates(NamedTuple):
    """Sampled trips and their targets: trip e · n + i is that of temperature e for the request of own trip i."""

    trips: Trajectories
    """E · n trips."""
    destinations: Int64Array
    """(E · n,) int64."""
    scores: StepScores
    """Log-targets of all candidates."""

    @property
    def metrics(self) -> dict[str, float]:
        """Number of states, share of the trips that arrive, share of the states with a target."""
        trips, scores = self.trips, self.scores
        reachable = np.bincount(row_of_value(scores.offsets), np.isfinite(scores.scores), trips.num_steps) > 0
        arrived = trips.road_ids[trips.offsets[1:] - 1] == self.destinations
        return {
            "off_path_states": float(trips.num_steps),
            "off_path_arrived_share": float(arrived.mean()),
            "off_path_signal_share": float(reachable.mean()) if trips.num_steps else 0.0,
        }


def sample_states(
    model: HOSER,
    requests: Trajectories,
    settings: OffPathConfig,
    teacher: OffPathTeacher,
    *,
    seed: int,
    progress: Progress = silent,
) -> tuple[OffPathStates, dict[str, float]]:
    """Sample trips from a student for the requests of trips; returns their states with targets, sizes and seconds.

    The targets lack LM-TAD's part (`with_teacher_scores`). The result follows from the student, requests and `seed`.
    """
    started = time.perf_counter()
    trips = concatenate(_sample(model, requests, settings, teacher, seed, progress))
    sampled = time.perf_counter()
    destinations = np.tile(requests.destinations, len(settings.temperatures))
    scores = target_scores(teacher.costs, trips, destinations, settings.teacher_weight, progress=progress)
    states = OffPathStates(trips, destinations, scores)
    seconds = {"sampling_seconds": sampled - started, "cost_to_go_seconds": time.perf_counter() - sampled}
    return states, {**states.metrics, **seconds}


def _sample(
    model: HOSER,
    requests: Trajectories,
    settings: OffPathConfig,
    teacher: OffPathTeacher,
    seed: int,
    progress: Progress,
) -> list[Trajectories]:
    """Return the sampled trips of each temperature; the mode of the model is restored."""
    was_training = model.training
    model.eval()
    trips = [
        teacher.sampler(
            model,
            requests,
            states=settings.states,
            temperature=temperature,
            seed=seed * len(settings.temperatures) + number,
            max_steps=settings.max_steps,
            progress=progress,
        )
        for number, temperature in enumerate(settings.temperatures)
    ]
    model.train(was_training)
    return trips


def sampling_seed(seed: int, epoch: int) -> int:
    """Return the seed of the states of an epoch, counted from 0 over all epochs of a student."""
    return seed * 1_009 + epoch


def with_teacher_scores(
    states: OffPathStates, weight: float, scores: LabelSource, network: RoadNetwork
) -> OffPathStates:
    """Return the states with `weight` times LM-TAD's scores added to their log-targets, for targets that are stored."""
    of_teacher = candidate_scores(scores, states.trips, network, states.destinations)
    total = states.scores.scores + np.float32(weight) * of_teacher.astype(np.float32)
    return states._replace(scores=StepScores(states.scores.offsets, total))


class OffPath:
    """The off-path states of an epoch and the loss term on them."""

    def __init__(
        self,
        model: HOSER,
        own_trips: Trajectories,
        rows: Int64Array,
        settings: OffPathConfig,
        teacher: OffPathTeacher | None,
        *,
        stored: OffPathStates | None = None,
        seed: int,
        precision: str = "fp32",
    ) -> None:
        """`rows` (n,) int64, ascending: the rows of the own trips among the training trips.

        `stored`: states with all parts of their targets, the same in every epoch; `teacher` is then not read.
        """
        self.model, self.own_trips, self.rows, self.settings, self.teacher = model, own_trips, rows, settings, teacher
        self.seed, self.precision = seed, precision
        self._stored = stored
        self._keep(stored)

    def _keep(self, states: OffPathStates | None) -> None:
        self._states = states
        self._targets = None if states is None else StoredLabels(states.scores, states.trips)

    def refresh(self, epoch: int, progress: Progress) -> dict[str, float]:
        """Sample trips from the student and compute their targets; returns sizes and seconds.

        The result follows from the student, the seed and `epoch`, so an interrupted epoch can be repeated. With weight
        0 nothing is sampled, and stored states stay.
        """
        if self.settings.weight == 0:
            return {}
        if self._stored is not None:
            return self._stored.metrics
        assert self.teacher is not None
        states, metrics = sample_states(
            self.model,
            self.own_trips,
            self.settings,
            self.teacher,
            seed=sampling_seed(self.seed, epoch),
            progress=progress,
        )
        self._keep(states)
        return {**metrics, **self.teacher.metrics}

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
        assert self._targets is not None
        trips, destinations, _ = self._states
        chosen = chosen[trips.lengths[chosen] > 1]
        if not len(chosen):
            return torch.zeros((), device=self.model.device)
        batch = collate(trips, chosen, destinations[chosen]).to(self.model.device)
        with autocast(self.precision, self.model.device):  # type: ignore[arg-type]
            output = self.model(batch)
        states = output.step_mask
        scores = self._targets(batch, output.candidates)[states]
        settings, teacher = self.settings, self.teacher
        if settings.teacher_weight and self._stored is None and teacher is not None and teacher.scores is not None:
            scores = scores + settings.teacher_weight * teacher.scores(batch, output.candidates)[states]
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
