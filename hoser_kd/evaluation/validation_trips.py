"""Trips generated after each epoch for a fixed sample of validation OD pairs, and a score for them.

Used as a validator of `hoser_kd.student.training.train_student`. Shapes: v validation OD pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.arrays import Int64Array, offsets_of, ranges
from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.progress import Progress, silent
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.generation.generator import generate
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.model_selection import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.config.student import StudentConfig
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.student.training import Validator

DISTRIBUTIONS = ("distance", "radius", "duration")
"""The published distributions; the score uses the mean of their divergences."""

HALF_SHAPE_KM = 0.1
"""Mean DTW distance per road at which the shape part of the score is one half."""

SAMPLE_SEED = 0
"""Seed of the sample of OD pairs. It is independent of the training seed, so all trainings use the same OD pairs."""

STAGE = "generating validation trips"


def trip_score(trips: Mapping[str, Mapping[str, float]]) -> float:
    """Return one score from 0 to 1 for arrival rate, distributions and shape of generated trips; real trips score 1.

    Half of the score is the share of trips that arrive. A quarter is 1 - mean JSD / ln 2 over the published
    distributions. A quarter is the shape compared with the real trips of the same OD pairs:
    1 / (1 + DTW per road / 100 m). `trips` are the paired metrics of `hoser_kd.evaluation.metrics.evaluate`; a missing
    distribution counts as disjoint.
    """
    jsd = sum(trips.get(name, {}).get("jsd", math.log(2)) for name in DISTRIBUTIONS) / len(DISTRIBUTIONS)
    shape = 1 / (1 + trips["paired"]["dtw_per_road"] / HALF_SHAPE_KM)
    return (2 * trips["requests"]["reached_share"] + (1 - jsd / math.log(2)) + shape) / 4


def validators_for(val: Trajectories, network: RoadNetwork, config: StudentConfig) -> tuple[Validator, ...]:
    """Return the validators that the settings require: generation of validation trips, or none."""
    sample = ValidationTrips.draw(val, network, config)
    return () if sample is None else (sample.metrics,)


@dataclass(frozen=True)
class ValidationTrips:
    """A fixed sample of validation OD pairs with their start times, and the real trips between them."""

    real: Trajectories
    """v trips."""
    network: RoadNetwork
    """The road network of the trips."""
    max_steps: int
    """Expansions after which a search ends."""

    @classmethod
    def draw(cls, val: Trajectories, network: RoadNetwork, config: StudentConfig) -> ValidationTrips | None:
        """Draw `config.num_validation_ods` trips, or all if there are fewer; None if the number is 0."""
        count = min(config.num_validation_ods, len(val))
        if count == 0:
            return None
        rows = np.random.default_rng(SAMPLE_SEED).choice(len(val), count, replace=False)
        return cls(val.take(np.sort(rows).astype(np.int64)), network, config.select_max_steps)

    def metrics(self, model: HOSER, progress: Progress = silent) -> dict[str, float]:
        """Generate the trips with the published search and return their metrics; no random number is drawn.

        Returns `generation_reached`, `generation_score` (see `trip_score`), `generation_<distribution>_jsd` (nat),
        `generation_dtw_per_road` (km) and, if a trip arrived, `generation_detour_ratio`. The mode of the model is
        restored. Processes that train together share the OD pairs, and all return the metrics of all trips.
        """
        context = DistributedContext.current()
        rows = context.share(np.arange(len(self.real), dtype=np.int64))
        requests = (self.real.origins[rows], self.real.start_times[rows], self.real.destinations[rows])

        def report(*arguments: Any, **named: Any) -> None:
            progress(STAGE, *arguments[1:], **named)

        was_training = model.training
        model.eval()
        trips: Trajectories = generate(
            model, *requests, self.max_steps, progress=report if context.is_main_process else silent
        )
        model.train(was_training)
        if context.size > 1:
            trips = _gathered(context, trips, rows, len(self.real), model)
        results = evaluate(self.real, trips, self.network, paired=True)
        metrics = {
            "reached": results["requests"]["reached_share"],
            "score": trip_score(results),
            **{f"{name}_jsd": results.get(name, {}).get("jsd", math.log(2)) for name in DISTRIBUTIONS},
            "dtw_per_road": results["paired"]["dtw_per_road"],
        }
        if "detour_ratio" in results["paired"]:
            metrics["detour_ratio"] = results["paired"]["detour_ratio"]
        return {f"{PREFIX}{name}": float(value) for name, value in metrics.items()}


def _gathered(
    context: DistributedContext, trips: Trajectories, rows: Int64Array, count: int, model: HOSER
) -> Trajectories:
    """Return the trips of all processes; `rows` are the positions of this process's `trips` among `count`.

    Each position is filled by one process and 0 in all others. The sums are exact in float64.
    """
    lengths = np.zeros(count)
    lengths[rows] = trips.lengths
    offsets = offsets_of(context.sum(lengths, model.device).astype(np.int64))
    values = np.zeros((2, offsets[-1]))
    values[:, ranges(offsets[rows], trips.lengths)] = trips.road_ids, trips.times
    roads, times = context.sum(values, model.device).astype(np.int64)
    return Trajectories(offsets, roads, times)
