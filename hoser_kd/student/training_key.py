"""Digest of everything that the result of a training depends on; stored results of other inputs are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.hoser.features import zone_graph
from hoser_kd.student.losses import extra_loss_terms
from hoser_kd.student.pooled import student_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hoser_kd.common.arrays import Int64Array
    from hoser_kd.config.distill import DistillConfig
    from hoser_kd.config.off_path import OffPathConfig
    from hoser_kd.config.pooled import PooledConfig
    from hoser_kd.config.student import StudentConfig
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.student.losses import LabelSource, RaggedLabels
    from hoser_kd.student.off_path import OffPathStates


def training_key(
    config: StudentConfig,
    seed: int,
    city: tuple[RoadNetwork, Int64Array, Any],
    splits: Sequence[Trajectories],
    *,
    distill: DistillConfig | None = None,
    labels: RaggedLabels | LabelSource | None = None,
    val_labels: RaggedLabels | LabelSource | None = None,
    grid_tokens: Int64Array | None = None,
    synthetic: Trajectories | None = None,
    synthetic_labels: RaggedLabels | LabelSource | None = None,
    off_path: OffPathConfig | None = None,
    online_teacher: LabelSource | None = None,
    off_path_states: OffPathStates | None = None,
    first_generation: HOSER | None = None,
    other_teachers: Sequence[LabelSource] = (),
) -> str:
    """Return the sha256 (hex) of settings, seed, network, zones, trips and labels.

    `city`: network, zones (N,) and zone transitions (Z, Z), dense or a SciPy sparse array. Labels are identified by
    their `fingerprint` or, without one, by their arrays. A function without a `fingerprint` and the validators cannot
    be identified.
    """
    settings: dict[str, Any] = {
        "student": config.of_the_result(),
        "seed": seed,
        "distill": distill and {**_distill_settings(distill), "labels": _identity(labels)},
        "val_labels": _identity(val_labels),
        "city": _digest_city(*city),
        "trips": digest_arrays(*(part for split in splits for part in (split.offsets, split.road_ids, split.times))),
    }
    if synthetic is not None:
        settings["synthetic"] = digest_arrays(synthetic.offsets, synthetic.road_ids)
    if synthetic_labels is not None:
        settings["synthetic_labels"] = _identity(synthetic_labels)
    if distill is not None and distill.shared_cells != "replicate" and grid_tokens is not None:
        settings["grid_tokens"] = digest_arrays(np.asarray(grid_tokens, np.int64))
    if off_path is not None:
        settings["off_path"] = {**_off_path_settings(off_path), "teacher": _identity(online_teacher)}
    if off_path_states is not None:
        settings["off_path_states"] = states_digest(off_path_states)
    if distill is not None and distill.uses_pooled:
        digest = None if first_generation is None else student_digest(first_generation)
        settings["pooled"] = {**_pooled_settings(distill.pooled), "student": digest}
        if other_teachers:
            settings["pooled"]["other_teachers"] = [_identity(teacher) for teacher in other_teachers]
    if extra := extra_loss_terms():
        settings["loss_terms"] = extra
    return digest_json(settings)


def _distill_settings(distill: DistillConfig) -> dict[str, Any]:
    """Return the section without what does not change a training; keys added since 0.1 only if they are set."""
    unused = {"label_processes", "store_outside_mass", "off_path", "pooled"}
    defaults = {name: field.default for name, field in type(distill).model_fields.items()}
    added = ("recipe", "synthetic_weight", "synthetic_per_epoch", "time_loss_mean")
    unused |= {name for name in added if getattr(distill, name) == defaults[name]}
    return distill.model_dump(mode="json", exclude=unused)


def _pooled_settings(pooled: PooledConfig) -> dict[str, Any]:
    """Return the section; keys added since 0.1 only if they are set."""
    defaults = {name: field.default for name, field in type(pooled).model_fields.items()}
    unused = {name for name in ("chain_trips", "leave_trip_out") if getattr(pooled, name) == defaults[name]}
    # a checkpoint is the same teacher wherever it lies
    return pooled.model_dump(mode="json", exclude={*unused, "other_teachers"})


def states_digest(states: OffPathStates) -> str:
    """Return the sha256 (hex) of stored states and targets."""
    trips, destinations, scores = states
    return digest_arrays(trips.offsets, trips.road_ids, trips.times, destinations, *scores)


def _off_path_settings(off_path: OffPathConfig) -> dict[str, Any]:
    """Return the section; keys added since 0.1 only if they are set."""
    defaults = {name: field.default for name, field in type(off_path).model_fields.items()}
    added = ("states", "costs", "labels")
    return off_path.model_dump(mode="json", exclude={key for key in added if getattr(off_path, key) == defaults[key]})


def _digest_city(network: RoadNetwork, zones: Int64Array, zone_transitions: Any) -> str:
    """Return the digest of what HOSER reads; dense and sparse transitions of the same counts are equal."""
    arrays = (network.coord_offsets, network.coords, network.length_m, *network.successors)
    zone_edges, zone_weights = zone_graph(zone_transitions)
    digest = digest_arrays(*arrays, np.asarray(zones, np.int64), zone_edges, zone_weights)
    return digest_json([digest, [str(name) for name in network.highway], int(np.shape(zone_transitions)[0])])


def _identity(labels: RaggedLabels | LabelSource | None) -> dict[str, str] | None:
    """Return what identifies labels: their fingerprint, or the digest of their arrays."""
    if labels is None:
        return None
    if fingerprint := getattr(labels, "fingerprint", None):
        return dict(fingerprint)
    if callable(labels):
        return {}
    return {"arrays": digest_arrays(labels.offsets, labels.scores)}
