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
    """Rows of `trips` that are trained on, each once in an epoch."""
    own_rows: Int64Array | None = None
    """(n,) int64: row in the training split of each own trip; None without synthetic trips."""

    @property
    def first_synthetic(self) -> int | None:
        """Row of the first synthetic trip in `trips`; None if there is none."""
        return None if self.own_rows is None else len(self.own_rows)

    @property
    def own_step_share(self) -> float:
        """Share of the steps of an epoch that belong to own trips; 1 without steps."""
        steps = np.maximum(self.trips.lengths[self.rows] - 1, 0)
        total = int(steps.sum())
        if self.own_rows is None or total == 0:
            return 1.0
        return float(steps[self.rows < len(self.own_rows)].sum()) / total

    @property
    def own(self) -> TrainingData:
        """The student's own trips alone."""
        return self if self.own_rows is None else replace(self, rows=np.arange(len(self.own_rows)))

    @classmethod
    def of(
        cls, train: Trajectories, rows: Int64Array, synthetic: Trajectories | None, network: RoadNetwork, seed: int
    ) -> TrainingData:
        """Return the data of a student whose own trips are `rows` of `train`; `synthetic` trips have no times yet."""
        if synthetic is None:
            return cls(train, rows)
        own = train.take(rows)
        trips = concatenate([own, with_times(synthetic, own, network, seed)])
        return cls(trips, np.arange(len(trips)), rows)

    def labels(self, source: LabelSource | None) -> LabelSource | None:
        """Return the teacher's labels for the rows of `trips`; `source` has those of the training split."""
        return source if source is None or self.own_rows is None else _OwnLabels(source, self.own_rows)


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
        if len(own):
            at = batch.rows.new_tensor(own)
            part = Batch(
                batch.road_ids[at], batch.times[at], batch.lengths[at], batch.rows.new_tensor(self._own_rows[rows[own]])
            )
            scores[at] = self._source(part, candidates[at]).to(scores.dtype)
        return scores
