"""The recipe `pooled`: the student is trained on a log-linear pool of several models.

At every step, with candidates k and members m (teacher, first-generation student, Markov chain), the target is

    q_k ∝ prod_m p_m(k)^a_m

The exponents a_m are those of least NLL on validation steps (`hoser_kd.student.pools`). A student that is trained on
the predictions of an earlier one of the same kind follows born-again networks (Furlanello et al., ICML 2018); the pool
adds what teacher and counts know. Targets are computed batch by batch, so that memory does not grow with the trips and
synthetic trips have targets too. The first generation's scores are the same in every epoch: with several epochs, they
are computed once and mapped from a file.

Shapes: B trips, T steps, C maximum number of candidates per step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.hashing import digest_arrays
from hoser_kd.common.progress import Progress, silent
from hoser_kd.network.markov import MarkovChain
from hoser_kd.student.losses import StoredLabels
from hoser_kd.student.pools import (
    LOG_FLOOR,
    StepProbabilities,
    fit_pool,
    markov_probabilities,
    pool,
    student_probabilities,
    teacher_probabilities,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hoser_kd.config.pooled import PooledConfig
    from hoser_kd.hoser import HOSER, Batch
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.student.losses import LabelSource, RaggedLabels

    LogProbabilities = Callable[[Batch, Tensor], Tensor]
    """Returns the log-probabilities of `candidates` (B, T, C) int64 road ids, -1 where there is none."""


CHUNK_TRIPS = 8192
"""Trips that the first generation scores together, before they are written."""


@dataclass(frozen=True)
class PooledTargets:
    """Targets of a batch, a label source of `hoser_kd.student.losses`."""

    members: Mapping[str, LogProbabilities]
    """Members with an exponent above 0: those of `PoolMember`, and `teacher_2`, `teacher_3`, … for further teachers."""
    exponents: Mapping[str, float]
    """Exponent of each member that was fitted, also if it is 0."""
    val_nll: float
    """NLL of the pool on validation steps, nats per step."""

    @classmethod
    def fit(
        cls,
        settings: PooledConfig,
        counted_trips: Trajectories,
        val: Trajectories,
        network: RoadNetwork,
        *,
        num_counted_rows: int | None = None,
        student: HOSER | None = None,
        labels: LabelSource | None = None,
        val_labels: RaggedLabels | LabelSource | None = None,
        other_teachers: Sequence[LabelSource] = (),
    ) -> PooledTargets:
        """Fit the exponents on validation trips, and the chain on `counted_trips`.

        `num_counted_rows`: rows of the trips that are trained on below which all trips are counted ones; None: all.
        `student`: the first generation. `labels`: the teacher's scores of the trips that are trained on, `val_labels`
        those of `val`; both are read if the teacher is a member. `other_teachers`: further members that score any trip.
        """
        teachers = {"teacher": (labels, val_labels)} if "teacher" in settings.members else {}
        teachers |= {f"teacher_{number}": (each, each) for number, each in enumerate(other_teachers, start=2)}
        members: dict[str, LogProbabilities] = {}
        on_val: dict[str, StepProbabilities] = {}
        for name, (own, of_val) in teachers.items():
            assert own is not None
            assert of_val is not None
            members[name] = own
            on_val[name] = teacher_probabilities(of_val, val, network)
        if "student" in settings.members:
            assert student is not None
            members["student"] = _StudentLogits(student)
            on_val["student"] = student_probabilities(student, val, network)
        if "markov" in settings.members:
            chain = _chain(settings, counted_trips, val, network)
            counted = torch.iinfo(torch.int64).max if num_counted_rows is None else num_counted_rows
            members["markov"] = _ChainLogProbabilities(chain, counted if settings.leave_trip_out else 0)
            on_val["markov"] = markov_probabilities(chain, val)
        weights = fit_pool(list(on_val.values()), "log_linear")
        exponents = dict(zip(on_val, weights.values, strict=True))
        nll = float(pool(list(on_val.values()), weights).nll.mean())
        return cls({name: members[name] for name, value in exponents.items() if value > 0}, exponents, nll)

    def with_scores_computed_once(
        self, trips: Trajectories, network: RoadNetwork, folder: Path, progress: Progress = silent
    ) -> PooledTargets:
        """Return the targets with the first generation's scores of every step of `trips` mapped from a file.

        `trips`: the rows that batches are taken from. The file is in `folder` and has no name, so nothing is left of it
        when the process ends. `progress` gets the number of scored trips.
        """
        student = self.members.get("student")
        if not isinstance(student, _StudentLogits):
            return self
        folder.mkdir(parents=True, exist_ok=True)
        stored = StoredLabels(student.scores(trips, network, folder, progress), trips)
        return replace(self, members={**self.members, "student": stored})

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Return (B, T, C) float32 log-targets up to a constant per step, -inf where there is no candidate."""
        mask = candidates >= 0
        total = torch.zeros(candidates.shape, device=candidates.device)
        for name, member in self.members.items():
            scores = torch.where(mask, member(batch, candidates).float(), -torch.inf)
            log_p = torch.where(mask.any(-1, keepdim=True), scores, 0.0).log_softmax(-1).clamp(min=LOG_FLOOR)
            total = total + self.exponents[name] * log_p
        return torch.where(mask, total, -torch.inf)

    @property
    def metrics(self) -> dict[str, float]:
        """Exponents and validation NLL, for the history of the training."""
        exponents = {f"pool_{name}_exponent": value for name, value in self.exponents.items()}
        return {**exponents, "pool_nll": self.val_nll}


def student_digest(student: HOSER) -> str:
    """Return the digest of the weights of a student, for the key of a training on its predictions."""
    state = student.state_dict()
    return digest_arrays(*(state[name].detach().cpu().numpy() for name in sorted(state)))


def _chain(settings: PooledConfig, trips: Trajectories, val: Trajectories, network: RoadNetwork) -> MarkovChain:
    if settings.smoothing is None:
        return MarkovChain.tune(trips, val, network)
    return MarkovChain.fit(trips, network, settings.smoothing)


class _StudentLogits:
    """The first generation: predictions of a trained student, which stays as it is."""

    def __init__(self, student: HOSER) -> None:
        self._student = student.eval().requires_grad_(requires_grad=False)

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._student(batch).logits
        return logits.to(candidates.device)

    def scores(self, trips: Trajectories, network: RoadNetwork, folder: Path, progress: Progress) -> RaggedLabels:
        """Return the log-probabilities of the candidates of every step, mapped from files without a name."""
        with (
            GrowingArray(folder / "first_generation_offsets", np.int64) as offsets,
            GrowingArray(folder / "first_generation_scores", np.float32) as scores,
        ):
            offsets.append(np.zeros(1, np.int64))
            written = 0
            for first in range(0, len(trips), CHUNK_TRIPS):
                rows = np.arange(first, min(first + CHUNK_TRIPS, len(trips)))
                part = student_probabilities(self._student, trips.take(rows), network)
                offsets.append(written + part.offsets[1:])
                scores.append(part.log_p)
                written += int(part.offsets[-1])
                progress("first generation", int(rows[-1]) + 1, len(trips))
            return SimpleNamespace(offsets=offsets.mapped(), scores=scores.mapped())


class _ChainLogProbabilities:
    """A Markov chain of order 1, as a table of connections on the device of the batch.

    Trips in rows below `num_left_out` are left out of the counts that predict their own steps.
    """

    def __init__(self, chain: MarkovChain, num_left_out: int) -> None:
        self._first = torch.from_numpy(chain.network.successors.indptr[:-1].copy())
        self._log_p = torch.from_numpy(chain.log_probabilities).float()
        self._counts = torch.from_numpy(chain.counts).float()
        self._smoothing, self._num_left_out = chain.smoothing, num_left_out

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        if self._log_p.device != candidates.device:
            for name in ("_first", "_log_p", "_counts"):
                setattr(self, name, getattr(self, name).to(candidates.device))
        mask = candidates >= 0
        place = mask.long().cumsum(-1) - 1
        connection = self._first[batch.road_ids[:, :-1].clamp(min=0)][..., None] + place
        connection = torch.where(mask, connection, 0)
        if self._num_left_out == 0:
            return self._log_p[connection]
        own = _times_taken(batch, candidates, connection) * (batch.rows < self._num_left_out)[:, None, None]
        count = torch.where(mask, self._counts[connection] - own + self._smoothing, 0.0)
        # of equal value to the logarithm of the probability, up to a constant per step
        return count.log()


def _times_taken(batch: Batch, candidates: Tensor, connection: Tensor) -> Tensor:
    """Return how often the trip of each row takes each connection (B, T, C), int64."""
    is_taken = (candidates >= 0) & (candidates == batch.road_ids[:, 1:, None])
    # the connections of a trip, sorted; steps without one come last
    taken = torch.where(is_taken, connection, -1).amax(-1)
    taken = torch.where(taken >= 0, taken, torch.iinfo(torch.int64).max).sort(1).values
    asked = connection.flatten(1)
    times = torch.searchsorted(taken, asked, right=True) - torch.searchsorted(taken, asked)
    return times.view_as(connection)
