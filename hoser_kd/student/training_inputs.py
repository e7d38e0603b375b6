"""What the result of a student's training depends on, and what is built from it before the first epoch.

Shapes: N roads, Z zones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hoser_kd.hoser import HOSER, time_label_statistics
from hoser_kd.network.zones import transitions as count_transitions
from hoser_kd.student.losses import LossContext
from hoser_kd.student.next_step_metrics import as_label_source
from hoser_kd.student.off_path import OffPath, OffPathTeacher
from hoser_kd.student.pooled import PooledTargets
from hoser_kd.student.training_arguments import (
    check_distillation,
    check_off_path,
    check_pooled,
    check_synthetic,
    check_trips,
    check_vanilla,
    transition_counts,
    zone_array,
)
from hoser_kd.student.training_budget import TrainingBudget
from hoser_kd.student.training_data import TrainingData
from hoser_kd.student.training_key import training_key
from hoser_kd.student.training_precision import training_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.config.distill import DistillConfig
    from hoser_kd.config.off_path import OffPathConfig
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.student.losses import LabelSource, RaggedLabels
    from hoser_kd.student.off_path import OffPathStates, TripSampler
    from hoser_kd.student.training_checkpoint import TrainingResult


@dataclass(frozen=True)
class TrainingInputs:
    """The arguments of `train_student` that its result depends on; it describes them."""

    network: RoadNetwork
    zones: Int64Array
    zone_transitions: Any
    train: Trajectories
    val: Trajectories
    config: StudentConfig
    seed: int
    distill: DistillConfig | None = None
    labels: RaggedLabels | LabelSource | None = None
    val_labels: RaggedLabels | LabelSource | None = None
    grid_tokens: Int64Array | None = None
    synthetic: Trajectories | None = None
    synthetic_labels: RaggedLabels | LabelSource | None = None
    sampler: TripSampler | None = None
    online_teacher: LabelSource | None = None
    stored_states: OffPathStates | None = None
    first_generation: HOSER | None = None
    other_teachers: Sequence[LabelSource] = ()
    vanilla: TrainingResult | None = None

    def checked(self) -> TrainingInputs:
        """Return the inputs with zones and their transitions as arrays, and without a `distill` that changes nothing.

        Raises TypeError, ValueError or ConfigError where one is wrong or missing.
        """
        zones = zone_array(self.zones, self.network.num_roads)
        counts = transition_counts(self.zone_transitions, zones)
        check_trips(self.network, train=self.train, val=self.val)
        check_distillation(self.distill, self.labels, self.val_labels, self.grid_tokens, self.network.num_roads)
        check_synthetic(self.distill, self.synthetic, self.network, self.synthetic_labels)
        check_pooled(
            self.distill,
            self.first_generation,
            self.labels,
            self.val_labels,
            self.other_teachers,
            self.synthetic_labels,
        )
        check_off_path(
            self.off_path, self.sampler, self.online_teacher, self.stored_states, self.train, self._own_rows()
        )
        distill = None if self.distill is None or not self.distill.trains_student else self.distill
        checked = replace(self, zones=zones, zone_transitions=counts, distill=distill)
        check_vanilla(self.distill, self.vanilla, checked.vanilla_key)
        return checked

    @property
    def off_path(self) -> OffPathConfig | None:
        """Settings of the fine-tuning on off-path states; None: no fine-tuning."""
        return self.distill.off_path if self.distill is not None and self.distill.uses_off_path else None

    def key(self) -> str:
        """Return the digest that state and result of this training carry."""
        return training_key(
            self.config,
            self.seed,
            (self.network, self.zones, self.zone_transitions),
            (self.train, self.val),
            distill=self.distill,
            labels=self.labels,
            val_labels=self.val_labels,
            grid_tokens=self.grid_tokens,
            synthetic=self.synthetic,
            synthetic_labels=self.synthetic_labels,
            off_path=self.off_path,
            online_teacher=self.online_teacher,
            off_path_states=self.stored_states,
            first_generation=self.first_generation,
            other_teachers=self.other_teachers,
        )

    def vanilla_key(self) -> str:
        """Return the digest of the training of the vanilla student with these settings, data and seed."""
        city = (self.network, self.zones, self.zone_transitions)
        return training_key(self.config, self.seed, city, (self.train, self.val))

    @property
    def own_synthetic(self) -> Trajectories | None:
        """Synthetic trips that are trained on; others are only histories for off-path costs."""
        return self.synthetic if self.distill is not None and "sequence" in self.distill.recipe else None

    def budget(self) -> TrainingBudget:
        """Return the number of epochs and steps."""
        num_synthetic = 0
        if self.distill is not None and self.own_synthetic is not None:
            num_synthetic = self.distill.num_synthetic(len(self.own_synthetic))
        return TrainingBudget.of(self.config, len(self.train), num_synthetic)

    def data(self) -> TrainingData:
        """Return the trips of an epoch: the student's own share of the training trips, and the synthetic trips."""
        per_epoch = None if self.distill is None else self.distill.synthetic_per_epoch
        return TrainingData.of(self.train, self._own_rows(), self.own_synthetic, self.network, self.seed, per_epoch)

    def own_trips(self) -> Trajectories:
        """Return the student's own share of the training trips."""
        return self.train.take_all_or(self._own_rows())

    def _own_rows(self) -> Int64Array:
        return training_rows(len(self.train), self.config.train_fraction, self.seed)

    def fit_pool(self, data: TrainingData, own_trips: Trajectories, device: torch.device) -> PooledTargets | None:
        """Return the targets of the recipe `pooled`; None without it."""
        if self.distill is None or not self.distill.uses_pooled:
            return None
        return PooledTargets.fit(
            self.distill.pooled,
            self.train if self.distill.pooled.chain_trips == "all" else own_trips,
            self.val,
            self.network,
            num_counted_rows=data.first_synthetic,
            student=None if self.first_generation is None else self.first_generation.to(device),
            labels=self._labels_of_all(data),
            val_labels=self.val_labels,
            other_teachers=self.other_teachers,
        )

    def _labels_of_all(self, data: TrainingData) -> LabelSource | None:
        """Return the teacher's labels of own and synthetic trips."""
        of_synthetic = None
        if self.synthetic is not None:
            of_synthetic = as_label_source(self.synthetic_labels, self.synthetic)
        return data.labels_of_all(as_label_source(self.labels, self.train), of_synthetic)

    def build_model(self, own_trips: Trajectories, device: torch.device) -> HOSER:
        """Return the student before the first step, from torch's generator."""
        counts = self.zone_transitions
        if self.config.train_fraction < 1:
            # otherwise a student of few trips has the traffic of all
            counts = count_transitions(self.zones, own_trips, np.shape(counts)[0])
        mean, std = time_label_statistics(own_trips)
        model = HOSER.build(self.config, self.network, self.zones, counts, log1p_mean=mean, log1p_std=std)
        return model.to(device)

    def loss_context(self, model: HOSER, data: TrainingData, pooled: PooledTargets | None) -> LossContext:
        """Return what the loss terms of the training are built from."""
        cells = self.grid_tokens
        return LossContext(
            model.time_scale,
            self.config,
            self.distill,
            labels=None if self.distill is None else data.labels(as_label_source(self.labels, self.train)),
            grid_tokens=None if cells is None else torch.from_numpy(np.array(cells, np.int64)).to(model.device),
            seed=self.seed,
            device=model.device,
            first_synthetic=data.first_synthetic,
            own_step_share=data.own_step_share,
            pooled=pooled,
        )

    def off_path_states(self, model: HOSER, own_trips: Trajectories, rows: Int64Array) -> OffPath | None:
        """Return the states and targets of the fine-tuning; None without it. `rows` of the real steps beside them."""
        if self.off_path is None:
            return None
        teacher = None
        if self.sampler is not None and self.stored_states is None:
            teacher = OffPathTeacher.fit(
                own_trips, self.val, self.network, self.off_path, self.sampler, self.online_teacher, self.synthetic
            )
        return OffPath(
            model,
            own_trips,
            rows,
            self.off_path,
            teacher,
            stored=self.stored_states,
            seed=self.seed,
            precision=training_precision(self.config, model.device),
        )


def training_rows(count: int, fraction: float, seed: int) -> Int64Array:
    """Return the rows of the training trips that the student trains on, ascending."""
    chosen = np.random.default_rng([seed, count]).permutation(count)[: max(1, round(fraction * count))]
    return np.sort(chosen).astype(np.int64)
