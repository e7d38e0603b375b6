"""Wrong ODs, and wrong trips of other generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bad_input_kinds.base import NO_ID, NO_TIME, BadInput, written
from bad_input_kinds.small_city import write_city


def bad_ods() -> Iterator[BadInput]:
    """Yield OD files with one wrong value, as CSV and Parquet."""
    good = ["3", "5", "2013-07-01T08:30:00Z"]
    same = ([3], [5], [1_372_667_400])

    def ods(lines: list[str], name: str = "ods.csv") -> Callable[[Path], Any]:
        return lambda folder: _read_ods(written(folder / name, "\n".join(lines).encode()))

    header = "origin,destination,start_time"
    for place, values in ((0, NO_ID), (1, NO_ID), (2, NO_TIME)):
        for value in values:
            # whole seconds, and ids as spreadsheets write them, are valid in ODs
            if value in {"1372636800", "1.0", "+1"}:
                continue
            row = [f'"{value}"' if at == place else text for at, text in enumerate(good)]
            yield BadInput("ods", f"{header.split(',')[place]} = {value!r}", ods([header, ",".join(row)]))
    for value in ("1372667400", "1372667400.0", "2013-07-01 08:30:00Z", " 2013-07-01T08:30:00Z "):
        yield BadInput("ods", f"start_time = {value!r}", ods([header, f"3,5,{value}"]), same)
    for value in ("1372667400.5", "1e9", "-5", "253402300800", "true", "08:30", "2013-07-01T08:00:00Z+08:00"):
        yield BadInput("ods", f"start_time = {value!r}", ods([header, f"3,5,{value}"]))
    for label, lines in (
        ("empty", []),
        ("no rows", [header]),
        ("no header", [",".join(good)]),
        ("another name", ["from,to,at", "3,5,0"]),
        ("a column twice", ["origin,origin,destination,start_time", "3,4,5,0"]),
        ("semicolons", [header.replace(",", ";"), "3;5;0"]),
        ("ragged", [header, "3,5"]),
        ("too long", [header, "3,5,0,1"]),
        ("open quote", [header, '3,5,"0', "3,5,0"]),
    ):
        yield BadInput("ods", label, ods(lines))
    yield BadInput("ods", "a text named .parquet", ods([header, "3,5,0"], "ods.parquet"))
    yield from _bad_parquet_ods(same)


def _bad_parquet_ods(same: Any) -> Iterator[BadInput]:
    import pandas as pd

    time = pd.Timestamp("2013-07-01T08:30:00")
    stored: dict[str, tuple[Any, Any, Any]] = {
        "times in another zone": (3, 5, time.tz_localize("Asia/Shanghai")),
        "times with an offset": (3, 5, time.tz_localize("+08:00")),
        "times with fractions": (3, 5, time + pd.Timedelta("1ms")),
        "times in 1960": (3, 5, time - pd.Timedelta("20000D")),
        "times missing": (3, 5, pd.NaT),
        "seconds with fractions": (3, 5, 0.5),
        "milliseconds": (3, 5, 1_372_667_400_000),
        "truth values": (True, 5, time),
        "an id of 1.5": (1.5, 5, time),
        "an id of NaN": (np.nan, 5, time),
        "an id of 99": (3, 99, time),
        "an unsigned id of 2^64 - 1": (np.uint64(2**64 - 1), 5, time),
        "an id in a list": ([3], 5, time),
        "an id as bytes": (b"3", 5, time),
        "times as dates": (3, 5, time.date()),
        "a complex id as text": ("3+0j", 5, time),
    }
    for label, (origin, destination, start) in stored.items():

        def read(folder: Path, values: Any = (origin, destination, start)) -> Any:
            frame = pd.DataFrame(
                {name: [value] for name, value in zip(("origin", "destination", "start_time"), values, strict=True)}
            )
            frame.to_parquet(folder / "ods.parquet")
            return _read_ods(folder / "ods.parquet")

        yield BadInput("ods", f"Parquet: {label}", read)

    def right(folder: Path) -> Any:
        pd.DataFrame({"origin": [3.0], "destination": [5], "start_time": [time.tz_localize("UTC")]}).to_parquet(
            folder / "ods.parquet"
        )
        return _read_ods(folder / "ods.parquet")

    yield BadInput("ods", "Parquet: floats and UTC", right, same)


def _read_ods(file: Path) -> Any:
    from hoser_kd.generation.od_pairs import read_ods

    ods = read_ods(file, 8)
    return ods.origins.tolist(), ods.destinations.tolist(), ods.start_times.tolist()


def bad_generated_trips() -> Iterator[BadInput]:
    """Yield files of another generator's trips."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    header = "gene_trace_road_id,gene_trace_datetime"
    good_times = "['2013-07-01T00:00:00Z', '2013-07-01T00:00:20Z']"

    def trips(name: str, content: str | bytes) -> Callable[[Path], Any]:
        return lambda folder: _read_generated(
            folder, written(folder / name, content if isinstance(content, bytes) else content.encode())
        )

    for value in NO_ID:
        if value == "np.int64(1)":
            continue
        yield BadInput("generated", f"road id {value!r}", trips("x.csv", f'{header}\n"[0, {value}]","{good_times}"\n'))
    for value in NO_TIME:
        times = f"['2013-07-01T00:00:00Z', '{value}']"
        yield BadInput("generated", f"time {value!r}", trips("x.csv", f'{header}\n"[0, 1]","{times}"\n'))
    yield BadInput(
        "generated",
        "ids as NumPy prints them",
        trips("x.csv", f'{header}\n"[np.int64(0), np.int64(1)]","{good_times}"\n'),
        [0, 1],
    )
    kinds = {
        "times in another zone": pa.array([[0, 20]], pa.list_(pa.timestamp("s", tz="Asia/Shanghai"))),
        "times with fractions": pa.array([[500, 20_000]], pa.list_(pa.timestamp("ms"))),
        "milliseconds": pa.array([[1_372_636_800_000, 1_372_636_801_000]], pa.list_(pa.int64())),
        "times as text": pa.array([["2013-07-01T00:00:00Z"] * 2]),
        "times before 1970": pa.array([[-20, -10]], pa.list_(pa.int64())),
        "times as floats": pa.array([[0.5, 1.5]]),
    }
    for label, times in kinds.items():

        def read(folder: Path, times: pa.Array = times) -> Any:
            pq.write_table(pa.table({"road_ids": pa.array([[0, 1]]), "times": times}), folder / "x.parquet")
            return _read_generated(folder, folder / "x.parquet")

        yield BadInput("generated", f"Parquet: {label}", read)


def _read_generated(folder: Path, file: Path) -> Any:
    from hoser_kd.generation.trip_files import read_trips
    from hoser_kd.network.road_network import read_network

    (folder / "city").mkdir(exist_ok=True)
    return read_trips(file, read_network(write_city(folder / "city"))).trips.road_ids.tolist()
