"""Upper bounds of distillation: pools of the next-step probabilities of several models.

A pool combines the probabilities that its members (student, teacher, Markov chain) give to the candidates of a step.
Its weights are fitted on validation trips and its metrics measured on test trips. Where no pool of student and teacher
is better than the student alone, the teacher adds no information; where a pool of student and Markov chain is as good,
counting adds the same.

- `arithmetic`: Σ w_m p_m with w on the simplex.
- `log_linear`: Π p_m^a_m, renormalized over the candidates, a ≥ 0 (Heskes, NIPS 1998). With one member it is that
  member at temperature 1 / a.

Shapes: S steps, K candidates of all steps together, M members, n trips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value, take_rows
from hoser_kd.common.errors import StoreError
from hoser_kd.hoser import collate
from hoser_kd.student.losses import LabelSource, RaggedLabels
from hoser_kd.student.next_step_metrics import calibration_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hoser_kd.hoser import HOSER, Batch
    from hoser_kd.network.markov import MarkovChain
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

PoolKind = Literal["arithmetic", "log_linear"]
SHARES = np.linspace(0, 1, 21)
"""Shares of a member that the fit of an arithmetic pool compares."""
MAX_EXPONENT = 50.0
"""Largest exponent of a log-linear pool; reached where the most probable candidate is always the true one."""
LOG_FLOOR = float(np.log(1e-30))
"""Smallest log-probability; a candidate that a model rules out has it."""
_TIE = 1e-9


@dataclass(frozen=True)
class StepProbabilities:
    """Log-probabilities of the candidates of S steps by one model.

    Steps are in the order of the trips, candidates in that of the network's successors, so that the probabilities of
    several models on the same trips have the same shape.
    """

    offsets: Int64Array
    """(S + 1,) int64: rows of `log_p`, one per step."""
    log_p: Float64Array
    """(K,) float64, nats, at least `LOG_FLOOR`; the probabilities sum to 1 per step."""
    taken: Int64Array
    """(S,) int64: position of the true next road in `log_p`."""
    trip: Int64Array
    """(S,) int64: row of the trip of each step."""

    @classmethod
    def of(cls, scores: Float64Array, trips: Trajectories, network: RoadNetwork) -> StepProbabilities:
        """Normalize (K,) scores, in nats, over the candidates of each step; equal where all are -inf.

        Raises:
            ValueError: the trips have no step, their number of candidates is not K, or a score is NaN or +inf.
        """
        at, trip = trips.step_positions()
        offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
        if len(at) == 0:
            raise ValueError("the trips have no step")
        if len(scores) != offsets[-1]:
            raise ValueError(f"got {len(scores)} scores for {offsets[-1]} candidates")
        if np.isnan(scores).any() or np.isposinf(scores).any():
            raise ValueError("scores must not be NaN or +inf")
        taken = offsets[:-1] + network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])
        return cls(offsets, _log_normalize(np.asarray(scores, np.float64), offsets), taken, trip)

    @property
    def num_steps(self) -> int:
        """S."""
        return len(self.taken)

    @property
    def nll(self) -> Float64Array:
        """(S,) float64: negative log-likelihood of each step, nats."""
        return -self.log_p[self.taken]

    def trip_totals(self) -> tuple[Float64Array, Int64Array]:
        """Return the sum of the NLL (nats) and the number of steps of each trip, (n,) float64 and int64.

        n is the last trip with a step, plus one.
        """
        return np.bincount(self.trip, self.nll).astype(np.float64), np.bincount(self.trip)

    def metrics(self) -> dict[str, float]:
        """Return `accuracy`, `decision_accuracy`, `nll` (nats per step) and `calibration_error`.

        Where k candidates are equally probable, a step counts 1 / k. `decision_accuracy` is over the steps with two
        candidates or more, 0 without any.
        """
        step, starts = row_of_value(self.offsets), self.offsets[:-1]
        best = np.maximum.reduceat(self.log_p, starts)
        is_best = self.log_p >= best[step] - _TIE
        correct = is_best[self.taken] / np.add.reduceat(is_best.astype(np.float64), starts)
        decision = np.diff(self.offsets) > 1
        return {
            "accuracy": float(correct.mean()),
            "decision_accuracy": float(correct[decision].mean()) if decision.any() else 0.0,
            "nll": float(self.nll.mean()),
            "calibration_error": calibration_error(np.exp(np.minimum(best, 0.0)), correct),
        }


class PoolWeights(NamedTuple):
    """Kind of a pool and the weight of each member, in the order of the members."""

    kind: PoolKind
    """How the members are combined."""
    values: tuple[float, ...]
    """(M,): shares that sum to 1 (`arithmetic`), or exponents (`log_linear`)."""


class GapClosed(NamedTuple):
    """Share of the gap between the vanilla student and the pool that distillation closes."""

    share: float
    """Over the means of the seeds; NaN where the pool is not better than the vanilla student."""
    by_seed: tuple[float, ...]
    """The same for each seed."""


class TemperatureScaled(NamedTuple):
    """NLL after temperature scaling."""

    temperature: float
    """Chosen on validation steps; above 1 the model is too confident."""
    nll: float
    """On test steps, nats per step."""


def student_probabilities(
    model: HOSER, trips: Trajectories, network: RoadNetwork, batch_size: int = 256
) -> StepProbabilities:
    """Return the student's probabilities on every step of the trips; the mode of the model is restored."""
    offsets, scores = _empty_scores(trips, network)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch, positions in _batches(trips, offsets, batch_size):
            output = model(batch.to(model.device))
            logits = output.logits[output.step_mask][output.candidate_mask[output.step_mask]]
            scores[positions] = logits.double().cpu().numpy()
    model.train(was_training)
    return StepProbabilities.of(scores, trips, network)


def teacher_probabilities(
    labels: RaggedLabels | LabelSource, trips: Trajectories, network: RoadNetwork, batch_size: int = 256
) -> StepProbabilities:
    """Return the teacher's probabilities, renormalized over the candidates at temperature 1.

    `labels`: the stored labels of these trips, or an online teacher.

    Raises:
        StoreError: stored labels belong to other trips or another network.
    """
    if not callable(labels):
        if not np.array_equal(labels.offsets, _empty_scores(trips, network)[0]):
            raise StoreError("the labels belong to other trips or another network. Label these trips.")
        return StepProbabilities.of(np.asarray(labels.scores, np.float64), trips, network)
    return StepProbabilities.of(candidate_scores(labels, trips, network, batch_size=batch_size), trips, network)


def candidate_scores(
    labels: LabelSource,
    trips: Trajectories,
    network: RoadNetwork,
    destinations: Int64Array | None = None,
    *,
    batch_size: int = 256,
) -> Float64Array:
    """Return (K,) float64 scores of the candidates of every step, in the order of the steps and successors.

    `destinations` (n,) int64: roads that the trips lead to; None: their last roads.
    """
    offsets, scores = _empty_scores(trips, network)
    for batch, positions in _batches(trips, offsets, batch_size, destinations):
        candidates = _padded_candidates(batch, network)
        scores[positions] = labels(batch, candidates)[candidates >= 0].double().cpu().numpy()
    return scores


def markov_probabilities(chain: MarkovChain, trips: Trajectories) -> StepProbabilities:
    """Return the probabilities of a Markov chain on every step of the trips."""
    return StepProbabilities.of(chain.step_log_probabilities(trips).values, trips, chain.network)


def fit_pool(members: Sequence[StepProbabilities], kind: PoolKind) -> PoolWeights:
    """Return the weights of least NLL on the steps of the members, usually validation steps.

    An arithmetic pool compares shares in steps of 5 %. The NLL of a log-linear pool is convex in the exponents; it is
    minimized with its gradient (L-BFGS-B), from the best single member, so the fit is at least as good as each.

    Raises:
        ValueError: there is no member, or the members are not on the same steps.
    """
    _require_same_steps(members)
    if kind == "arithmetic":
        true_p = np.exp([member.log_p[member.taken] for member in members])
        shares = _simplex(len(members))
        nll = [-np.log(np.maximum(share @ true_p, 1e-30)).mean() for share in shares]
        return PoolWeights(kind, tuple(shares[int(np.argmin(nll))].tolist()))
    return PoolWeights(kind, tuple(_fit_exponents(members).tolist()))


def pool(members: Sequence[StepProbabilities], weights: PoolWeights) -> StepProbabilities:
    """Return the probabilities of the pool of members.

    Raises:
        ValueError: the numbers of members and weights differ, or the members are not on the same steps.
    """
    _require_same_steps(members)
    if len(members) != len(weights.values):
        raise ValueError(f"got {len(weights.values)} weights for {len(members)} members")
    first = members[0]
    used = [(member.log_p, weight) for member, weight in zip(members, weights.values, strict=True) if weight != 0]
    if weights.kind == "arithmetic":
        mixed = np.zeros_like(first.log_p)
        for log_p, share in used:
            mixed += share * np.exp(log_p)
        return replace(first, log_p=np.log(np.maximum(mixed, 1e-30)))
    logits = np.zeros_like(first.log_p)
    for log_p, exponent in used:
        logits += exponent * log_p
    return replace(first, log_p=_log_normalize(logits, first.offsets))


def pool_metrics(members: Sequence[StepProbabilities], weights: PoolWeights) -> dict[str, float]:
    """Return the metrics of the pool on the steps of the members (see `StepProbabilities.metrics`)."""
    return pool(members, weights).metrics()


def temperature_scaled_nll(val: StepProbabilities, test: StepProbabilities) -> TemperatureScaled:
    """Return the NLL on test steps at the temperature of least NLL on validation steps (Guo et al., ICML 2017).

    It separates what a model predicts from how confident it is.
    """
    weights = fit_pool([val], "log_linear")
    temperature = 1 / weights.values[0] if weights.values[0] > 0 else float("inf")
    return TemperatureScaled(temperature, pool_metrics([test], weights)["nll"])


def share_of_gap_closed(vanilla: Sequence[float], distilled: Sequence[float], pooled: Sequence[float]) -> GapClosed:
    """Return (vanilla - distilled) / (vanilla - pooled) of the NLL of the same seeds, (k,) each.

    1: distillation reaches the pool; negative: it makes the student worse.

    Raises:
        ValueError: the sequences are empty or differ in length.
    """
    nll = [np.asarray(values, np.float64) for values in (vanilla, distilled, pooled)]
    if len({values.shape for values in nll}) != 1 or nll[0].ndim != 1 or len(nll[0]) == 0:
        raise ValueError(f"expected the NLL of the same seeds, got shapes {[values.shape for values in nll]}")
    gain, gap = nll[0] - nll[1], nll[0] - nll[2]

    def share(part: float, whole: float) -> float:
        return float(part / whole) if whole > 0 else float("nan")

    by_seed = tuple(share(part, whole) for part, whole in zip(gain, gap, strict=True))
    return GapClosed(share(gain.mean(), gap.mean()), by_seed)


def _empty_scores(trips: Trajectories, network: RoadNetwork) -> tuple[Int64Array, Float64Array]:
    """Return the offsets of the candidates of each step and scores to fill, (S + 1,) and (K,)."""
    at, _ = trips.step_positions()
    offsets = offsets_of(network.successors.degrees[trips.road_ids[at]])
    return offsets, np.zeros(offsets[-1])


def _batches(
    trips: Trajectories, offsets: Int64Array, batch_size: int, destinations: Int64Array | None = None
) -> Iterator[tuple[Batch, Int64Array]]:
    """Yield batches of trips of similar length, with the positions of their candidates in the common order."""
    first_step = offsets_of(np.maximum(trips.lengths - 1, 0))
    order = np.argsort(trips.lengths, kind="stable")
    order = order[trips.lengths[order] > 1]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        _, steps = take_rows(first_step, rows)
        _, positions = take_rows(offsets, steps)
        yield collate(trips, rows, None if destinations is None else destinations[rows]), positions


def _padded_candidates(batch: Batch, network: RoadNetwork) -> torch.Tensor:
    """Return (B, T, C) int64 road ids of the candidates of each step, -1 where there is none."""
    steps = batch.step_mask.cpu().numpy()
    offsets, at = take_rows(network.successors.indptr, batch.road_ids[:, :-1].cpu().numpy()[steps])
    row, step = np.nonzero(steps)
    group = row_of_value(offsets)
    place = np.arange(offsets[-1]) - offsets[:-1][group]
    padded = np.full((*steps.shape, int(np.diff(offsets).max(initial=0))), -1, np.int64)
    padded[row[group], step[group], place] = network.successors.indices[at]
    return torch.from_numpy(padded).to(batch.road_ids.device)


def _log_normalize(scores: Float64Array, offsets: Int64Array) -> Float64Array:
    """Return (K,) log-probabilities per step of (K,) scores, at least `LOG_FLOOR`; equal where all are -inf."""
    starts, step = offsets[:-1], row_of_value(offsets)
    top = np.maximum.reduceat(scores, starts)
    shifted = np.where(np.isneginf(top)[step], 0.0, scores - np.where(np.isneginf(top), 0.0, top)[step])
    log_p = shifted - np.log(np.add.reduceat(np.exp(shifted), starts))[step]
    return np.asarray(np.maximum(log_p, LOG_FLOOR), np.float64)


def _require_same_steps(members: Sequence[StepProbabilities]) -> None:
    """Raise ValueError unless there are members, all on the same steps."""
    if not members:
        raise ValueError("a pool needs at least one member")
    first = members[0]
    for member in members[1:]:
        if not (np.array_equal(member.offsets, first.offsets) and np.array_equal(member.taken, first.taken)):
            raise ValueError("the members of a pool must be on the same steps")


def _simplex(num_members: int) -> Float64Array:
    """Return (G, M) float64: all shares of M members in steps of 5 %, those of the last members ascending."""
    count = len(SHARES) - 1
    bars = np.array(list(combinations(range(count + num_members - 1), num_members - 1)), np.int64)
    bars = bars.reshape(-1, num_members - 1)[::-1]
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), count + num_members - 1)])
    shares = SHARES[np.diff(edges, axis=1) - 1]
    shares[:, 0] = 1 - shares[:, 1:].sum(1)
    return np.asarray(np.maximum(shares, 0.0), np.float64)


def _fit_exponents(members: Sequence[StepProbabilities]) -> Float64Array:
    """Return (M,) float64 exponents of least NLL; ones where no step has two candidates."""
    first = members[0]
    decisions = np.flatnonzero(np.diff(first.offsets) > 1)
    if len(decisions) == 0:
        return np.ones(len(members))
    offsets, kept = take_rows(first.offsets, decisions)
    log_p = np.column_stack([member.log_p[kept] for member in members])
    taken = offsets[:-1] + (first.taken - first.offsets[:-1])[decisions]
    starts, step = offsets[:-1], row_of_value(offsets)
    true_log_p = log_p[taken].mean(0)

    def nll(exponents: Float64Array) -> tuple[float, Float64Array]:
        logits = log_p @ exponents
        top = np.maximum.reduceat(logits, starts)
        weight = np.exp(logits - top[step])
        total = np.add.reduceat(weight, starts)
        expected = (weight / total[step]) @ log_p / len(starts)
        return float((np.log(total) + top).mean() - true_log_p @ exponents), expected - true_log_p

    alone = list(np.eye(len(members)))
    start = min(alone, key=lambda exponents: nll(exponents)[0])
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    bounds = [(0.0, MAX_EXPONENT)] * len(members)
    result = minimize(nll, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(result.x if result.fun <= nll(start)[0] else start, np.float64)
