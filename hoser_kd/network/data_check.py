"""Everything that is wrong with a folder in HOSER's format, at once: network, connections, zones, trips of all splits.

Nothing is trained or written to the folder. The readers stop at the first error of a file. Here, a network that cannot
be read is read again once per column, with valid values in all other columns, so that each column reports its error.
Trips are read with invalid rows dropped, so that each reason is reported with its count.
"""

from __future__ import annotations

import tempfile
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hoser_kd.common.errors import DataError
from hoser_kd.network import zones
from hoser_kd.network.consistency import network_problems
from hoser_kd.network.road_network import RoadNetwork, read_network
from hoser_kd.network.sources import REQUIRED_FILES
from hoser_kd.network.trajectories import SPLITS, Trajectories, read_trips
from hoser_kd.network.trip_consistency import trip_problems

_VALID = {"coordinates": "[[0.0, 0.0], [0.0, 0.0001]]", "highway": "residential", "length": "11.1"}
"""A valid value of each column of roadmap.geo besides geo_id."""


class DataCheck(NamedTuple):
    """The result of `check_data`."""

    problems: list[str]
    """A text per problem, with file, row, value and fix; empty if the folder can be used."""
    summary: dict[str, int]
    """Roads, connections and trips per split, as far as they could be read."""


def check_data(folder: str | PathLike[str]) -> DataCheck:
    """Report all problems of a folder in HOSER's format.

    Raises DataError if there is no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(place, "no such folder.", hint="Give a folder in HOSER's format.")
    problems = [
        f"{place / name}: no such file. Required files: {', '.join(REQUIRED_FILES)}."
        for name in REQUIRED_FILES
        if not (place / name).is_file()
    ]
    summary: dict[str, int] = {}
    network, is_complete = _check_network(place, problems)
    if network is not None and is_complete:
        summary |= {"roads": network.num_roads, "connections": len(network.successors.indices)}
        problems += [f"{place}: {problem}" for problem in network_problems(network)]
        try:
            zones.read_shipped(place, network)
        except DataError as error:
            problems.append(str(error))
    splits = {} if network is None else _check_trips(place, network, problems)
    summary |= {f"{split} trips": len(trips) for split, trips in splits.items()}
    if len(splits) == len(SPLITS):
        problems += [f"{place}: {problem}" for problem in trip_problems(splits)]
    return DataCheck(problems, summary)


def _check_network(folder: Path, problems: list[str]) -> tuple[RoadNetwork | None, bool]:
    """Return the network, and whether all its columns are those of the files; None if trips have nothing to compare."""
    if not ((folder / "roadmap.geo").is_file() and (folder / "roadmap.rel").is_file()):
        return None, False
    try:
        return read_network(folder), True
    except DataError as error:
        first = str(error)
    try:
        roads = _text_table(folder / "roadmap.geo")
    except (ValueError, OSError):
        problems.append(first)
        return None, False
    texts = [first]
    for column in ("geo_id", *_VALID):
        if column in roads:
            _, message = _read_with(folder, roads[[column]], connections=None)
            texts += [] if message is None else [message]
    network, message = _read_with(folder, roads[[]], connections=folder / "roadmap.rel")
    texts += [] if message is None else [message]
    problems += dict.fromkeys(texts)
    return network, False


def _text_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)


def _read_with(folder: Path, given: pd.DataFrame, connections: Path | None) -> tuple[RoadNetwork | None, str | None]:
    """Read a network that has these columns of roadmap.geo, and valid values in the others; return it, or the error."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        roads = pd.DataFrame({"geo_id": np.arange(len(given)), **_VALID}, index=given.index)
        roads.assign(**given).to_csv(copy / "roadmap.geo", index=False)
        rows = "origin_id,destination_id\n0,0\n" if connections is None else connections.read_text(encoding="utf-8-sig")
        (copy / "roadmap.rel").write_text(rows, encoding="utf-8")
        try:
            return read_network(copy), None
        except DataError as error:
            return None, str(error).replace(str(copy), str(folder))


def _check_trips(folder: Path, network: RoadNetwork, problems: list[str]) -> dict[str, Trajectories]:
    """Return the valid trips of each split that has any."""
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if not path.is_file():
            continue
        try:
            splits[split] = read_trips(path, network)
        except DataError as error:
            first = str(error)
            try:
                splits[split] = read_trips(path, network, on_bad_row="drop")
            except DataError as worse:
                problems += dict.fromkeys((first, str(worse)))
            else:
                reasons = "; ".join(f"{reason} ({count})" for reason, count in splits[split].dropped.items())
                problems.append(f"{first} All reasons: {reasons}.")
    return splits
