"""Soft labels: the frozen teacher's scores of the candidates of every step, computed once and stored.

Scores are unnormalized logits at temperature 1 (`teacher.label_scoring`), so temperature, weight and sharing rule are
applied in training at no cost. Labels are computed shard by shard, in one or more processes, and joined into one file
with a fingerprint of its inputs.

Shapes: N roads, S labeled steps, C candidates of all steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch

from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.arrays import Float32Array, Int64Array, offsets_of
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import StoreError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.hashing import digest_arrays, digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.teacher.history_encoding import Window
from hoser_kd.teacher.label_scoring import SoftLabelScorer

_FINGERPRINT = b"fingerprint"
_CONTENT = "content"
_PARTS = {
    "teacher": "the teacher's weights",
    "grid": "the roads' tokens",
    "roads": "the road graph",
    "trajectories": "the trips",
    "window": "the window",
}
SHARD_STEPS = 500_000
"""Steps per shard: the most that each process of a killed run has to recompute."""


@dataclass(frozen=True)
class SoftLabels:
    """Scores of S steps; the candidates of step s have `scores[offsets[s]:offsets[s + 1]]`.

    There is one row for every step with a next road, in the order of `Trajectories.step_positions`; candidates are
    `network.successors` of the step's road, in their order.
    """

    offsets: Int64Array
    """(S + 1,) int64."""
    scores: Float32Array
    """(C,) float32: the teacher's logits at temperature 1, up to one constant per step."""
    outside_mass: Float32Array | None = None
    """(S,) float32: the teacher's probability outside the cells of the candidates, if requested."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """Digests of the inputs of the labels, by part."""

    def __len__(self) -> int:
        """S."""
        return len(self.offsets) - 1

    def save(self, path: str | PathLike[str], fingerprint: Mapping[str, str] | None = None) -> None:
        """Write one uncompressed Arrow IPC file, atomically; `fingerprint` replaces the labels' own."""
        parts = self.fingerprint if fingerprint is None else fingerprint
        columns = {"scores": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.scores))}
        if self.outside_mass is not None:
            columns["outside_mass"] = pa.array(self.outside_mass)
        batch = pa.record_batch(columns).replace_schema_metadata({_FINGERPRINT: json.dumps(dict(parts))})
        with (
            atomic_path(path) as beside,
            pa.OSFile(str(beside), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: str | PathLike[str], expect: Mapping[str, str] | None = None) -> SoftLabels:
        """Memory-map a file written by `save`; arrays are read-only.

        `expect` holds parts of the fingerprint that must be equal. Raises StoreError if the file is missing or damaged,
        or if a part differs; the message names it.
        """
        if not Path(path).is_file():
            raise StoreError(f"{path}: no such file. Label the trips first.")
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                batch = reader.get_batch(0)
            parts = json.loads((batch.schema.metadata or {}).get(_FINGERPRINT, b"{}"))
            scores = batch.column("scores")
            outside = batch.column("outside_mass").to_numpy() if "outside_mass" in batch.schema.names else None
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path}: not a readable file of soft labels ({error}). Label the trips again.") from None
        differing = [_PARTS.get(name, name) for name, value in (expect or {}).items() if parts.get(name) != value]
        if differing:
            raise StoreError(
                f"{path}: the labels were computed from other inputs: {', '.join(differing)} differ. "
                "Label the trips again."
            )
        return cls(scores.offsets.to_numpy(), scores.values.to_numpy(), outside, parts)


def fingerprint(
    teacher: LMTAD, grid_tokens: Int64Array, trajectories: Trajectories, network: RoadNetwork, window: Window = "full"
) -> dict[str, str]:
    """Return the inputs of labels: digests of teacher, grid, roads and trajectories, and the window."""
    return {
        **teacher_fingerprint(teacher, grid_tokens, network, window),
        **data_fingerprint(network, trajectories, grid_tokens),
    }


def teacher_fingerprint(
    teacher: LMTAD, grid_tokens: Int64Array, network: RoadNetwork, window: Window = "full"
) -> dict[str, str]:
    """Return `fingerprint` without the trajectories."""
    state = {name: value.cpu().numpy() for name, value in teacher.state_dict().items()}
    shape = digest_json({**teacher.config.fields(), "names": list(state)})
    return {
        "teacher": f"{shape[:16]}-{digest_arrays(*state.values())}",
        "window": str(window),
        **data_fingerprint(network, None, grid_tokens),
    }


def data_fingerprint(
    network: RoadNetwork, trajectories: Trajectories | None, grid_tokens: Int64Array | None
) -> dict[str, str]:
    """Return the parts of `fingerprint` that need no teacher; what is None is left out."""
    parts = {"roads": digest_arrays(network.successors.indptr, network.successors.indices)}
    if grid_tokens is not None:
        parts["grid"] = digest_arrays(np.asarray(grid_tokens, np.int64))
    if trajectories is not None:
        parts["trajectories"] = digest_arrays(trajectories.offsets, trajectories.road_ids)
    return parts


def label(
    teacher: LMTAD | LMTADCheckpoint,
    tokens: Int64Array,
    trips: Trajectories,
    network: RoadNetwork,
    window: Window = "full",
    *,
    batch_tokens: int | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
    outside_mass: bool = False,
    progress: Progress = silent,
    shards_folder: str | PathLike[str] | None = None,
    shard_steps: int = SHARD_STEPS,
) -> SoftLabels:
    """Return the teacher's scores of the candidates of every step that has a next road.

    `tokens` (N,) integers: the teacher's token of each road. `window`: "full" computes all histories of a trip in
    one pass (those longer than `block_size` are cut to their last `block_size` tokens); W cuts each history [SOT,
    tokens so far] to its last W tokens, at positions from 0. `half` uses half precision on a GPU; a CPU ignores it,
    and scores are float32 either way. `batch_tokens` limits the tokens per batch (default: by device); `device`
    defaults to the teacher's.

    With `shards_folder`, labels are written to that folder in shards of about `shard_steps` steps, and a later call
    with the same arguments resumes after the last complete shard. The folder can be deleted once the labels are saved.
    `outside_mass` adds the probability outside the candidates' cells, at the cost of the head over the vocabulary.

    Raises TypeError for an argument of the wrong kind, ValueError for a bad window or trips of another network,
    CheckpointError if a road's token is out of the range of the teacher's vocabulary.
    """
    _refuse_wrong_arguments(teacher, trips, network)
    scorer = SoftLabelScorer(
        teacher.model if isinstance(teacher, LMTADCheckpoint) else teacher,
        tokens,
        network,
        window,
        batch_tokens=batch_tokens,
        device=device,
        half=half,
        outside_mass=outside_mass,
    )
    return label_with(scorer, trips, progress=progress, shards_folder=shards_folder, shard_steps=shard_steps)


def _refuse_wrong_arguments(teacher: object, trips: object, network: object) -> None:
    call = "label(teacher, tokens, trips, network)"
    expected: tuple[tuple[str, object, tuple[type, ...], str], ...] = (
        ("teacher", teacher, (LMTAD, LMTADCheckpoint), "hoser_kd.load_teacher(path)"),
        ("trips", trips, (Trajectories,), "hoser_kd.read_trips(csv, network)"),
        ("network", network, (RoadNetwork,), "hoser_kd.read_network(folder)"),
    )
    for name, value, kinds, source in expected:
        if not isinstance(value, kinds):
            kind = " or ".join(each.__name__ for each in kinds)
            raise TypeError(
                f"{name} is of type {type(value).__name__}, not {kind}. Call {call} with {name} = {source}."
            )
    road_ids, roads = cast("Trajectories", trips).road_ids, cast("RoadNetwork", network).num_roads
    if len(road_ids) and not 0 <= road_ids.min() <= road_ids.max() < roads:
        raise ValueError(
            f"the trips hold roads {road_ids.min()} to {road_ids.max()}, but the network has roads 0 to "
            f"{roads - 1}. Give the network with which the trips were read."
        )


def label_with(
    scorer: SoftLabelScorer,
    trajectories: Trajectories,
    *,
    progress: Progress = silent,
    shards_folder: str | PathLike[str] | None = None,
    shard_steps: int = SHARD_STEPS,
) -> SoftLabels:
    """Return the labels of these trips as `label` does; shards that exist in the folder are not recomputed."""
    shards = _shards(scorer, trajectories, shards_folder, shard_steps)
    total = shards[-1].steps_before + shards[-1].steps

    def on_progress(steps: int) -> None:
        progress("labels", min(steps, total - 1), total)

    parts = []
    for shard in shards:
        parts.append(shard.load_or_score(scorer, trajectories, beyond(shard.steps_before, on_progress)))
        progress("labels", shard.steps_before + shard.steps, total)
    return _joined(parts, fingerprint_of(scorer, trajectories))


def write_labels(
    scorer: SoftLabelScorer,
    trajectories: Trajectories,
    path: str | PathLike[str],
    shards_folder: str | PathLike[str],
    *,
    progress: Progress = silent,
    shard_steps: int = SHARD_STEPS,
) -> SoftLabels:
    """Write the labels of `label_with` to a file, shard by shard, and return them mapped from it.

    Only one shard is in memory at a time. Until the file is complete, the folder of the shards holds all labels twice.
    """
    shards = _shards(scorer, trajectories, shards_folder, shard_steps)
    total = shards[-1].steps_before + shards[-1].steps
    folder = Path(shards_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        GrowingArray(folder / "counts.joined", np.int64) as counts,
        GrowingArray(folder / "scores.joined", np.float32) as scores,
        GrowingArray(folder / "outside_mass.joined", np.float32) as masses,
    ):
        for shard in shards:
            report = beyond(shard.steps_before, lambda steps: progress("labels", min(steps, total - 1), total))
            labels = shard.load_or_score(scorer, trajectories, report)
            counts.append(np.diff(labels.offsets))
            scores.append(labels.scores)
            if labels.outside_mass is not None:
                masses.append(labels.outside_mass)
            progress("labels", shard.steps_before + shard.steps, total)
        joined = SoftLabels(
            offsets_of(counts.mapped()), scores.mapped(), masses.mapped() if scorer.outside_mass else None
        )
        joined.save(path, fingerprint_of(scorer, trajectories))
    return SoftLabels.load(path)


def make_shards(
    scorer: SoftLabelScorer,
    trajectories: Trajectories,
    shards_folder: str | PathLike[str],
    team: DistributedContext,
    *,
    shard_steps: int = SHARD_STEPS,
    report: Callable[[int], object] = lambda _: None,
) -> int:
    """Write this process's part of the shards, except for those that exist; `label_with` joins them.

    Process k of n takes every n-th shard, starting with the k-th. Processes do not synchronize. `report` is called with
    the number of steps finished by this process, including those of existing shards; the final number is returned.
    """
    done = 0
    for shard in _shards(scorer, trajectories, shards_folder, shard_steps)[team.rank :: team.size]:
        shard.load_or_score(scorer, trajectories, beyond(done, report))
        done += shard.steps
        report(done)
    return done


def beyond(before: int, report: Callable[[int], object]) -> Callable[[int], object]:
    """Return a callback that adds `before` to the number of steps."""
    return lambda steps: report(before + steps)


def shared_shard_steps(num_steps: int, num_processes: int) -> int:
    """Return the steps per shard with which `num_processes` processes finish at about the same time."""
    return SHARD_STEPS if num_processes == 1 else min(SHARD_STEPS, -(-max(num_steps, 1) // (8 * num_processes)))


def fingerprint_of(scorer: SoftLabelScorer, trajectories: Trajectories) -> dict[str, str]:
    """Return the `fingerprint` of a scorer's labels of these trips."""
    return fingerprint(scorer.model, scorer.tokens, trajectories, scorer.network, scorer.window)


@dataclass(frozen=True)
class _Shard:
    """Labels of trips `first` to `last`."""

    first: int
    last: int
    steps_before: int
    steps: int
    path: Path | None
    key: Mapping[str, str]
    """Fingerprint of the shard's file."""

    def load_or_score(
        self, scorer: SoftLabelScorer, trajectories: Trajectories, on_progress: Callable[[int], object]
    ) -> SoftLabels:
        """Return the shard, from its file if that is readable, unchanged, and has the same fingerprint."""
        stored = None if self.path is None else found_labels(self.path, self.key)
        if stored is not None and stored.fingerprint.get(_CONTENT) == _content_digest(stored):
            return stored
        labels = SoftLabels(*scorer.score(trajectories.take(np.arange(self.first, self.last)), on_progress))
        if self.path is not None:
            labels.save(self.path, {**self.key, _CONTENT: _content_digest(labels)})
        return labels


def _content_digest(labels: SoftLabels) -> str:
    """Return the digest of all numbers of a shard: an Arrow file has no checksums."""
    masses = () if labels.outside_mass is None else (labels.outside_mass,)
    return digest_arrays(np.asarray(labels.offsets, np.int64), np.asarray(labels.scores), *masses)


def _shards(
    scorer: SoftLabelScorer, trajectories: Trajectories, folder: str | PathLike[str] | None, shard_steps: int
) -> list[_Shard]:
    steps_before = offsets_of(np.maximum(trajectories.lengths - 1, 0))
    half = scorer.half and scorer.model.device.type == "cuda"
    key = (
        {}
        if folder is None
        else {**fingerprint_of(scorer, trajectories), "half": str(half), "outside_mass": str(scorer.outside_mass)}
    )
    return [
        _Shard(
            first,
            last,
            int(steps_before[first]),
            int(steps_before[last] - steps_before[first]),
            None if folder is None else Path(folder) / f"shard-{number:05d}.arrow",
            {**key, "shard": f"trips {first} to {last}"},
        )
        for number, (first, last) in enumerate(_bounds(steps_before, shard_steps if folder is not None else None))
    ]


def _bounds(steps_before: Int64Array, shard_steps: int | None) -> Iterator[tuple[int, int]]:
    """Split the trips into ranges of about `shard_steps` steps (None: one range) without cutting any trip."""
    total = int(steps_before[-1])
    targets = np.arange(shard_steps or max(total, 1), total, shard_steps or max(total, 1))
    ends = np.unique(np.append(np.searchsorted(steps_before, targets), len(steps_before) - 1))
    return zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)


def found_labels(path: str | PathLike[str], expect: Mapping[str, str]) -> SoftLabels | None:
    """Return the labels in a file; None if it is missing, damaged, or has another fingerprint."""
    try:
        return SoftLabels.load(path, expect)
    except StoreError:
        return None


def _joined(shards: list[SoftLabels], fingerprint: Mapping[str, str]) -> SoftLabels:
    masses = [shard.outside_mass for shard in shards if shard.outside_mass is not None]
    return SoftLabels(
        offsets_of(np.concatenate([np.diff(shard.offsets) for shard in shards])),
        np.concatenate([shard.scores for shard in shards]),
        np.concatenate(masses) if masses else None,
        fingerprint,
    )
