"""Trips: reading, rejected and dropped rows with error messages, and round trips through files."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.common.errors import DataError
from hoser_kd.network import road_network, trajectories
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories, concatenate, read_hoser, read_published_csv

T0 = 1446564223  # 2015-11-03T15:23:43Z
TIMES = [f"2015-11-03T15:23:{second}Z" for second in (43, 44, 45, 45, 59)]


@pytest.fixture(scope="module")
def network():
    """Five roads; road r is followed by r + 1 and r + 2."""
    lists = [[1, 2], [2, 3], [3, 4], [4], []]
    coords = np.column_stack([np.repeat(np.arange(6), 2)[1:-1] / 1000, np.zeros(10)])
    links = Csr(offsets_of(np.array([len(entry) for entry in lists])), np.concatenate(lists).astype(np.int64))
    return RoadNetwork(np.arange(0, 11, 2), coords, np.ones(5), np.full(5, "primary", object), links)


def _write(folder, rows, header=("mm_id", "entity_id", "traj_id", "rid_list", "time_list")):
    path = folder / "train.csv"
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return path


def _row(roads, times, name="a"):
    return [0, 1, name, roads, times]


GOOD = _row("0,1,3", ",".join(TIMES[:3]), "good")


# what is read


def test_arrays(tmp_path, network):
    trips = read_hoser(_write(tmp_path, [GOOD, _row("[2, 4]", f"{TIMES[0]},{TIMES[0]}", "b")]), network)
    assert len(trips) == 2
    assert trips.road_ids.tolist() == [0, 1, 3, 2, 4]
    assert trips.offsets.tolist() == [0, 3, 5]
    assert trips.times.tolist() == [T0, T0 + 1, T0 + 2, T0, T0]
    assert trips.times.dtype == trips.road_ids.dtype == trips.offsets.dtype == np.int64
    assert trips.ids.tolist() == ["good", "b"]
    assert trips.dropped == {}


def test_properties(tmp_path, network):
    trips = read_hoser(_write(tmp_path, [GOOD, _row("2,4", ",".join(TIMES[3:]))]), network)
    assert trips.lengths.tolist() == [3, 2]
    assert trips.num_steps == 3
    assert trips.origins.tolist() == [0, 2]
    assert trips.destinations.tolist() == [3, 4]
    assert trips.start_times.tolist() == [T0, T0 + 2]
    assert trips.roads(0).tolist() == [0, 1, 3]
    position, trip = trips.step_positions()
    assert position.tolist() == [0, 1, 3]
    assert trip.tolist() == [0, 0, 1]
    taken = trips.take(np.array([1, 0, 1]))
    assert [taken.roads(i).tolist() for i in range(3)] == [[2, 4], [0, 1, 3], [2, 4]]
    assert taken.ids.tolist() == ["a", "good", "a"]


def test_trips_without_ids(tmp_path, network):
    path = _write(tmp_path, [["0,1", ",".join(TIMES[:2])]], header=("rid_list", "time_list"))
    trips = read_hoser(path, network)
    assert trips.ids is None
    trips.save(tmp_path / "trips.arrow")
    assert Trajectories.load(tmp_path / "trips.arrow").ids.tolist() == ["0"]


def test_a_blank_id_can_be_kept(tmp_path, network):
    trips = read_hoser(_write(tmp_path, [_row("0,1", ",".join(TIMES[:2]), "")]), network)
    trips.save(tmp_path / "trips.arrow")
    assert Trajectories.load(tmp_path / "trips.arrow").ids.tolist() == [""]


def test_golden_city_is_read(golden):
    network = road_network.read_hoser(golden / "hoser_city")
    counts = [len(read_hoser(golden / "hoser_city" / f"{split}.csv", network)) for split in trajectories.SPLITS]
    assert counts == [200, 40, 40]


def test_porto_is_read(porto):
    network = road_network.read_hoser(porto)
    trips = concatenate(read_hoser(porto / f"{split}.csv", network) for split in trajectories.SPLITS)
    assert (len(trips), len(trips.road_ids), trips.num_steps) == (1865, 78410, 76545)
    assert str(np.datetime64(int(trips.start_times.min()), "s")).startswith("2013-07-01T")


# validation

LENGTHS = "rid_list and time_list differ in length"
SHORT = "fewer than 2 roads"
UNKNOWN = "a road id is not in roadmap.geo"
TIME = "a time is not formatted as YYYY-MM-DDTHH:MM:SSZ"
BACKWARDS = "a time is earlier than the previous one"
BROKEN = "a road is not connected to the previous one"

BAD = [
    ("0,1", TIMES[0], LENGTHS),
    ("0,1,2", f"{TIMES[0]},{TIMES[1]}", LENGTHS),
    ("0", TIMES[0], SHORT),
    ("", "", SHORT),
    ("0,5", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("-1,0", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("0,x", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("0,1.0", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("0,0 1", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("0,99999999999999999999", f"{TIMES[0]},{TIMES[1]}", UNKNOWN),
    ("0,1", f"{TIMES[0]},later", TIME),
    ("0,1", "2015-02-28T00:00:00Z,2015-02-30T00:00:00Z", TIME),
    ("0,1", "2015-11-03T15:23:43+08:00,2015-11-03T15:23:44+08:00", TIME),
    ("0,1", "2015-11-03T15:23:43,2015-11-03T15:23:44", TIME),
    ("0,1", "2015-11-03T15:23Z,2015-11-03T15:24Z", TIME),
    ("0,1", "2015-11-03,2015-11-04", TIME),
    ("0,1", "2015-11-03T15:23:43.5Z,2015-11-03T15:23:44Z", TIME),
    ("0,1", "2016-12-31T23:59:59Z,2016-12-31T23:59:60Z", TIME),
    ("0,1", f"{TIMES[1]},{TIMES[0]}", BACKWARDS),
    ("1,0", f"{TIMES[0]},{TIMES[1]}", BROKEN),
    ("0,0", f"{TIMES[0]},{TIMES[1]}", BROKEN),
    ("4,0", f"{TIMES[0]},{TIMES[1]}", BROKEN),
]


@pytest.mark.parametrize(("roads", "times", "reason"), BAD)
def test_invalid_rows_are_rejected_with_file_row_reason_and_fix(tmp_path, network, roads, times, reason):
    path = _write(tmp_path, [GOOD, GOOD, _row(roads, times), _row("0", TIMES[0])])
    with pytest.raises(DataError) as error:
        read_hoser(path, network)
    text = str(error.value)
    assert text.startswith(f"{path}, row 2: {reason}")
    assert "2 of 4 rows are invalid" in text
    assert "source.on_bad_row: drop" in text
    assert error.value.row == 2


@pytest.mark.parametrize(("roads", "times", "reason"), BAD)
def test_invalid_rows_are_dropped_and_counted_by_reason(tmp_path, network, roads, times, reason):
    bad = _row(roads, times)
    trips = read_hoser(_write(tmp_path, [bad, GOOD, bad, GOOD]), network, on_bad_row="drop")
    assert trips.road_ids.tolist() == [0, 1, 3] * 2
    assert trips.times.tolist() == [T0, T0 + 1, T0 + 2] * 2
    assert trips.ids.tolist() == ["good", "good"]
    assert len(trips.dropped) == 1
    [(message, count)] = trips.dropped.items()
    assert message.startswith(reason)
    assert count == 2


def test_each_dropped_row_is_counted_once(tmp_path, network):
    rows = [GOOD, *(_row(roads, times) for roads, times, _ in BAD)]
    trips = read_hoser(_write(tmp_path, rows), network, on_bad_row="drop")
    assert len(trips) == 1
    assert sum(trips.dropped.values()) == len(BAD)


def test_dropping_all_rows_is_an_error(tmp_path, network):
    with pytest.raises(DataError, match=r"all rows are invalid.*fewer than 2 roads"):
        read_hoser(_write(tmp_path, [_row("0", TIMES[0])]), network, on_bad_row="drop")


def test_an_empty_file_a_missing_column_and_a_missing_file_are_rejected(tmp_path, network):
    with pytest.raises(DataError, match="no trajectories"):
        read_hoser(_write(tmp_path, []), network)
    with pytest.raises(DataError, match="column time_list is missing"):
        read_hoser(_write(tmp_path, [["0,1"]], header=("rid_list",)), network)
    with pytest.raises(DataError, match="no such file"):
        read_hoser(tmp_path / "other.csv", network)


def test_an_unknown_mode_raises_value_error(tmp_path, network):
    with pytest.raises(ValueError, match="on_bad_row"):
        read_hoser(_write(tmp_path, [GOOD]), network, on_bad_row="skip")


# to disk and back

walks = st.lists(
    st.tuples(
        st.sampled_from([[0, 1], [0, 2, 4], [1, 3, 4], [0, 1, 2, 3, 4]]),
        st.integers(0, 2_000_000_000),
        st.integers(0, 4000),
    ),
    min_size=1,
    max_size=8,
)


def _trips(drawn):
    roads = [entry for walk, _, _ in drawn for entry in walk]
    times = [start + k * pace for walk, start, pace in drawn for k in range(len(walk))]
    offsets = offsets_of(np.array([len(walk) for walk, _, _ in drawn]))
    ids = np.array([f"trip {i}" for i in range(len(drawn))], object)
    return Trajectories(offsets, np.array(roads), np.array(times), ids)


def _assert_same(a, b):
    for name in ("offsets", "road_ids", "times"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@given(walks)
def test_hoser_csv_round_trip(tmp_path_factory, network, drawn):
    path, trips = tmp_path_factory.mktemp("csv") / "x.csv", _trips(drawn)
    trips.to_hoser_csv(path)
    back = read_hoser(path, network)
    _assert_same(back, trips)
    assert back.ids.tolist() == trips.ids.tolist()
    assert "np." not in path.read_text()


@given(walks)
def test_published_csv_round_trip(tmp_path_factory, network, drawn):
    path, trips = tmp_path_factory.mktemp("csv") / "x.csv", _trips(drawn)
    trips.to_published_csv(path)
    _assert_same(read_published_csv(path, network), trips)


def test_csv_text(tmp_path, network):
    trips = _trips([([0, 1], T0, 1)])
    trips.to_hoser_csv(tmp_path / "x.csv", entity_ids=np.array([77]))
    row = next(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert row == {
        "mm_id": "0",
        "entity_id": "77",
        "traj_id": "trip 0",
        "rid_list": "0,1",
        "time_list": "2015-11-03T15:23:43Z,2015-11-03T15:23:44Z",
    }
    trips.to_published_csv(tmp_path / "y.csv")
    row = next(csv.DictReader((tmp_path / "y.csv").read_text().splitlines()))
    assert row == {
        "gene_trace_road_id": "[0, 1]",
        "gene_trace_datetime": "['2015-11-03T15:23:43Z', '2015-11-03T15:23:44Z']",
    }


def test_a_generated_trip_may_have_one_road(tmp_path, network):
    trips = Trajectories(np.array([0, 1]), np.array([3]), np.array([T0]))
    trips.to_published_csv(tmp_path / "x.csv")
    _assert_same(read_published_csv(tmp_path / "x.csv", network), trips)


def _published(folder, roads, name="x.csv"):
    times = ", ".join(repr(time) for time in TIMES[:2])
    rows = [["[0, 1]", f"[{times}]"], [roads, f"[{times}]"]]
    return _write(folder, rows, ("gene_trace_road_id", "gene_trace_datetime")).rename(folder / name)


@pytest.mark.parametrize("roads", ["[np.int64(0), np.int64(2)]", "[0, numpy.int32(2)]", "np.uint8(0),2", "['0', '2']"])
def test_road_ids_as_numpy_prints_them_are_read(tmp_path, network, roads):
    assert read_published_csv(_published(tmp_path, roads), network).roads(1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("roads", "value"),
    [
        ("[0, np.int64(2]", "np.int64(2"),
        ("[0, np.int64(1+1)]", "np.int64(1+1)"),
        ("[0, np.float64(2)]", "np.float64(2)"),
        ("[0, np.int64(2)+0]", "np.int64(2)+0"),
        ("[0, __import__('os').getpid()]", "__import__('os').getpid()"),
        ("[0, np.int64(5)]", "np.int64(5)"),
    ],
)
def test_anything_else_than_a_road_id_is_refused_with_column_value_and_fix(tmp_path, network, roads, value):
    path = _published(tmp_path, roads)
    with pytest.raises(DataError) as error:
        read_published_csv(path, network)
    place = f"{path}, row 1: {UNKNOWN} (gene_trace_road_id, item 1: {value!r}); 1 of 2 rows are invalid."
    assert str(error.value).startswith(place)
    assert "roadmap.geo, times are written as" in str(error.value)


def test_splits_of_a_city_do_not_accept_the_spelling_of_numpy(tmp_path, network):
    row = _row("[np.int64(0), np.int64(1)]", ",".join(TIMES[:2]))
    with pytest.raises(DataError, match=r"rid_list, item 0: 'np\.int64\(0\)'"):
        read_hoser(_write(tmp_path, [row]), network)


@pytest.mark.parametrize(
    ("roads", "times", "place"),
    [
        ("0,1,3", f"{TIMES[0]},{TIMES[2]},{TIMES[1]}", f"time_list, item 2: {TIMES[1]!r}"),
        ("0,1", f"{TIMES[0]},2015", "time_list, item 1: '2015'"),
        ("0,1,0", ",".join(TIMES[:3]), "rid_list, item 2: '0'"),
    ],
)
def test_the_message_names_the_invalid_value(tmp_path, network, roads, times, place):
    with pytest.raises(DataError) as error:
        read_hoser(_write(tmp_path, [GOOD, _row(roads, times)]), network)
    assert f"({place})" in str(error.value)


@pytest.mark.parametrize(
    ("roads", "times", "note"),
    [
        ("0,1.0", TIMES[:2], "It is a decimal number: write 1."),
        ("np.int64(0),1", TIMES[:2], "as NumPy prints it: write 0."),
        ("0,0x1", TIMES[:2], "It is a hexadecimal number: write 1."),
        ("0,77", TIMES[:2], "Road ids are 0 to 4."),
        ("0,3", TIMES[:2], "Road 0 is followed by 1, 2, not by road 3."),
        ("0,0", TIMES[:2], "Road 0 is followed by 1, 2, not by road 0 (it repeats the road)."),
        ("4,0", TIMES[:2], "Road 4 is followed by none, not by road 0."),
        ("0,1", ["1446564223", "1446564224"], "It is a number of seconds or milliseconds"),
        ("0,1", TIMES[1::-1], f"The previous time is {TIMES[1]!r}."),
        ("0,1", ["1969-12-31T23:59:59Z", TIMES[0]], "a time is before 1970"),
        ("0,1", TIMES[:1], "(rid_list: 2, time_list: 1)"),
    ],
)
def test_the_message_says_what_the_value_is_and_what_stands_before_it(tmp_path, network, roads, times, note):
    with pytest.raises(DataError) as error:
        read_hoser(_write(tmp_path, [GOOD, _row(roads, ",".join(times))]), network)
    assert note in str(error.value)
    assert "on_bad_row: drop" in str(error.value)


def test_dropping_is_not_offered_where_nothing_would_be_left(tmp_path, network):
    with pytest.raises(DataError, match="no row is valid") as error:
        read_hoser(_write(tmp_path, [_row("0,7", ",".join(TIMES[:2]))] * 3), network)
    assert "on_bad_row" not in str(error.value)


def test_a_compressed_csv_is_read(tmp_path, network):
    path = _published(tmp_path, "[0, 2]")
    packed = tmp_path / "x.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    _assert_same(read_published_csv(packed, network), read_published_csv(path, network))


@given(walks)
def test_arrow_round_trip(tmp_path_factory, drawn):
    path, trips = tmp_path_factory.mktemp("arrow") / "x.arrow", _trips(drawn)
    trips.save(path)
    back = Trajectories.load(path)
    _assert_same(back, trips)
    assert back.ids.tolist() == trips.ids.tolist()


def test_loading_maps_the_file_into_memory(tmp_path):
    trips = Trajectories(np.arange(0, 2_000_001, 20), np.arange(2_000_000), np.arange(2_000_000))
    trips.save(tmp_path / "x.arrow")
    before = pa.total_allocated_bytes()
    back = Trajectories.load(tmp_path / "x.arrow")
    assert pa.total_allocated_bytes() - before < back.road_ids.nbytes / 10
    assert not back.road_ids.flags.writeable
    assert back.take(np.array([99_999])).road_ids[-1] == 1_999_999


def test_loading_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Trajectories.load(tmp_path / "x.arrow")


def test_table(network):
    table = _trips([([0, 1], T0, 1), ([0, 2, 4], T0, 0)]).to_table()
    assert table["road_ids"].to_pylist() == [[0, 1], [0, 2, 4]]
    assert table["times"][0][0].as_py().isoformat() == "2015-11-03T15:23:43+00:00"
    assert table["trajectory_id"].to_pylist() == ["trip 0", "trip 1"]


def test_concatenate_keeps_order_and_ids():
    a, b = _trips([([0, 1], T0, 1)]), _trips([([0, 2, 4], T0, 2), ([1, 3, 4], T0, 0)])
    both = concatenate([a, b])
    assert [both.roads(i).tolist() for i in range(3)] == [[0, 1], [0, 2, 4], [1, 3, 4]]
    assert both.ids.tolist() == ["trip 0", "trip 0", "trip 1"]
    assert concatenate([a, Trajectories(b.offsets, b.road_ids, b.times)]).ids is None


def test_a_trip_longer_than_a_megabyte_of_text_is_read(tmp_path):
    count = 60_000
    coords = np.zeros((4, 2))
    ring = RoadNetwork(
        np.array([0, 2, 4]), coords, np.ones(2), np.full(2, "x", object), Csr(np.array([0, 1, 2]), np.array([1, 0]))
    )
    trip = Trajectories(np.array([0, count]), np.arange(count) % 2, T0 + np.arange(count))
    trip.to_hoser_csv(tmp_path / "x.csv")
    _assert_same(read_hoser(tmp_path / "x.csv", ring), trip)
