"""States off any real trip with their targets, as files: for `distill.off_path.labels: stored`.

The states are those of a student that is trained already, the vanilla one of the same settings and seed. They are
sampled in parts of the student's own trips, so that an interrupted run resumes, and trips of the same destination share
a part, so that few destinations are searched twice.

- `states.arrow`: the sampled trips, like those of `trajectories`
- `targets.arrow`: log-targets of the candidates of their steps, like soft labels
- `destinations.npy`: the road that each trip leads to

Shapes: n own trips, E temperatures, E · n sampled trips.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.arrays import Int64Array, offsets_of, ranges, take_rows
from hoser_kd.common.errors import StoreError
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.student.off_path import OffPathStates, StepScores
from hoser_kd.teacher.soft_labels import SoftLabels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

STATES_FILE, TARGETS_FILE, DESTINATIONS_FILE = FILES = ("states.arrow", "targets.arrow", "destinations.npy")
PART_TRIPS = 4096
"""Own trips per part."""


def save_states(states: OffPathStates, folder: str | PathLike[str]) -> None:
    """Write states and targets to a folder."""
    states.trips.save(Path(folder) / STATES_FILE)
    SoftLabels(states.scores.offsets, states.scores.scores).save(Path(folder) / TARGETS_FILE)
    np.save(Path(folder) / DESTINATIONS_FILE, states.destinations)


def load_states(folder: str | PathLike[str]) -> OffPathStates:
    """Map states and targets from a folder. Raises StoreError or DataError if files are missing or do not match."""
    folder = Path(folder)
    trips = Trajectories.load(folder / STATES_FILE)
    targets = SoftLabels.load(folder / TARGETS_FILE)
    destinations: Int64Array = np.load(folder / DESTINATIONS_FILE, allow_pickle=False)
    if len(destinations) != len(trips) or len(targets) != trips.num_steps:
        raise StoreError(
            f"{folder}: {len(trips)} trips with {trips.num_steps} steps have {len(destinations)} destinations and "
            f"targets of {len(targets)} steps. Compute the off-path labels again."
        )
    return OffPathStates(trips, destinations, StepScores(targets.offsets, targets.scores))


def parts_of(destinations: Int64Array, part_trips: int = PART_TRIPS) -> list[Int64Array]:
    """Return the rows of each part, ascending; rows of the same destination share a part or are in adjacent ones."""
    order = np.argsort(destinations, kind="stable")
    return [np.sort(order[first : first + part_trips]) for first in range(0, len(order), part_trips)]


def joined(parts: Sequence[OffPathStates], rows: Sequence[Int64Array], num_temperatures: int) -> OffPathStates:
    """Return the states of all parts in the order of `OffPathStates`; `rows`: the own trips of each part."""
    count = sum(map(len, rows))
    at = [each + count * number for each in rows for number in range(num_temperatures)]
    order = np.argsort(np.concatenate(at))
    trips = concatenate([part.trips for part in parts])
    offsets = offsets_of(np.concatenate([np.diff(part.scores.offsets) for part in parts]))
    scores = np.concatenate([part.scores.scores for part in parts])
    first_step = offsets_of(np.maximum(trips.lengths - 1, 0))
    steps = ranges(first_step[order], np.diff(first_step)[order])
    ordered, places = take_rows(offsets, steps)
    destinations = np.concatenate([part.destinations for part in parts])[order]
    return OffPathStates(trips.take(order), destinations, StepScores(ordered, scores[places]))


def off_trip_share(states: OffPathStates, own_trips: Trajectories, num_roads: int) -> float:
    """Return the share of the states on a road that the real trip of the same request does not visit."""
    at, trip = states.trips.step_positions()
    if len(at) == 0:
        return 0.0
    request = trip % len(own_trips)
    real = np.repeat(np.arange(len(own_trips)), own_trips.lengths) * num_roads + own_trips.road_ids
    is_real = np.isin(request * num_roads + states.trips.road_ids[at], real)
    return float(1 - is_real.mean())
