"""The trips that a student trains on: its own and, with the recipe `sequence`, those sampled from the teacher.

Shapes: n own trips, m synthetic trips, P points of the synthetic trips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hoser_kd.hoser import Batch
from hoser_kd.network.class_speeds import ClassSpeeds, entry_times, hour_of_day
from hoser_kd.network.trajectories import Trajectories, concatenate

if TYPE_CHECKING:
    from torch import Tensor

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.student.losses import LabelSource

_START_TIMES = 0x5E9
"""Separates the generator of the start times from others with the same seed."""


@dataclass(frozen=True)
class TrainingData:
    """Trips and the rows of an epoch."""

    trips: Trajectories
    """The training split; with synthetic trips, the student's own trips and then these."""
    rows: Int64Array
    """Rows of `trips` that are trained on, each once in an epoch unless `per_epoch` says otherwise."""
    own_rows: Int64Array | None = None
    """(n,) int64: row in the training split of each own trip; None without synthetic trips."""
    per_epoch: int | None = None
    """Synthetic trips of an epoch, fewer than m; None: all."""

    def rows_of(self, epoch: int) -> Int64Array:
        """Return the rows of an epoch, counted from 0: all, or the own trips and the epoch's synthetic ones."""
        if self.own_rows is None or self.per_epoch is None:
            return self.rows
        num_own = len(self.own_rows)
        chosen = (epoch * self.per_epoch + np.arange(self.per_epoch)) % (len(self.rows) - num_own)
        return np.concatenate([self.rows[:num_own], num_own + chosen])

    @property
    def first_synthetic(self) -> int | None:
        """Row of the first synthetic trip in `trips`; None if there is none."""
        return None if self.own_rows is None else len(self.own_rows)

    @property
    def own_step_share(self) -> float:
        """Share of the steps of an epoch, on average, that belong to own trips; 1 without steps."""
        steps = np.maximum(self.trips.lengths[self.rows] - 1, 0)
        if self.own_rows is None or steps.sum() == 0:
            return 1.0
        is_own = self.rows < len(self.own_rows)
        used = 1.0 if self.per_epoch is None else self.per_epoch / int((~is_own).sum())
        own = float(steps[is_own].sum())
        return own / (own + used * float(steps[~is_own].sum()))

    @property
    def own(self) -> TrainingData:
        """The student's own trips alone."""
        if self.own_rows is None:
            return self
        return replace(self, rows=np.arange(len(self.own_rows)), per_epoch=None)

    @classmethod
    def of(
        cls,
        train: Trajectories,
        rows: Int64Array,
        synthetic: Trajectories | None,
        network: RoadNetwork,
        seed: int,
        per_epoch: int | None = None,
    ) -> TrainingData:
        """Return the data of a student whose own trips are `rows` of `train`; `synthetic` trips have no times yet.

        `per_epoch`: synthetic trips of an epoch; None: all.
        """
        if synthetic is None:
            return cls(train, rows)
        own = train.take(rows)
        trips = concatenate([own, with_times(synthetic, own, network, seed)])
        per_epoch = None if per_epoch is None or per_epoch >= len(synthetic) else per_epoch
        return cls(trips, np.arange(len(trips)), rows, per_epoch)

    def labels(self, source: LabelSource | None) -> LabelSource | None:
        """Return the teacher's labels for the rows of `trips`; `source` has those of the training split."""
        return source if source is None or self.own_rows is None else _OwnLabels(source, self.own_rows)

    def labels_of_all(self, source: LabelSource | None, of_synthetic: LabelSource | None) -> LabelSource | None:
        """Return the teacher's labels for the rows of `trips`, those of the synthetic trips from `of_synthetic`.

        Without `of_synthetic`, `source` scores any trip, whatever its row.
        """
        if source is None or of_synthetic is None or self.own_rows is None:
            return source
        return _LabelsOfAll(source, of_synthetic, self.own_rows)


def with_times(synthetic: Trajectories, own: Trajectories, network: RoadNetwork, seed: int) -> Trajectories:
    """Return the synthetic trips with times from the student's own trips, so that no other trip has an influence.

    Start times are drawn from those of the own trips. The seconds along a road follow from the own trips' mean speed on
    its class in the hour of the start (`hoser_kd.network.class_speeds`).
    """
    rng = np.random.default_rng([seed, _START_TIMES])
    start_times = rng.choice(own.start_times, len(synthetic))
    speeds = ClassSpeeds.fit(own, network)
    hour = np.repeat(hour_of_day(start_times), synthetic.lengths)
    roads = synthetic.road_ids
    seconds = network.length_m[roads] / speeds.by_hour[hour, network.road_type[roads]]
    return replace(synthetic, times=entry_times(synthetic.offsets, seconds, start_times))


class _OwnLabels:
    """Labels of the own trips in a batch; candidates of synthetic trips get no score, which is a loss of zero."""

    def __init__(self, source: LabelSource, own_rows: Int64Array) -> None:
        self._source, self._own_rows = source, own_rows

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        rows = batch.on_host.rows.numpy()
        own = np.flatnonzero(rows < len(self._own_rows))
        scores = torch.full(candidates.shape, -torch.inf, device=candidates.device)
        _fill(scores, self._source, batch, candidates, own, self._own_rows[rows[own]])
        return scores


class _LabelsOfAll:
    """Labels of own and of synthetic trips, each from a source that counts its own rows."""

    def __init__(self, own: LabelSource, synthetic: LabelSource, own_rows: Int64Array) -> None:
        self._own, self._synthetic, self._own_rows = own, synthetic, own_rows

    def __call__(self, batch: Batch, candidates: Tensor) -> Tensor:
        rows = batch.on_host.rows.numpy()
        is_own = rows < len(self._own_rows)
        own, synthetic = np.flatnonzero(is_own), np.flatnonzero(~is_own)
        scores = torch.full(candidates.shape, -torch.inf, device=candidates.device)
        _fill(scores, self._own, batch, candidates, own, self._own_rows[rows[own]])
        _fill(scores, self._synthetic, batch, candidates, synthetic, rows[synthetic] - len(self._own_rows))
        return scores


def _fill(
    scores: Tensor, source: LabelSource, batch: Batch, candidates: Tensor, chosen: Int64Array, rows: Int64Array
) -> None:
    """Write the scores of the trips at positions `chosen` of a batch, which are `rows` of the source."""
    if not len(chosen):
        return
    at = batch.rows.new_tensor(chosen)
    part = Batch(batch.road_ids[at], batch.times[at], batch.lengths[at], batch.rows.new_tensor(rows))
    scores[at] = source(part, candidates[at]).to(scores.dtype)
