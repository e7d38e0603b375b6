"""A small valid city, a ring of two-way streets, in files with one change."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS = 8
GEO, REL = "geo_id,type,coordinates,highway,length", "rel_id,type,origin_id,destination_id"
TRIPS = "mm_id,entity_id,traj_id,rid_list,time_list"


def city_files() -> dict[str, list[str]]:
    """Return the lines of the five files of a valid city of 2 · BLOCKS roads."""
    angle = 2 * np.pi * np.arange(BLOCKS + 1) / BLOCKS
    points = np.column_stack([-8.6 + 0.002 * np.cos(angle) / np.cos(np.radians(41.15)), 41.15 + 0.002 * np.sin(angle)])
    length = 2 * 0.002 * np.sin(np.pi / BLOCKS) * 111_195
    geo, rel = [GEO], [REL]
    for road in range(2 * BLOCKS):
        at = road % BLOCKS
        ends = (points[at], points[at + 1]) if road < BLOCKS else (points[at + 1], points[at])
        line = ", ".join(f"[{lon:.7f}, {lat:.7f}]" for lon, lat in ends)
        geo.append(f'{road},LineString,"[{line}]",{("primary", "residential")[road % 2]},{length:.3f}')
        following = (at + 1) % BLOCKS if road < BLOCKS else BLOCKS + (at - 1) % BLOCKS
        rel.append(f"{road},geo,{road},{following}")
    files = {"roadmap.geo": geo, "roadmap.rel": rel}
    for number, split in enumerate(("train", "val", "test")):
        rows = []
        for trip in range(6):
            roads = [(trip + step) % BLOCKS for step in range(3 + number)]
            seconds = [3600 * (trip + 7 * number) + 20 * step + trip * step for step in range(len(roads))]
            times = [f"2013-07-01T{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}Z" for s in seconds]
            rows.append(f'{trip},0,{split}{trip},"{",".join(map(str, roads))}","{",".join(times)}"')
        files[f"{split}.csv"] = [TRIPS, *rows]
    return files


def write_city(folder: Path, **changed: list[str]) -> Path:
    """Write the city with the lines of some files replaced; `roadmap_geo` stands for `roadmap.geo`."""
    for name, lines in {**city_files(), **{name.replace("_", "."): lines for name, lines in changed.items()}}.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_city_values(folder: Path) -> tuple[Any, ...]:
    """Read a city and return its values as plain lists."""
    from hoser_kd.network.city import read_city

    city = read_city(folder)
    network = city.network
    trips = [(part.road_ids.tolist(), part.times.tolist()) for part in (city.train, city.val, city.test)]
    return (
        network.coords.tolist(),
        network.length_m.tolist(),
        network.highway.tolist(),
        network.successors.indices.tolist(),
        trips,
        city.shipped is None or (city.zones.tolist(), city.zone_transitions.tolist()),
    )


def with_value(lines: list[str], row: int, column: int, value: str) -> list[str]:
    """Return the lines of a CSV file with the text of one field replaced; the value is quoted as CSV requires."""
    rows = list(csv.reader(lines))
    rows[row + 1][column] = value
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().splitlines()


def rewritten(name: str, row: int, column: int, value: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        return read_city_values(
            write_city(folder, **{name.replace(".", "_"): with_value(city_files()[name], row, column, value)})
        )

    return read


def city_with(files: dict[str, list[str]]) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        write_city(folder)
        for name, lines in files.items():
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_city_values(folder)

    return read
