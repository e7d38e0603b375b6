"""Generated trips for a fixed sample of validation OD pairs, so that an epoch can be judged by whole trips.

Shapes: v validation ODs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hoser_kd.common.arrays import Int64Array, offsets_of, ranges
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import StudentConfig
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import HOSER
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.model_selection import PREFIX

DISTRIBUTIONS = ("distance", "radius", "duration")
"""The published distributions; the score has the mean of their divergences."""


HALF_SHAPE_KM = 0.1
"""Mean distance along the best alignment at which a shape is worth one half."""


SAMPLE_SEED = 0
"""Of the choice of validation ODs; that of a training has no part in it, so that all trainings answer the same ones."""


STAGE = "generating validation trips"


def trip_score(trips: Mapping[str, Mapping[str, float]]) -> float:
    """Return arrival, distributions and shape of generated trips in one number from 0 to 1, 1 for the real trips.

    Half of it is the share of trips that arrive. A quarter is 1 - mean JSD / ln 2 over the published distributions. A
    quarter is the shape against the real trips of the same ODs: 1 / (1 + DTW per road / 100 m). `trips` is what
    `evaluation.metrics.evaluate` says of them, paired; a distribution that it could not compare counts as disjoint.
    """
    jsd = sum(trips.get(name, {}).get("jsd", math.log(2)) for name in DISTRIBUTIONS) / len(DISTRIBUTIONS)
    shape = 1 / (1 + trips["paired"]["dtw_per_road"] / HALF_SHAPE_KM)
    return (2 * trips["requests"]["reached_share"] + (1 - jsd / math.log(2)) + shape) / 4


@dataclass(frozen=True)
class ValidationTrips:
    """A fixed sample of validation ODs, each with its own start time, and the real trips between them."""

    real: Trajectories
    """v trips."""
    network: RoadNetwork
    """The roads."""
    max_steps: int
    """Expansions after which a search ends."""

    @classmethod
    def draw(cls, val: Trajectories, network: RoadNetwork, config: StudentConfig) -> ValidationTrips | None:
        """Draw the sample the settings ask for, all validation trips where they are fewer; None where it is none."""
        count = min(config.num_validation_ods, len(val))
        if count == 0:
            return None
        rows = np.random.default_rng(SAMPLE_SEED).choice(len(val), count, replace=False)
        return cls(val.take(np.sort(rows).astype(np.int64)), network, config.select_max_steps)

    def figures(self, model: HOSER, progress: Progress = silent) -> dict[str, float]:
        """Generate the trips by the published search and return their figures; no random number is drawn.

        `generation_reached`, `generation_score` (see `trip_score`), `generation_<distribution>_jsd` (nat),
        `generation_dtw_per_road` (km), `generation_detour_ratio` where a trip arrived. The model's mode is left as it
        was. Processes that train together share the ODs, and all return the figures of all trips.
        """
        team = DistributedContext.current()
        mine = team.share(np.arange(len(self.real), dtype=np.int64))
        asked = (self.real.origins[mine], self.real.start_times[mine], self.real.destinations[mine])

        def report(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:  # noqa: ARG001
            progress(STAGE, done, total, figures)

        was_training = model.training
        model.eval()
        trips: Trajectories = generate(
            model, *asked, self.max_steps, progress=report if team.is_main_process else silent
        )
        model.train(was_training)
        if team.size > 1:
            trips = _gathered(team, trips, mine, len(self.real), model)
        told = evaluate(self.real, trips, self.network, paired=True)
        found = {
            "reached": told["requests"]["reached_share"],
            "score": trip_score(told),
            **{f"{name}_jsd": told.get(name, {}).get("jsd", math.log(2)) for name in DISTRIBUTIONS},
            "dtw_per_road": told["paired"]["dtw_per_road"],
        }
        if "detour_ratio" in told["paired"]:
            found["detour_ratio"] = told["paired"]["detour_ratio"]
        return {f"{PREFIX}{name}": float(value) for name, value in found.items()}


def _gathered(team: DistributedContext, mine: Trajectories, rows: Int64Array, count: int, model: HOSER) -> Trajectories:
    """Return the trips of all processes; `rows` are the places of this one's among `count`.

    Every place is filled by one process and 0 in all others, so that sums, exact in float64, put them together.
    """
    lengths = np.zeros(count)
    lengths[rows] = mine.lengths
    offsets = offsets_of(team.sum(lengths, model.device).astype(np.int64))
    values = np.zeros((2, offsets[-1]))
    values[:, ranges(offsets[rows], mine.lengths)] = mine.road_ids, mine.times
    roads, times = team.sum(values, model.device).astype(np.int64)
    return Trajectories(offsets, roads, times)
