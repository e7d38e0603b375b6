"""The synthetic city: a generated road network and trips in HOSER's format, for demos and tests.

A seed gives byte-identical files for the same versions of NumPy and SciPy. The plan of the streets is in
`hoser_kd.network.synthetic.street_plan`, roads in `streets`, trips in `trips` beside it.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arguments import check_kind, check_path
from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.network.synthetic.streets import Streets, build_streets
from hoser_kd.network.synthetic.trips import draw_trips
from hoser_kd.network.trajectories import SPLITS

MIN_BLOCKS = 5
"""Minimum number of blocks along each axis; fewer leave no room for a river, a primary street and a rim."""
_USAGE = "make_synthetic_city(folder, SyntheticConfig(num_trips=200))"
_SHARES = (0.80, 0.07, 0.13)


def make_synthetic_city(folder: str | PathLike[str], config: SyntheticConfig, progress: Progress = silent) -> Path:
    """Write roadmap.geo, roadmap.rel, train.csv, val.csv and test.csv to `folder` and return it.

    Trips are split at random (80 / 7 / 13 %) and sorted by departure in each file; `entity_id` is the driver. Raises
    ConfigError if `blocks` is too small, TypeError for an argument of the wrong kind.
    """
    check_path("folder", folder, _USAGE)
    check_kind("config", config, SyntheticConfig, _USAGE)
    if min(config.blocks) < MIN_BLOCKS:
        raise ConfigError(f"source.synthetic.blocks is {list(config.blocks)}; it must be at least {MIN_BLOCKS} each.")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    progress("streets", 0, 1)
    streets = build_streets(config.seed, config.blocks)
    progress("streets", 1, 1)
    trips = draw_trips(config.seed, streets, config.num_trips, progress, trip_seed=config.trip_seed)
    _write_roads(place, streets)
    for split, rows in zip(SPLITS, _split(config.seed, config.num_trips), strict=True):
        with atomic_path(place / f"{split}.csv") as part:
            trips.trajectories.take(rows).to_hoser_csv(part, entity_ids=trips.driver[rows])
    return place


make_city = make_synthetic_city
"""The name inside this package."""


def _split(seed: int, count: int) -> list[Int64Array]:
    shuffled = np.random.default_rng([seed, 3]).permutation(count)
    bounds = np.round(np.cumsum(_SHARES)[:-1] * count).astype(int)
    return [np.sort(part) for part in np.split(shuffled, bounds)]


def _write_roads(folder: Path, streets: Streets) -> None:
    network = streets.network
    points = np.char.mod("%.7f", network.coords)
    pairs = pc.binary_join_element_wise("[", pa.array(points[:, 0]), ", ", pa.array(points[:, 1]), "]", "")
    lines = pc.binary_join(pa.ListArray.from_arrays(pa.array(network.coord_offsets, pa.int32()), pairs), ", ")
    roads = pa.table(
        {
            "geo_id": np.arange(network.num_roads),
            "type": pa.array(["LineString"] * network.num_roads),
            "coordinates": pc.binary_join_element_wise("[", lines, "]", ""),
            "highway": pa.array(network.highway, pa.string()),
            "oneway": streets.is_one_way,
            "bridge": streets.is_bridge,
            "length": network.length_m,
            "u": streets.tail,
            "v": streets.head,
        }
    )
    connections = pa.table(
        {
            "rel_id": np.arange(len(network.successors.indices)),
            "type": pa.array(["geo"] * len(network.successors.indices)),
            "origin_id": np.repeat(np.arange(network.num_roads), network.successors.degrees),
            "destination_id": network.successors.indices,
        }
    )
    for table, name in ((roads, "roadmap.geo"), (connections, "roadmap.rel")):
        with atomic_path(folder / name) as part:
            pa.csv.write_csv(table, str(part))
