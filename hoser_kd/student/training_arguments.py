"""Validation of the arguments of `train_student`; errors name the right call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hoser_kd.common.device import pick_device
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import HOSER
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.off_path import OffPathStates
from hoser_kd.student.training_checkpoint import TrainingResult, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hoser_kd.common.arrays import Int64Array

_USAGE = "Call train_student(network, zones, zone_transitions, train, val, config, folder=...)."
_DISTILL_USAGE = "Call train_student(..., distill=DistillConfig(), labels=labels)."
_SYNTHETIC_USAGE = "Pass synthetic=TripSampler(teacher, grid_tokens, network).sample(0, count).trajectories()."
_COUNTS = "Compute the counts with transitions(zones, train, num_zones)."


def check_types(
    network: RoadNetwork, train: Trajectories, val: Trajectories, config: StudentConfig, seed: int, **options: object
) -> None:
    """Raise TypeError where an argument has the wrong type, ValueError for a negative seed.

    `options`: resume, progress and on_epoch.
    """
    expected = {"network": RoadNetwork, "train": Trajectories, "val": Trajectories, "config": StudentConfig}
    for (name, kind), value in zip(expected.items(), (network, train, val, config), strict=True):
        if not isinstance(value, kind):
            raise TypeError(f"{name} is of type {type(value).__name__}, not {kind.__name__}. {_USAGE}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}, not an integer. {_USAGE}")
    if seed < 0:
        raise ValueError(f"seed is {seed}, not an integer of 0 or more. {_USAGE}")
    if not isinstance(options["resume"], bool):
        raise TypeError(f"resume is {options['resume']!r}, not True or False. {_USAGE}")
    if not callable(options["progress"]):
        raise TypeError(f"progress is {options['progress']!r}, not a function (stage, done, total, metrics). {_USAGE}")
    if options["on_epoch"] is not None and not callable(options["on_epoch"]):
        raise TypeError(f"on_epoch is {options['on_epoch']!r}, not a function of a dict of metrics. {_USAGE}")


def check_trips(network: RoadNetwork, **splits: Trajectories) -> None:
    """Raise ValueError where trips are missing or have roads that the network does not have."""
    for name, trips in splits.items():
        if len(trips) == 0:
            raise ValueError(f"{name} has no trips.")
        if int(trips.road_ids.max()) >= network.num_roads:
            raise ValueError(
                f"{name} has road {int(trips.road_ids.max())}, but the network has {network.num_roads} roads: give "
                "the network of these trips."
            )


def zone_array(zones: Any, num_roads: int) -> Int64Array:
    """Return the zone of each road, (N,) int64. Raises TypeError or ValueError."""
    array = np.asarray(zones)
    if array.shape != (num_roads,):
        raise ValueError(f"zones has shape {array.shape}, not ({num_roads},): one zone per road. {_USAGE}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"zones has dtype {array.dtype}, not an integer type: pass zones.astype('int64').")
    if (array < 0).any():
        road = int(np.argmax(array < 0))
        raise ValueError(
            f"zones[{road}] is {array[road]}: zones count from 0. Compute them with partition(network, config)."
        )
    return array.astype(np.int64, copy=False)


def transition_counts(transitions: Any, zones: Int64Array) -> Any:
    """Return the counts, (Z, Z), as a NumPy array, or unchanged if sparse. Raises TypeError or ValueError."""
    counts = transitions if hasattr(transitions, "tocoo") else np.asarray(transitions)
    shape, num_zones = counts.shape, int(zones.max()) + 1
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < num_zones:
        raise ValueError(f"zone_transitions has shape {shape}, but zones has {num_zones} zones: give a (Z, Z) array.")
    if counts.dtype.kind not in "biuf":
        raise TypeError(f"zone_transitions has dtype {counts.dtype}, not a number type. {_COUNTS}")
    # the stored values of a sparse array hold all that are not 0
    values = counts.tocoo().data if hasattr(counts, "tocoo") else counts
    bad = ~((values >= 0) & (values < np.inf))
    if bad.any():
        raise ValueError(f"zone_transitions has the value {values[bad].flat[0]}, not a count of 0 or more. {_COUNTS}")
    return counts


def check_distillation(
    distill: DistillConfig | None, labels: object, val_labels: object, grid_tokens: Any, num_roads: int
) -> None:
    """Raise TypeError or ValueError where the arguments of distillation are wrong or incomplete."""
    if distill is not None and not isinstance(distill, DistillConfig):
        hint = "pass DistillConfig(**distill)." if isinstance(distill, dict) else _DISTILL_USAGE
        raise TypeError(f"distill is of type {type(distill).__name__}, not a DistillConfig: {hint}")
    _check_labels(labels=labels, val_labels=val_labels)
    if distill is None and labels is not None:
        raise ValueError(
            f"labels= is read only with distill=. {_DISTILL_USAGE} For a vanilla student, leave labels= out."
        )
    if distill is None or not (distill.uses_kl or distill.pools("teacher")):
        return
    if labels is None:
        raise ValueError(
            "a distilled student requires the teacher's labels of the training trips: pass labels=, or distill=None "
            "for a vanilla student."
        )
    if not distill.uses_kl:
        return
    if grid_tokens is None and distill.shared_cells != "replicate":
        raise ValueError(
            f"distill.shared_cells {distill.shared_cells} requires the cell of each road: pass grid_tokens=."
        )
    if grid_tokens is not None and np.shape(grid_tokens) != (num_roads,):
        raise ValueError(f"grid_tokens has shape {np.shape(grid_tokens)}, not ({num_roads},): one cell per road.")


def check_off_path(
    off_path: OffPathConfig | None,
    sampler: object,
    online_teacher: object,
    states: object,
    train: Trajectories,
    rows: Int64Array,
) -> None:
    """Raise TypeError, ValueError or ConfigError where off-path distillation lacks an argument or cannot run here.

    `rows` (n,) int64: the student's own trips among `train`.
    """
    _check_off_path_states(off_path, states, train, rows)
    if off_path is None:
        return
    if sampler is None and not off_path.stores_labels:
        raise ValueError(
            "distill.recipe with off_path requires a sampler of the student's trips: pass "
            "sampler=hoser_kd.generation.student_trips.sample_trips."
        )
    if off_path.reads_teacher and not off_path.stores_labels and online_teacher is None:
        key = "teacher_weight above 0" if off_path.teacher_weight else f"costs {off_path.costs}"
        raise ValueError(
            f"distill.off_path.{key} requires a teacher that scores sampled trips: pass "
            "online_teacher=OnlineTeacher(teacher, grid_tokens, network)."
        )
    if DistributedContext.current().size > 1:
        raise ConfigError(
            "distill.recipe has off_path, which runs in one process: set student.num_processes to 1, or remove "
            "off_path."
        )


def _check_off_path_states(
    off_path: OffPathConfig | None, states: object, train: Trajectories, rows: Int64Array
) -> None:
    """Raise TypeError or ValueError where stored states are missing, not read, or of other trips."""
    is_read = off_path is not None and off_path.stores_labels
    if is_read != (states is not None):
        raise ValueError(
            "distill.off_path.labels is stored: pass off_path_states=load_states(folder)."
            if is_read
            else "off_path_states= is read only with the recipe `off_path` and off_path.labels: stored: leave it out."
        )
    if off_path is None or states is None:
        return
    if not isinstance(states, OffPathStates):
        raise TypeError(
            f"off_path_states is of type {type(states).__name__}, not OffPathStates. Pass load_states(folder)."
        )
    wanted = np.tile(train.road_ids[train.offsets[rows + 1] - 1], len(off_path.temperatures))
    if not np.array_equal(states.destinations, wanted):
        raise ValueError(
            f"off_path_states has {len(states.destinations)} trips, which are not those of the {len(rows)} training "
            f"trips at {len(off_path.temperatures)} temperatures. Compute them for these trips and settings."
        )


def check_vanilla(distill: DistillConfig | None, vanilla: object, expected_key: Callable[[], str]) -> None:
    """Raise TypeError or ValueError where the vanilla training is not read, or is one of other settings or data."""
    if vanilla is None:
        return
    if not isinstance(vanilla, TrainingResult):
        raise TypeError(
            f"vanilla is of type {type(vanilla).__name__}, not TrainingResult. Pass what train_student returned for "
            "the vanilla student."
        )
    if distill is None or distill.recipe != ("off_path",):
        raise ValueError("vanilla= is read only with the recipe `off_path` alone: leave it out.")
    if key_of(vanilla.folder) != expected_key():
        raise ValueError(
            f"vanilla= ({vanilla.folder}) was trained with other settings, data or seed. Pass the vanilla student of "
            "the same arguments, or leave it out."
        )


def check_pooled(
    distill: DistillConfig | None,
    first_generation: object,
    labels: object,
    val_labels: object,
    other_teachers: Sequence[object] = (),
    synthetic_labels: object = None,
) -> None:
    """Raise TypeError or ValueError where the recipe `pooled` lacks an argument, or one is given without it."""
    reads_student = distill is not None and distill.pools("student")
    if first_generation is not None and not isinstance(first_generation, HOSER):
        raise TypeError(
            f"first_generation is of type {type(first_generation).__name__}, not HOSER. Pass load_student(folder)."
        )
    if reads_student != (first_generation is not None):
        raise ValueError(
            "distill.pooled.members has student, the vanilla student of the same trips: pass "
            "first_generation=load_student(folder)."
            if reads_student
            else "first_generation= is read only with the recipe `pooled` and its member student: leave it out."
        )
    expected = len(distill.pooled.other_teachers) if distill is not None and distill.uses_pooled else 0
    if len(other_teachers) != expected or not all(callable(teacher) for teacher in other_teachers):
        raise ValueError(
            f"distill.pooled.other_teachers names {expected} checkpoints and other_teachers= has {len(other_teachers)} "
            "teachers: pass one load_other_teacher(path, network) for each."
        )
    if distill is None or not distill.pools("teacher"):
        return
    if val_labels is None:
        raise ValueError(
            "distill.pooled.members has teacher, whose exponent is fitted on validation trips: pass val_labels=."
        )
    if "sequence" in distill.recipe and not callable(labels) and synthetic_labels is None:
        raise ValueError(
            "the recipe [sequence, pooled] requires the teacher's scores of synthetic trips too: pass "
            "synthetic_labels=label(teacher, grid_tokens, synthetic, network), or "
            "labels=OnlineTeacher(teacher, grid_tokens, network)."
        )


def check_synthetic(
    distill: DistillConfig | None,
    synthetic: Trajectories | None,
    network: RoadNetwork,
    synthetic_labels: object = None,
) -> None:
    """Raise TypeError or ValueError where synthetic trips are wrong, missing, or given without the recipe for them.

    Their labels are read by the recipe `[sequence, pooled]` with the teacher in the pool.
    """
    _check_labels(synthetic_labels=synthetic_labels)
    if synthetic_labels is not None and not (
        distill is not None and "sequence" in distill.recipe and distill.pools("teacher")
    ):
        raise ValueError(
            "synthetic_labels= is read only with the recipe [sequence, pooled] and the teacher in pooled.members: "
            "leave it out."
        )
    needs = distill is not None and "sequence" in distill.recipe
    off_path = distill.off_path if distill is not None and distill.uses_off_path else None
    is_read = needs or (off_path is not None and off_path.costs != "markov")
    if synthetic is None:
        if needs:
            raise ValueError(f"the recipe `sequence` requires trips sampled from the teacher. {_SYNTHETIC_USAGE}")
        return
    if not isinstance(synthetic, Trajectories):
        raise TypeError(f"synthetic is of type {type(synthetic).__name__}, not Trajectories. {_SYNTHETIC_USAGE}")
    if not is_read:
        raise ValueError(
            "synthetic= is read only with the recipe `sequence`, or off_path.costs other than markov: pass "
            "distill=DistillConfig(recipe=['sequence']), or leave synthetic= out."
        )
    check_trips(network, synthetic=synthetic)


def _check_labels(**named: object) -> None:
    """Raise TypeError where labels are neither None, nor a function, nor have arrays `offsets` and `scores`."""
    for name, labels in named.items():
        if labels is None or (callable(labels) and not isinstance(labels, type)):
            continue
        parts = [getattr(labels, part, None) for part in ("offsets", "scores")]
        if isinstance(labels, type) or not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
            kind = f"the class {labels.__name__}" if isinstance(labels, type) else f"of type {type(labels).__name__}"
            raise TypeError(
                f"{name} is {kind}, not labels. Pass SoftLabels.load(path), label(teacher, grid_tokens, trips, "
                "network), OnlineTeacher(teacher, grid_tokens, network), or a function (batch, candidates) -> scores."
            )


def check_validators(config: StudentConfig, validators: Sequence[object]) -> None:
    """Raise TypeError or ValueError where validators are missing or are not functions."""
    if config.num_validation_ods and not validators:
        raise ValueError(
            "student.select_by or student.select_num_ods requires trips generated after each epoch: pass "
            "validators=hoser_kd.evaluation.validation_trips.validators_for(val, network, config)."
        )
    if not all(callable(validator) for validator in validators):
        raise TypeError("validators are functions (model, progress) -> dict of metrics.")


def device_of(device: torch.device | str) -> torch.device:
    """Return the torch device. Raises TypeError, or ConfigError if it is unknown or not available."""
    if not isinstance(device, torch.device | str):
        raise TypeError(
            f"device is of type {type(device).__name__}, not a name: pass device='auto', 'cpu' or 'cuda:0'."
        )
    return pick_device(str(device))
