"""Files of trips of any generator: three layouts give the same trips; invalid files give one clear message."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_city import grid_network, random_trips

from hoser_kd.common.errors import DataError
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.generation.trip_files import read_trips

NETWORK = grid_network()
TRIPS = random_trips(NETWORK, 12, seed=3, lengths=(1, 9))
LAYOUTS = (
    "trips.parquet",
    "plain.parquet",
    "published.csv",
    "numpy.csv",
    "hoser.csv",
    "published.csv.gz",
    "hoser.csv.gz",
)


def write(folder, name):
    """Write TRIPS in a layout."""
    path = folder / name
    plain = folder / name.removesuffix(".gz")
    if name == "trips.parquet":
        n = len(TRIPS)
        generated = GeneratedTrajectories(
            TRIPS.offsets, TRIPS.road_ids, TRIPS.times, reached=np.ones(n, bool), expansions=np.ones(n, np.int64)
        )
        pq.write_table(generated.to_table(), path)
    elif name == "plain.parquet":
        table = TRIPS.to_table().select(["road_ids", "times"])
        pq.write_table(pa.concat_tables([table.slice(0, 5), table.slice(5)]), path, row_group_size=4)
    elif plain.name == "hoser.csv":
        TRIPS.to_hoser_csv(plain)
    else:
        TRIPS.to_published_csv(plain)
    if name == "numpy.csv":
        rows = list(csv.reader(plain.read_text().splitlines()))
        for row in rows[1:]:
            row[0] = "[" + ", ".join(f"np.int64({road})" for road in row[0].strip("[]").split(", ")) + "]"
        with plain.open("w", newline="") as out:
            csv.writer(out).writerows(rows)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_trips(tmp_path, name):
    file = read_trips(write(tmp_path, name), NETWORK)
    for column in ("offsets", "road_ids", "times"):
        np.testing.assert_array_equal(getattr(file.trips, column), getattr(TRIPS, column))
    expected = {"trips": "parquet", "plain": "parquet", "numpy": "published"}
    stem = name.partition(".")[0]
    assert file.layout == expected.get(stem, stem)
    assert file.destinations is None


def published(folder, rows, header=("gene_trace_road_id", "gene_trace_datetime")):
    path = folder / "trips.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return path


ROAD = int(TRIPS.roads(0)[0])
GOOD = [f"[{ROAD}]", "['2013-07-01T00:01:15Z']"]


def test_requested_roads_are_read(tmp_path):
    header = ("destination_road_id", "gene_trace_road_id", "gene_trace_datetime", "origin_road_id")
    file = read_trips(published(tmp_path, [["7", *GOOD, "5"]], header), NETWORK)
    assert (file.origins.tolist(), file.destinations.tolist()) == ([5], [7])


def test_a_requested_road_must_exist(tmp_path):
    header = ("gene_trace_road_id", "gene_trace_datetime", "origin_road_id", "destination_road_id")
    path = published(tmp_path, [[*GOOD, "1", "1"], [*GOOD, "1", "999"]], header)
    with pytest.raises(DataError, match=r"row 1: destination_road_id is 999, not a road\. Road ids run from 0 to"):
        read_trips(path, NETWORK)


def parquet(folder, **columns):
    path = folder / "trips.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def binary(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


TIME = [pa.scalar(0, pa.timestamp("s")).as_py()]
INVALID = {
    "missing": (lambda f: f / "none.csv", "no such file. A file of trips is a CSV"),
    "other columns": (lambda f: published(f, [["1", "2"]], ("a", "b")), "no column with trips; the columns are: a, b."),
    "one column": (
        lambda f: published(f, [["[1]"]], ("rid_list",)),
        "column time_list is missing; there are: rid_list. Required columns: ",
    ),
    "no row": (lambda f: published(f, []), "no trajectories."),
    "lengths": (
        lambda f: published(f, [GOOD, ["[1, 2]", GOOD[1]]]),
        "row 1: gene_trace_road_id and gene_trace_datetime",
    ),
    "unknown road": (
        lambda f: published(f, [["[5000]", GOOD[1]]]),
        "row 0: a road id is not in roadmap.geo (gene_trace_road_id, item 0: '5000')",
    ),
    "time": (lambda f: published(f, [[GOOD[0], "['1372637475']"]]), "(gene_trace_datetime, item 0: '1372637475')"),
    "not connected": (
        lambda f: published(f, [[f"[{ROAD}, {ROAD}]", "['2013-07-01T00:01:15Z', '2013-07-01T00:01:15Z']"]]),
        f"(gene_trace_road_id, item 1: '{ROAD}')",
    ),
    "UTF-16": (lambda f: binary(f, "x.csv", b"\xff\xfe\x00"), "is text in UTF-16, not in UTF-8. Save the file as CSV"),
    "not text": (
        lambda f: binary(f, "x.csv", b"a,b\n\x80\x81"),
        "row 0: byte 0 of the row is not UTF-8. Save the file as CSV",
    ),
    "not gzip": (lambda f: binary(f, "x.csv.gz", b"gene_trace_road_id"), "A name that ends in .gz is a gzip file."),
    "cut gzip": (
        lambda f: binary(f, "x.csv.gz", gzip.compress(b"rid_list,time_list\n" + str(2**8000).encode())[:200]),
        "cannot be read",
    ),
    "not parquet": (lambda f: binary(f, "x.parquet", b"PAR"), "cannot be read as Parquet"),
    "parquet column": (lambda f: parquet(f, road_ids=[[1]]), "column times is missing."),
    "parquet type": (
        lambda f: parquet(f, road_ids=["1,2"], times=[TIME]),
        "column road_ids holds string, not lists of",
    ),
    "parquet empty": (lambda f: parquet(f, road_ids=pa.array([], pa.list_(pa.int64())), times=[]), "no trips."),
    "parquet road": (
        lambda f: parquet(f, road_ids=[[1], [-4]], times=[TIME, TIME]),
        "row 1: a road id is not in roadmap.geo (road_ids, item 0: -4); 1 of 2 rows are invalid. Fix the row",
    ),
    "parquet null": (lambda f: parquet(f, road_ids=[[1], [None]], times=[TIME, TIME]), "row 1: a road id is not in"),
    "parquet null row": (lambda f: parquet(f, road_ids=[[1], None], times=[TIME, None]), "row 1: fewer than 1 roads"),
    "parquet lengths": (
        lambda f: parquet(f, road_ids=[[1], [1]], times=[TIME, TIME * 2]),
        "row 1: 1 roads and 2 times; road_ids and times differ in length.",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_file_gives_one_message_with_the_place(tmp_path, case):
    make, message = INVALID[case]
    path = make(tmp_path)
    with pytest.raises(DataError) as error:
        read_trips(path, NETWORK)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
