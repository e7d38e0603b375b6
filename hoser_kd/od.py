"""Which trips to generate: origins, start times and destinations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hoser_kd.config import GenerationConfig
from hoser_kd.ragged import Int64Array
from hoser_kd.trajectories import Trajectories

DEFAULT_TRAIN_TRIPS = 5000
"""Trips drawn with od_source train where the settings give no number; the published evaluation uses 5,000."""


@dataclass(frozen=True)
class Requests:
    """n trips asked for."""

    origins: Int64Array
    """(n,) int64 road ids."""
    start_times: Int64Array
    """(n,) int64 seconds since the epoch, UTC."""
    destinations: Int64Array
    """(n,) int64 road ids."""
    real_rows: Int64Array | None
    """(n,) int64: the test trip each one is the counterpart of; None where they were drawn from training."""


def choose(config: GenerationConfig, train: Trajectories, test: Trajectories) -> Requests:
    """Choose the trips to generate.

    `test` takes test ODs with their own start times: all, or `num_trips` of them drawn without repetition. `train` is
    the published way: OD pairs drawn with the frequency they have in training, start times drawn independently from
    training trips.
    """
    generator = np.random.default_rng(config.seed)
    if config.od_source == "test":
        rows = np.arange(len(test))
        if config.num_trips is not None and config.num_trips < len(test):
            rows = np.sort(generator.choice(len(test), config.num_trips, replace=False))
        return Requests(test.origins[rows], test.start_times[rows], test.destinations[rows], rows)
    count = config.num_trips or DEFAULT_TRAIN_TRIPS
    pairs = generator.integers(len(train), size=count)
    starts = generator.integers(len(train), size=count)
    return Requests(train.origins[pairs], train.start_times[starts], train.destinations[pairs], None)
