"""Roads and matched trips of other tools that are damaged, contradict each other, or have other units."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput
from bad_input_kinds.small_city import city_files

EDGES = ["road_id,from,to,length,highway,geometry"] + [
    f'{road},{road % 4},{(road + 1) % 4},{222.39:.2f},primary,"LINESTRING ({a[0]} {a[1]}, {b[0]} {b[1]})"'
    for road, (a, b) in enumerate(
        zip(
            [(-8.6, 41.15), (-8.6, 41.152), (-8.602656, 41.152), (-8.602656, 41.15)],
            [(-8.6, 41.152), (-8.602656, 41.152), (-8.602656, 41.15), (-8.6, 41.15)],
            strict=True,
        )
    )
]
TRIPS = ["id,path,timestamps"] + [
    f'{trip},"[{trip % 4}, {(trip + 1) % 4}]","[{1372665600 + 700 * trip}, {1372665620 + 701 * trip}]"'
    for trip in range(6)
]


def bad_imports() -> Iterator[BadInput]:
    """Yield roads and trips of other tools with one mistake."""
    from hoser_kd.network.importing.city_import import import_city

    def city(edges: list[str] | bytes = EDGES, trips: list[str] | bytes = TRIPS, **more: Any) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            names = more.get("names", ("edges.csv", "trips.csv"))
            for name, content in zip(names, (edges, trips), strict=True):
                raw = content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode()
                (folder / name).write_bytes(raw)
            made = import_city(
                folder / "out",
                folder / names[0],
                folder / names[1],
                time_zone=more.get("time_zone", "Etc/UTC"),
                columns=more.get("columns"),
            )
            from hoser_kd.network.data_check import check_data

            problems = check_data(folder / "out").problems
            if problems:  # the command prints them, and its exit status is 1
                from hoser_kd.common.errors import DataError

                raise DataError("out", "; ".join(map(str, problems)))
            return made.num_roads, made.num_connections, made.num_trips

        return read

    same = 4, 4, {"train": 4, "val": 1, "test": 1}
    yield BadInput("imports", "valid tables", city(), same)
    yield BadInput("imports", "semicolons", city([line.replace(",", ";", 5) for line in EDGES]), same)
    yield BadInput("imports", "no nodes", city([line.replace("from,to", "a,b") for line in EDGES]), same)
    other: dict[str, tuple[Any, Any]] = {
        "empty roads": (b"", TRIPS),
        "roads in zeros": (bytes(300), TRIPS),
        "roads in UTF-16": ("\n".join(EDGES).encode("utf-16"), TRIPS),
        "empty trips": (EDGES, b""),
        "trips in zeros": (EDGES, bytes(300)),
        "trips in UTF-16": (EDGES, "\n".join(TRIPS).encode("utf-16")),
        "a header alone": (EDGES[:1], TRIPS),
        "trips without rows": (EDGES, TRIPS[:1]),
        "two trips": (EDGES, TRIPS[:3]),
        "a road twice": ([*EDGES, EDGES[1]], TRIPS),
        "a road id missing": ([EDGES[0], EDGES[1].replace("0,", ",", 1), *EDGES[2:]], TRIPS),
        "no geometry": ([line.rsplit(',"', 1)[0].replace(",geometry", "") for line in EDGES], TRIPS),
        "HTML": (b"<!DOCTYPE html><html></html>", TRIPS),
        "latitude and longitude exchanged": ([_exchanged(line) for line in EDGES], TRIPS),
        "projected coordinates": (
            [line.replace("-8.60", "53200").replace("41.15", "4556000") for line in EDGES],
            TRIPS,
        ),
        "lengths in kilometers": ([line.replace("222.39", "0.22239") for line in EDGES], TRIPS),
        "lengths that are text": ([line.replace("222.39", "long") for line in EDGES], TRIPS),
        "negative lengths": ([line.replace("222.39", "-222.39") for line in EDGES], TRIPS),
        "an unknown road": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace("[1, 2]", "[1, 9]")]),
        "roads that do not follow": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace("[1, 2]", "[1, 3]")]),
        "fewer times than roads": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace(", 1372669125]", "]")]),
        "a time that is text": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace("1372669100", "noon")]),
        "times that decrease": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace("1372669100", "1372699100")]),
        "times in microseconds": (EDGES, [line.replace("13726", "13726000000") for line in TRIPS]),
        "times that are all 0": (EDGES, [TRIPS[0], *(f'{k},"[0, 1]","[0, 0]"' for k in range(6))]),
        "times of 1e300": (EDGES, [*TRIPS[:-1], TRIPS[-1].replace("1372669100", "1" + "0" * 300)]),
        "times before 1970": (EDGES, [line.replace("13726", "-13726") for line in TRIPS]),
        "trips all equal": (EDGES, [TRIPS[0], *(f'{k},"[0, 1]","[1372665600, 1372665620]"' for k in range(6))]),
        "no time column": (EDGES, [line.rsplit(',"', 1)[0].replace(",timestamps", "") for line in TRIPS]),
        "an empty path": (EDGES, [*TRIPS, '9,"[]","[]"']),
        "a ragged row": (EDGES, [*TRIPS, '9,"[0, 1]"']),
        "a row too long": (EDGES, [*TRIPS, '9,"[0, 1]","[1372665600, 1372665620]",5,6']),
        "an open quotation mark": (EDGES, [*TRIPS, '9,"[0, 1]","[1372665600']),
    }
    for label, (edges, trips) in other.items():
        yield BadInput("imports", label, city(edges, trips))
    yield BadInput("imports", "an unknown time zone", city(time_zone="Europe/Porto"))
    yield BadInput("imports", "an absolute path as time zone", city(time_zone="/etc/localtime"))
    yield BadInput("imports", "a column that is missing", city(columns={"road_id": "link"}))
    for names in (
        ("edges.parquet", "trips.csv"),
        ("edges.gpkg", "trips.csv"),
        ("edges.graphml", "trips.csv"),
        ("edges.geojson", "trips.csv"),
        ("edges.csv.gz", "trips.csv"),
        ("edges.csv", "trips.parquet"),
        ("edges.csv", "trips.jsonl"),
    ):
        yield BadInput("imports", f"a CSV named {'.'.join(names[0].split('.')[1:])}, {names[1]}", city(names=names))
    for label, line in (
        ("no JSON", "{"),
        ("a list", "[1]"),
        ("no edges", "{}"),
        ("edges that are numbers", '{"edges": [1], "matched_points": [2]}'),
        ("a shape that is text", json.dumps({"edges": [{"way_id": 1}], "matched_points": [{}], "shape": "~~~~"})),
    ):
        yield BadInput("imports", f"Valhalla: {label}", city(trips=[line], names=("edges.csv", "trips.jsonl")))
    yield from _bad_folders()


def _exchanged(line: str) -> str:
    for a, b in (("-8.6 41.15", "41.15 -8.6"), ("-8.6 41.152", "41.152 -8.6")):
        line = line.replace(a, b) if line.find(a) >= 0 else line
    return line.replace("-8.602656 41.152", "41.152 -8.602656").replace("-8.602656 41.15", "41.15 -8.602656")


def _bad_folders() -> Iterator[BadInput]:
    """Yield folders for the commands `renumber-roads` and `check-data` that cannot be used."""
    from hoser_kd.network.renumbering import renumber_roads

    def folder_with(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            source = folder / "in"
            source.mkdir()
            for name, lines in city_files().items():
                (source / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            change(source)
            return renumber_roads(source, folder / "out")

        return read

    def replaced(name: str, old: str, new: str) -> Callable[[Path], Any]:
        def change(folder: Path) -> None:
            text = (folder / name).read_text(encoding="utf-8")
            assert old in text
            (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

        return change

    for label, change in (
        ("a road id twice", replaced("roadmap.geo", "\n1,", "\n0,")),
        ("an empty road id", replaced("roadmap.geo", "\n1,", "\n,")),
        ("an unknown origin", replaced("roadmap.rel", ",geo,1,", ",geo,77,")),
        ("an unknown road in a trip", replaced("train.csv", '"0,1,2"', '"0,1,77"')),
        ("no header", replaced("roadmap.geo", "geo_id", "id")),
        ("no train.csv", lambda folder: (folder / "train.csv").unlink()),
        ("zeros", lambda folder: (folder / "roadmap.rel").write_bytes(bytes(100))),
        ("UTF-16", lambda folder: (folder / "val.csv").write_bytes("a,b".encode("utf-16"))),
    ):
        yield BadInput("imports", f"renumber-roads: {label}", folder_with(change))
