"""Trips read block by block: the same trips, counts and messages as from the whole file, and the same file on disk."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pytest

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.network import csv_files
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.step_statistics import Steps, position_of_step
from hoser_kd.network.trajectories import Trajectories, concatenate, read_trips
from hoser_kd.network.trip_ids import TripIds, id_column, joined_ids, mapped_ids
from hoser_kd.network.trip_ingestion import ingest_trips

NUM_ROADS, NUM_TRIPS = 7, 400


@pytest.fixture(scope="module")
def network():
    """A ring: road r is followed by r + 1."""
    ends = np.arange(1, NUM_ROADS + 1) % NUM_ROADS
    coords = np.zeros((2 * NUM_ROADS, 2))
    links = Csr(np.arange(NUM_ROADS + 1), ends)
    names = np.full(NUM_ROADS, "primary", object)
    return RoadNetwork(np.arange(0, 2 * NUM_ROADS + 1, 2), coords, np.ones(NUM_ROADS), names, links)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some rows, so that a file of a few kilobytes has many."""
    monkeypatch.setattr(csv_files, "_BLOCK_SIZE", 2048)


def _trips(count=NUM_TRIPS, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, count)
    offsets = offsets_of(lengths)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    roads = (np.repeat(rng.integers(NUM_ROADS, size=count), lengths) + place) % NUM_ROADS
    times = np.repeat(rng.integers(1_500_000_000, size=count), lengths) + np.cumsum(rng.integers(0, 99, offsets[-1]))
    ids = np.array([f"tríp {number}" if number % 3 else "" for number in range(count)], object)
    return Trajectories(offsets, roads, times, ids)


def _rewrite(path, changes):
    """Replace values of a CSV file: {row: {column: text}}."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row, values in changes.items():
        rows[row] |= values
    with path.open("w", newline="") as lines:
        out = csv.DictWriter(lines, rows[0])
        out.writeheader()
        out.writerows(rows)


@pytest.mark.usefixtures("small_blocks")
def test_ingesting_writes_the_file_that_saving_writes(tmp_path, network):
    trips = _trips()
    trips.to_hoser_csv(tmp_path / "train.csv")
    ingested = ingest_trips(tmp_path / "train.csv", network, "refuse", tmp_path / "train.arrow")
    trips.save(tmp_path / "saved.arrow")
    assert (tmp_path / "train.arrow").read_bytes() == (tmp_path / "saved.arrow").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.arrow", "train.arrow", "train.csv"]
    assert ingested.ids.tolist() == trips.ids.tolist()
    assert ingested.dropped == {}
    read = read_trips(tmp_path / "train.csv", network)
    np.testing.assert_array_equal(read.road_ids, trips.road_ids)
    np.testing.assert_array_equal(read.ids, trips.ids)


BAD = {
    301: {"rid_list": "0,2,3"},
    333: {"time_list": "2015-11-03T15:23:43Z"},
    150: {"rid_list": "0,77"},
    390: {"rid_list": "0", "time_list": "2015-11-03T15:23:43Z"},
}


def test_blocks_change_neither_messages_nor_counts(tmp_path, network, monkeypatch):
    path = tmp_path / "train.csv"
    _trips().to_hoser_csv(path)
    _rewrite(path, BAD)
    texts, kept = [], []
    for block in (1 << 24, 2048):
        monkeypatch.setattr(csv_files, "_BLOCK_SIZE", block)
        with pytest.raises(DataError) as error:
            ingest_trips(path, network, "refuse", tmp_path / "x.arrow")
        texts.append((str(error.value), error.value.row))
        kept.append(ingest_trips(path, network, "drop", tmp_path / f"{block}.arrow"))
    assert texts[0] == texts[1]
    assert texts[0][1] == 150
    assert "4 of 400 rows are invalid. Road ids are 0 to 6." in texts[0][0]
    assert not (tmp_path / "x.arrow").exists()
    assert list(kept[0].dropped.items()) == list(kept[1].dropped.items())
    assert sum(kept[0].dropped.values()) == 4
    assert (tmp_path / f"{1 << 24}.arrow").read_bytes() == (tmp_path / "2048.arrow").read_bytes()
    assert len(kept[1]) == NUM_TRIPS - 4


@pytest.mark.usefixtures("small_blocks")
def test_a_row_with_too_few_values_is_named_in_any_block(tmp_path, network):
    path = tmp_path / "train.csv"
    _trips().to_hoser_csv(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:351], "1,2\n", *lines[351:]]))
    with pytest.raises(DataError, match=r"row 350: it has 2 values, but the header has 5 columns"):
        read_trips(path, network)


def test_chunks_are_all_trips_in_order():
    trips = _trips()
    parts = list(trips.chunks(64))
    assert len(parts) > 10
    assert all(part.offsets[0] == 0 and part.ids is None for part in parts)
    whole = concatenate(parts)
    for name in ("offsets", "road_ids", "times"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(trips, name))
    assert list(Trajectories(np.zeros(1, np.int64), trips.road_ids[:0], trips.times[:0]).chunks()) == []


def test_a_csv_of_several_chunks_is_that_of_one(tmp_path, monkeypatch):
    trips = _trips()
    for name in ("one", "many"):
        trips.to_hoser_csv(tmp_path / f"{name}.csv", entity_ids=np.arange(NUM_TRIPS) % 5)
        trips.to_published_csv(tmp_path / f"{name}_published.csv")
        monkeypatch.setattr(Trajectories.chunks, "__defaults__", (64,))
    for kind in ("", "_published"):
        assert (tmp_path / f"one{kind}.csv").read_bytes() == (tmp_path / f"many{kind}.csv").read_bytes()


def test_ids_are_indexed_like_an_array_of_strings():
    strings = np.array(["a", "", "ç", "dd"], object)
    ids = TripIds(pa.array(strings, pa.string()))
    assert (ids[2], ids[np.int64(-1)], len(ids)) == ("ç", "dd", 4)
    assert ids[1:3].tolist() == ["", "ç"]
    assert ids[np.array([3, 0])].tolist() == ["dd", "a"]
    assert ids[np.array([True, False, False, True])].tolist() == ["a", "dd"]
    assert list(ids) == strings.tolist()
    assert joined_ids([ids, strings]).tolist() == [*strings, *strings]
    assert pa.array(ids).equals(ids.texts)
    data = np.frombuffer("açdd".encode(), np.uint8)
    assert mapped_ids(data, np.array([1, 0, 2, 2])).tolist() == strings.tolist()
    assert id_column(None, 3).to_pylist() == ["0", "1", "2"]


def test_ids_longer_than_a_string_column_are_a_large_one(monkeypatch):
    monkeypatch.setattr("hoser_kd.network.trip_ids.MAX_STRING_BYTES", 3)
    strings = np.array(["ab", "cd"], object)
    assert id_column(strings, 2).type == pa.large_string()
    assert id_column(strings[:1], 1).type == pa.string()
    assert mapped_ids(np.frombuffer(b"abcd", np.uint8), np.array([2, 2])).tolist() == ["ab", "cd"]


def test_steps_by_number_are_those_of_all_steps():
    trips = _trips(60)
    at, _ = trips.step_positions()
    steps = Steps(trips)
    assert len(steps) == len(at)
    for first, last in ((0, len(at)), (3, 4), (10, 57), (len(at) - 1, len(at)), (5, 5)):
        np.testing.assert_array_equal(steps.positions(first, last), at[first:last])
        np.testing.assert_array_equal(
            steps.seconds(first, last), trips.times[at + 1][first:last] - trips.times[at][first:last]
        )
    some = np.array([0, 7, len(at) - 1])
    np.testing.assert_array_equal(position_of_step(trips, some), at[some])
