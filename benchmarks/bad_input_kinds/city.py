"""Wrong roads, networks that contradict themselves, wrong trips and zones."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bad_input_kinds.base import NO_CLASS, NO_ID, NO_LENGTH, NO_LINE, NO_TIME, BadInput
from bad_input_kinds.small_city import BLOCKS, GEO, REL, city_files, city_with, read_city_values, rewritten, write_city


def bad_roads(rng: random.Random) -> Iterator[BadInput]:
    """Yield cities with one wrong value in roadmap.geo or roadmap.rel."""
    for column, values in (("geo_id", NO_ID), ("coordinates", NO_LINE), ("highway", NO_CLASS), ("length", NO_LENGTH)):
        place = GEO.split(",").index(column)
        for value in values:
            row = rng.randrange(1, 2 * BLOCKS)
            same = column == "geo_id" and value == str(row)
            if not same:
                yield BadInput("roads", f"{column} = {value!r}", rewritten("roadmap.geo", row, place, value))
    for column in ("origin_id", "destination_id"):
        place = REL.split(",").index(column)
        for value in NO_ID:
            row = rng.randrange(2 * BLOCKS)
            yield BadInput("connections", f"{column} = {value!r}", rewritten("roadmap.rel", row, place, value))


def bad_networks() -> Iterator[BadInput]:
    """Yield cities whose rows are all valid, but contradict each other."""

    def changed(change: Callable[[list[list[str]]], None], name: str = "roadmap.geo") -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:

            rows = list(csv.reader(city_files()[name]))
            change(rows)
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows(rows)
            return read_city_values(write_city(folder, **{name.replace(".", "_"): out.getvalue().splitlines()}))

        return read

    def lengths(factor: float) -> Callable[[list[list[str]]], None]:
        def change(rows: list[list[str]]) -> None:
            for row in rows[1:]:
                row[4] = repr(float(row[4]) * factor)

        return change

    def places(move: Callable[[float, float], tuple[float, float]]) -> Callable[[list[list[str]]], None]:
        def change(rows: list[list[str]]) -> None:
            for row in rows[1:]:
                row[2] = json.dumps([move(*point) for point in json.loads(row[2])])

        return change

    for unit, factor in (
        ("kilometers", 1e-3),
        ("feet", 3.28084),
        ("miles", 1 / 1609.344),
        ("degrees", 1 / 111_195),
        ("centimeters", 100.0),
        ("millimeters", 1000.0),
        ("Web Mercator meters", 1.328),
        ("yards", 1.0936133),
        ("nothing", 0.0),
        ("reversed", 1e5),
    ):
        yield BadInput("networks", f"lengths in {unit}", changed(lengths(factor)))
    for label, move in (
        ("coordinates as [lat, lon]", lambda lon, lat: (lat, lon)),
        ("coordinates in radians", lambda lon, lat: (np.radians(lon), np.radians(lat))),
        ("local kilometers as degrees", lambda lon, lat: ((lon + 8.61) * 84, (lat - 41.14) * 111.195)),
        ("local meters as degrees", lambda lon, lat: ((lon + 8.6) * 840, (lat - 41.15) * 1112)),
        ("all coordinates at one point", lambda lon, lat: (-8.6 + 0 * lon, 41.15 + 0 * lat)),
        ("longitudes negated and scaled", lambda lon, lat: (-2 * lon, lat)),
        ("coordinates rounded to two digits", lambda lon, lat: (round(lon, 2), round(lat, 2))),
        ("latitudes and longitudes in minutes", lambda lon, lat: (lon * 6, lat * 2)),
    ):
        yield BadInput("networks", label, changed(places(move)))
    for seed in range(6):

        def renumber(rows: list[list[str]], seed: int = seed) -> None:
            order = list(range(1, len(rows)))
            random.Random(seed).shuffle(order)
            rows[1:] = [[str(new), *rows[old][1:]] for new, old in enumerate(order)]

        yield BadInput("networks", f"roads renumbered in roadmap.geo alone ({seed})", changed(renumber))

    def shuffled(rows: list[list[str]]) -> None:
        random.Random(0).shuffle(rows[1:])
        rows[1:] = rows[:0:-1]

    def ids_from(first: int) -> Callable[[list[list[str]]], None]:
        def change(rows: list[list[str]]) -> None:
            for row in rows[1:]:
                row[0] = str(int(row[0]) + first)

        return change

    yield BadInput("networks", "rows in another order", changed(shuffled))
    for first in (1, 1000, -1):
        yield BadInput("networks", f"ids from {first}", changed(ids_from(first)))
    yield BadInput("networks", "no roads", changed(lambda rows: rows.__delitem__(slice(1, None))))
    yield BadInput("networks", "one road less", changed(lambda rows: rows.pop()))
    yield BadInput(
        "connections", "no connections", changed(lambda rows: rows.__delitem__(slice(1, None)), "roadmap.rel")
    )
    yield BadInput("connections", "a repeated connection", changed(lambda rows: rows.append(rows[3]), "roadmap.rel"))
    yield BadInput(
        "connections",
        "directions exchanged",
        changed(lambda rows: [row.__setitem__(slice(2, 4), row[:1:-1]) for row in rows[1:]] and None, "roadmap.rel"),
    )


def bad_trips(rng: random.Random) -> Iterator[BadInput]:
    """Yield cities with wrong trips."""
    roads_at, times_at = 3, 4
    good_roads, good_times = "0,1,2", [f"2013-07-01T00:00:{second:02}Z" for second in (0, 20, 40)]
    for value in NO_ID:
        items = good_roads.split(",")
        items[rng.randrange(3)] = value
        yield BadInput("trips", f"road id {value!r}", rewritten("train.csv", 0, roads_at, ",".join(items)))
    for value in NO_TIME:
        items = list(good_times)
        items[rng.randrange(3)] = value
        yield BadInput("trips", f"time {value!r}", rewritten("train.csv", 0, times_at, ",".join(items)))
    for roads in ("", "0", "0,1", "0,1,2,3", "0,0,1", "0,2,4", "2,1,0", "0;1;2", "0 1 2", "0,1,2,", "[0,1", "None"):
        if roads != "0,1,2":
            yield BadInput("trips", f"rid_list {roads!r}", _trip_with(roads, roads_at))
    yield BadInput(
        "trips", "times that decrease", rewritten("val.csv", 0, times_at, ",".join(good_times[::-1] + good_times[:1]))
    )
    for split in ("train", "val", "test"):
        files = city_files()
        yield BadInput("trips", f"{split}.csv without rows", city_with({f"{split}.csv": files[f"{split}.csv"][:1]}))
        yield BadInput(
            "trips", f"{split}.csv with times all equal", city_with({f"{split}.csv": _constant(files[f"{split}.csv"])})
        )
    train = city_files()["train.csv"]
    yield BadInput("trips", "train = val = test", city_with({"val.csv": train, "test.csv": train}))
    yield BadInput("trips", "train = test", city_with({"test.csv": train}))
    yield BadInput("trips", "a training trip in test", city_with({"test.csv": [*city_files()["test.csv"], train[2]]}))
    yield BadInput("trips", "a training trip in val", city_with({"val.csv": [*city_files()["val.csv"], train[4]]}))
    yield BadInput(
        "trips", "a test trip in val", city_with({"val.csv": [*city_files()["val.csv"], city_files()["test.csv"][1]]})
    )


def _trip_with(roads: str, place: int) -> Callable[[Path], Any]:
    return rewritten("test.csv", 1, place, roads)


def _constant(lines: list[str]) -> list[str]:
    """Return the trips with the time of their first road everywhere."""
    constant = [lines[0]]
    for line in lines[1:]:
        first = re.findall(r"2013-\S+?Z", line)[0]
        constant.append(re.sub(r"2013-\S+?Z", first, line))
    return constant


def bad_zones(same: Any) -> Iterator[BadInput]:
    """Yield partitions and transition counts that do not belong to the roads, or hold other numbers."""
    from hoser_kd.network.zones import PARTITION_FILE, TRANSITIONS_FILE

    count = 2 * BLOCKS
    good = "\n".join(str(road // BLOCKS) for road in range(count)) + "\n"

    def zones(text: str | bytes, matrix: Any = None) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            write_city(folder)
            (folder / PARTITION_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
            if isinstance(matrix, bytes):
                (folder / TRANSITIONS_FILE).write_bytes(matrix)
            elif matrix is not None:
                np.save(folder / TRANSITIONS_FILE, matrix, allow_pickle=True)
            return read_city_values(folder)

        return read

    for value in ("", "x", "-1", "0x1", "1.0", "1e0", "99999999999999999999", "１", "nan", "0 0"):
        yield BadInput("zones", f"a zone {value!r}", zones(good.replace("0\n", f"{value}\n", 1)))
    for label, text in (
        ("empty", ""),
        ("one too few", good[2:]),
        ("one too many", good + "0\n"),
        ("bytes", b"\xff" * count),
    ):
        yield BadInput("zones", f"partition {label}", zones(text))
    wrong: dict[str, Any] = {
        "of floats": np.ones((2, 2)),
        "of complex numbers": np.ones((2, 2), complex),
        "of truth values": np.ones((2, 2), bool),
        "of objects": np.array([[{}, 1], [1, 2]]),
        "of text": np.array([["1", "2"], ["3", "4"]]),
        "too small": np.ones((1, 1), int),
        "not square": np.ones((2, 3), int),
        "with three axes": np.ones((2, 2, 2), int),
        "a number": np.int64(3),
        "negative": -np.ones((2, 2), int),
        "of 2^63 and more": np.full((2, 2), 2**63, np.uint64),
        "of 2^64 - 1": np.full((2, 2), 2**64 - 1, np.uint64),
        "of 2^62": np.full((2, 2), 2**62),
        "of NaN": np.full((2, 2), np.nan),
        "of times": np.ones((2, 2), "timedelta64[s]"),
        "no array": b"PK",
        "cut": b"\x93NUMPY\x01\x00v\x00",
    }
    for label, matrix in wrong.items():
        yield BadInput("zones", f"transitions {label}", zones(good, matrix))
    expected = [(road // BLOCKS) for road in range(count)], [[0, 1], [1, 0]]
    yield BadInput(
        "zones", "transitions in int16", zones(good, np.array([[0, 1], [1, 0]], np.int16)), (*same[:-1], expected)
    )
