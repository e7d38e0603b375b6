"""Choice of a prior's weights for one student, on validation trips.

Every setting of a small grid generates the trips of the same validation ODs; the one of least score, in the pipeline
EDR of the same request, is chosen. No random number is drawn except by a sampling decoder, whose seed is fixed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hoser_kd.common.files import write_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.generation.baselines import TripScore
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.generation.prior import Prior, with_weights
from hoser_kd.hoser import HOSER
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories

if TYPE_CHECKING:
    from hoser_kd.config.generation import PriorConfig

STAGE = "choosing the prior"
NUM_VALIDATION_ODS = 200
"""Validation ODs that the settings are compared on, evenly spaced among all."""


class PriorWeights(NamedTuple):
    """A setting to try."""

    markov_weight: float
    temperature: float
    cost_per_km: float


PRIOR_GRID = tuple(PriorWeights(*weights) for weights in product((0.0, 0.25, 0.5, 0.75), (1.0, 2.0), (0.0,)))
"""Settings to try, in this order; the first is the published search without a prior.

A Markov weight of 1 is not among them. The student's term has the factor 0 there, so the costs are those of the Markov
chain alone and the roads are the chain's likeliest path, whichever student was trained. That is a baseline, which has
its own row (`hoser_kd.generation.baselines`); chosen here, its result would stand in a student's row."""


@dataclass(frozen=True)
class PriorTuning:
    """The chosen prior and what was tried."""

    prior: Prior
    """The prior of least score; neutral where the search without a prior is best."""
    rows: tuple[dict[str, Any], ...]
    """One per setting, in grid order: markov_weight, temperature, cost_per_km, score, reached (share of trips
    that arrive), expansions (mean per trip) and chosen."""


def tune_prior(
    model: HOSER,
    chain: MarkovChain,
    val: Trajectories,
    score: TripScore,
    decoding: Decoding,
    *,
    grid: Sequence[PriorWeights] = PRIOR_GRID,
    num_ods: int = NUM_VALIDATION_ODS,
    progress: Progress = silent,
) -> PriorTuning:
    """Return the prior of least score on validation trips, the first of equal ones.

    `score` compares the real trips with the generated ones of the same requests, lower is better. Raises ValueError
    where there are no validation trips or no settings.
    """
    if len(val) == 0 or len(grid) == 0:
        raise ValueError("choosing a prior needs validation trips and at least one setting of its weights")
    real = val.take(np.linspace(0, len(val) - 1, min(num_ods, len(val))).round().astype(np.int64))
    base = Prior(chain)
    rows: list[dict[str, Any]] = []
    for done, weights in enumerate(grid, 1):
        trips = generate(
            model,
            real.origins,
            real.start_times,
            real.destinations,
            decoding=decoding,
            prior=with_weights(base, *weights),
        )
        rows.append(
            {
                **weights._asdict(),
                "score": score(real, trips),
                "reached": float(trips.reached.mean()),
                "expansions": float(trips.expansions.mean()),
            }
        )
        progress(STAGE, done, len(grid), {"score": rows[-1]["score"]})
    best = int(np.argmin([row["score"] for row in rows]))
    return PriorTuning(
        with_weights(base, *grid[best]),
        tuple({**row, "chosen": place == best} for place, row in enumerate(rows)),
    )


def choose_prior(
    config: PriorConfig,
    model: HOSER,
    train: Trajectories,
    val: Trajectories,
    network: RoadNetwork,
    decoding: Decoding,
    score: TripScore | None,
    *,
    record: Path,
    progress: Progress = silent,
) -> tuple[Prior | None, list[dict[str, Any]]]:
    """Return the prior of one student by the section `generation.prior`, and the rows of what was tried.

    The prior is None where it is off or neutral. `train` are the trips that the student was trained on. `record`: JSON
    file of the rows; an interrupted run of the same settings and student reads its choice from there. Without `tune`,
    there are no rows and no file. Raises ValueError as `tune_prior` does, and where `tune` has no score.
    """
    if not config.tune:
        return Prior.from_config(config, train, network), []
    chain = MarkovChain.fit(train, network, config.smoothing)
    if record.is_file():
        rows = json.loads(record.read_text(encoding="utf-8"))
    else:
        if score is None:
            raise ValueError("choosing a prior needs a score of trips, such as the mean EDR of the same request")
        rows = list(tune_prior(model, chain, val, score, decoding, progress=progress).rows)
        write_json(record, rows)
    [chosen] = [row for row in rows if row["chosen"]]
    prior = Prior(chain, *(chosen[name] for name in PriorWeights._fields))
    return None if prior.is_neutral else prior, rows
