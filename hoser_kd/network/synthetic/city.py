"""The made city: a road network and trips in HOSER's format, without any data from outside.

It is for trying the pipeline and for tests. A seed gives the same files, byte for byte, on one version of NumPy and
SciPy. Streets come from `hoser_kd.network.synthetic.streets`, trips from `hoser_kd.network.synthetic.trips`.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.files import atomic_path
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.schema import SyntheticConfig
from hoser_kd.network.synthetic.streets import Streets, build_streets
from hoser_kd.network.synthetic.trips import draw_trips
from hoser_kd.network.trajectories import SPLITS

FEWEST_BLOCKS = 5
"""Along each axis: fewer have no room for a river, a primary street and a rim."""
_SHARES = (0.80, 0.07, 0.13)


def make_city(folder: str | PathLike[str], config: SyntheticConfig, progress: Progress = silent) -> Path:
    """Write roadmap.geo, roadmap.rel, train.csv, val.csv and test.csv into `folder`, and return it.

    Trips fall into the splits by lot, 80 / 7 / 13 per cent, each file in the order of departure; `entity_id` is
    the driver. Raises ConfigError where `blocks` are too few.
    """
    if min(config.blocks) < FEWEST_BLOCKS:
        raise ConfigError(f"source.synthetic.blocks is {list(config.blocks)}: give at least {FEWEST_BLOCKS} each way.")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    progress("streets", 0, 1)
    streets = build_streets(config.seed, config.blocks)
    progress("streets", 1, 1)
    trips = draw_trips(config.seed, streets, config.num_trips, progress)
    _write_roads(place, streets)
    for split, rows in zip(SPLITS, _split(config.seed, config.num_trips), strict=True):
        with atomic_path(place / f"{split}.csv") as part:
            trips.trajectories.take(rows).to_hoser_csv(part, entity_ids=trips.driver[rows])
    return place


def _split(seed: int, count: int) -> list[Int64Array]:
    lot = np.random.default_rng([seed, 3]).permutation(count)
    bounds = np.round(np.cumsum(_SHARES)[:-1] * count).astype(int)
    return [np.sort(part) for part in np.split(lot, bounds)]


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
