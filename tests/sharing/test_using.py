"""A student in three lines: requests as roads or points, exports, next-step probabilities, travel times."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from bokeh.models import MultiLine, ScaleBar

import hoser_kd as hk
from hoser_kd.common.errors import DataError
from hoser_kd.generation.generator import generate as generate_roads
from hoser_kd.generation.trip_files import read_trips
from hoser_kd.hoser import collate
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.sharing.exports import timed_coordinates
from hoser_kd.sharing.snapping import RoadIndex
from hoser_kd.sharing.student import Student

START = 1_683_000_000


@pytest.fixture(scope="module")
def requests(student):
    rng = np.random.default_rng(0)
    return (
        rng.integers(student.num_roads, size=6),
        START + np.arange(6) * 86_400,
        rng.integers(student.num_roads, size=6),
    )


@pytest.fixture(scope="module")
def trips(student, requests):
    return hk.generate(student, *requests)


def midpoints(student, roads):
    lines = student.network.geometry[roads]
    return shapely.get_coordinates(shapely.line_interpolate_point(lines, 0.5, normalized=True))


def test_trips_are_those_of_the_generator(student, requests, trips):
    plain = generate_roads(student.model, *requests)
    for name in ("offsets", "road_ids", "times", "reached", "expansions"):
        np.testing.assert_array_equal(getattr(trips, name), getattr(plain, name))
    bare = hk.generate(student.model, *requests)
    np.testing.assert_array_equal(bare.road_ids, plain.road_ids)
    assert trips.origin_snap_m is None


def test_what_a_person_prints_is_one_short_line(student, trips):
    steps = hk.next_step(student, [3], [START], [9])
    roads = trips.offsets[-1]
    assert repr(trips) == f"StudentTrips({len(trips)} trips, {roads} roads, {trips.reached.sum()} reached)"
    assert repr(steps) == f"NextSteps(1 histories, {len(steps.road_ids)} candidates)"
    assert repr(student.network) == f"RoadNetwork(127 roads, {len(student.network.successors.indices)} connections)"


def test_points_take_the_nearest_road_of_the_trips_direction(student, requests):
    """Most roads of the city have an opposite one with the same line, and the direction decides between them."""
    origins, times, destinations = requests
    start, end = midpoints(student, origins), midpoints(student, destinations)
    shift = np.array([0.0, 20 / 111_195])
    trips = hk.generate(student, start + shift, times.astype("datetime64[s]"), end)
    assert (trips.origin_snap_m <= 20.1).all()
    np.testing.assert_allclose(trips.destination_snap_m, 0, atol=0.01)
    network = student.network
    heading = (network.end - network.start)[:, ::-1]
    toward = end - start
    reverse = {tuple(map(tuple, line.coords[::-1])): road for road, line in enumerate(network.geometry)}
    compared = 0
    for roads in (trips.requested_origins, trips.requested_destinations):
        for road, along in zip(roads, toward, strict=True):
            opposite = reverse.get(tuple(network.geometry[road].coords))
            if opposite is not None:
                compared += 1
                assert heading[road] @ along >= heading[opposite] @ along
    assert compared > 4
    forms = [gpd.GeoSeries(shapely.points(start + shift), crs=4326).to_crs(3857), list(shapely.points(start + shift))]
    for form in forms:
        again = hk.generate(student, form, times, end)
        np.testing.assert_array_equal(again.road_ids, trips.road_ids)
    frame = trips.to_pandas()
    np.testing.assert_allclose(frame["origin_snap_m"], trips.origin_snap_m, atol=0.01)


def test_the_nearest_road_equals_a_search_of_all(small_city):
    network = small_city.network
    low, high = network.coords.min(0), network.coords.max(0)
    points = np.random.default_rng(1).uniform(low - 0.001, high + 0.001, (40, 2))
    roads, distance_m = RoadIndex(network).nearest(points)
    scale = 6371008.8 * np.radians(1) * np.array([np.cos(np.radians(network.coords[:, 1].mean())), 1])
    lines = np.array([shapely.LineString(np.array(line.coords) * scale) for line in network.geometry])
    every = shapely.distance(shapely.points(points * scale)[:, None], lines)
    np.testing.assert_allclose(distance_m, every.min(1), atol=0.5)
    np.testing.assert_allclose(every[np.arange(40), roads], distance_m, atol=1e-6)
    # of the roads that are equally near, the one of the lowest id
    np.testing.assert_array_equal(roads, (every <= every.min(1)[:, None] + 0.4).argmax(1))
    assert RoadIndex(network).nearest(np.zeros((0, 2)))[0].shape == (0,)


def test_exports_hold_the_same_trips(student, trips, tmp_path):
    trips.to_csv(tmp_path / "trips.csv")
    trips.to_parquet(tmp_path / "trips.parquet")
    for name in ("trips.csv", "trips.parquet"):
        stored = read_trips(tmp_path / name, student.network)
        for field in ("offsets", "road_ids", "times"):
            np.testing.assert_array_equal(getattr(stored.trips, field), getattr(trips, field))
    np.testing.assert_array_equal(read_trips(tmp_path / "trips.csv", student.network).origins, trips.requested_origins)
    frame = trips.to_pandas()
    assert list(frame["road_ids"][2]) == trips.roads(2).tolist()
    assert (frame["end_time"] - frame["start_time"]).dt.total_seconds().tolist() == frame["duration_s"].tolist()
    again = hk.generate(student, frame["origin_road_id"], frame["start_time"], frame["destination_road_id"])
    np.testing.assert_array_equal(again.times, trips.times)
    rows = trips.to_pandas(rows="roads")
    assert rows["time"].dt.tz is None
    assert rows["road_id"].tolist() == trips.road_ids.tolist()
    assert rows["position"].tolist()[: trips.lengths[0] + 1] == [*range(trips.lengths[0]), 0]
    lines = trips.to_geodataframe()
    assert lines.crs == "EPSG:4326"
    meters = lines.to_crs(lines.estimate_utm_crs()).length
    np.testing.assert_allclose(meters, lines["length_m"], rtol=0.05)
    part = trips.take(np.array([3, 1]))
    assert part.to_pandas()["trajectory_id"].tolist() == ["3", "1"]
    assert part.to_geodataframe().geometry.iloc[1].equals(lines.geometry.iloc[1])


def test_geojson_opens_as_lines_and_as_animated_trips(trips, tmp_path):
    trips.to_geojson(tmp_path / "trips.geojson")
    read = gpd.read_file(tmp_path / "trips.geojson")
    assert read.geometry.geom_equals_exact(trips.to_geodataframe().geometry, 1e-9).all()
    assert read["origin_road_id"].tolist() == trips.requested_origins.tolist()
    trips.to_geojson(tmp_path / "timed.geojson", with_times=True)
    features = json.loads((tmp_path / "timed.geojson").read_text())["features"]
    for row, feature in enumerate(features):
        coords = np.array(feature["geometry"]["coordinates"])
        assert coords.shape[1] == 4
        assert (np.diff(coords[:, 3]) >= 0).all()
        assert coords[[0, -1], 3].tolist() == trips.times[[trips.offsets[row], trips.offsets[row + 1] - 1]].tolist()


def test_the_time_of_a_coordinate_is_interpolated_by_distance(student):
    road = int(np.argmax(np.diff(student.network.coord_offsets)))
    following = int(student.network.successors.row(road)[0])
    trips = hk.travel_times(student, [[road, following]], [START])
    coords, offsets = timed_coordinates(trips, student.network)
    assert offsets.tolist() == [0, len(coords)]
    scale = [np.cos(np.radians(student.network.coords[:, 1].mean())), 1]
    line = shapely.LineString(np.array(student.network.geometry[road].coords) * scale)
    duration = trips.times[1] - trips.times[0]
    inner = coords[: len(line.coords)]
    lengths = np.array([line.project(shapely.Point(point)) for point in inner[:, :2] * scale])
    np.testing.assert_allclose(inner[:, 3] - START, lengths / line.length * duration, atol=0.001 * duration)


def test_libcity_has_geo_rel_usr_dyna_and_config(student, trips, tmp_path):
    trips.to_libcity(tmp_path / "town")
    geo = pd.read_csv(tmp_path / "town" / "town.geo")
    assert geo["geo_id"].tolist() == list(range(student.num_roads))
    assert [tuple(point) for point in json.loads(geo["coordinates"][3])] == list(student.network.geometry[3].coords)
    rel = pd.read_csv(tmp_path / "town" / "town.rel")
    assert rel["destination_id"].tolist() == student.network.successors.indices.tolist()
    dyna = pd.read_csv(tmp_path / "town" / "town.dyna")
    assert dyna["location"].tolist() == trips.road_ids.tolist()
    assert pd.to_datetime(dyna["time"]).astype("datetime64[s, UTC]").astype("int64").tolist() == trips.times.tolist()
    assert dyna["entity_id"].nunique() == len(pd.read_csv(tmp_path / "town" / "town.usr")) == len(trips)
    assert json.loads((tmp_path / "town" / "config.json").read_text())["info"]["geo_file"] == "town"


def test_next_steps_equal_the_forward_pass(student, trips):
    network = student.network
    whole = trips.take(np.flatnonzero(trips.lengths > 3)[:2])
    steps = hk.next_step(
        student,
        [whole.roads(0)[:3].tolist(), whole.roads(1)[:1]],
        [whole.times[:3].tolist(), whole.times[whole.offsets[1] : whole.offsets[1] + 1]],
        whole.destinations,
    )
    batch = collate(whole, np.arange(2), whole.destinations)
    with torch.no_grad():
        output = student.model(batch, all_times=True)
    for row, step in ((0, 2), (1, 0)):
        mask = output.candidate_mask[row, step]
        here = slice(steps.offsets[row], steps.offsets[row + 1])
        assert steps.road_ids[here].tolist() == network.successors.row(steps.last_roads[row]).tolist()
        expected = output.logits[row, step][mask].softmax(0).numpy()
        np.testing.assert_allclose(steps.probabilities[here], expected, atol=1e-5)
        seconds = student.model.time_scale.seconds(output.all_times[row, step][mask]).numpy()
        np.testing.assert_allclose(steps.seconds[here], seconds, rtol=1e-4)


def test_batches_change_nothing(student, trips, monkeypatch):
    together = hk.next_step(student, trips, None, trips.requested_destinations)
    times = hk.travel_times(student, trips, trips.start_times).times
    monkeypatch.setattr("hoser_kd.sharing.predictions.BATCH_ROADS", 12)
    apart = hk.next_step(student, trips, None, trips.requested_destinations)
    np.testing.assert_array_equal(apart.road_ids, together.road_ids)
    np.testing.assert_allclose(apart.probabilities, together.probabilities, atol=1e-6)
    np.testing.assert_array_equal(hk.travel_times(student, trips, trips.start_times).times, times)


def test_next_steps_have_the_exports_of_trips(student, requests, tmp_path):
    origins, times, destinations = requests
    points = midpoints(student, destinations)
    steps = hk.next_step(student, origins, times, points)
    frame = steps.to_pandas()
    np.testing.assert_allclose(frame.groupby("history")["probability"].sum(), 1)
    assert frame["destination_snap_m"].max() < 0.01
    steps.to_csv(tmp_path / "next.csv")
    steps.to_parquet(tmp_path / "next.parquet")
    steps.to_geojson(tmp_path / "next.geojson")
    assert len(pd.read_csv(tmp_path / "next.csv")) == len(pd.read_parquet(tmp_path / "next.parquet")) == len(frame)
    assert gpd.read_file(tmp_path / "next.geojson")["road_id"].tolist() == frame["road_id"].tolist()


def test_travel_times_are_those_of_generated_trips(student, trips):
    routes = [trips.roads(row).tolist() for row in range(len(trips)) if trips.reached[row]]
    kept = trips.take(np.flatnonzero(trips.reached))
    assert len(routes) > 2
    again = hk.travel_times(student, routes, kept.start_times)
    np.testing.assert_array_equal(again.times, kept.times)
    np.testing.assert_array_equal(hk.travel_times(student, kept, kept.start_times).times, kept.times)


def test_a_map_holds_all_it_needs(trips, tmp_path):
    shown = hk.trip_map({"vanilla": trips, "other": trips.take(np.arange(3))}, max_trips=4)
    shown.save(tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    assert "vanilla (first 4 of 6)" in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
    paths = [
        source.data["xs"] for source in shown.figure.select({"type": object}) if "xs" in getattr(source, "data", {})
    ]
    assert sorted(len(lines) for lines in paths) == [3, 4]
    assert shown.figure.match_aspect
    assert shown.figure.legend.location != shown.figure.select_one(ScaleBar).location
    # "vanilla" has a color of its own, that of the second set otherwise
    colors = {glyph.line_color for glyph in shown.figure.select({"type": MultiLine})}
    assert len(colors & {"#0072B2", "#E69F00", "#009E73"}) == 2


def far(student):
    return student.network.coords.mean(0)[::-1]


def _wrong_calls(student, trips):
    road, time = [1], [START]
    points = midpoints(student, np.array([1]))
    call, step_call = r"Call generate\(student, origins", r"Call next_step\(student, histories"
    yield hk.generate, ("student", road, time, road), {}, TypeError, f"student is of type str.*{call}"
    yield hk.generate, (student, [0.5], time, road), {}, TypeError, rf"neither road ids.*nor points.*{call}"
    yield hk.generate, (student, road, time, points[0]), {}, TypeError, r"destinations has shape \(2,\)"
    yield hk.generate, (student, [[0.0, np.nan]], time, road), {}, DataError, r"origins, row 0: \(0, nan\) is no point"
    yield hk.generate, (student, [far(student)], time, road), {}, DataError, "this one looks exchanged"
    yield hk.generate, (student, [[3.0, 40.0]], time, road), {}, DataError, r"m from the nearest.*roads are within"
    yield hk.generate, (student, points + 0.001, time, road), {"max_snap_m": 1}, DataError, "more than max_snap_m = 1"
    yield hk.generate, (student, points, time, road), {"max_snap_m": 0}, ValueError, f"max_snap_m is 0.*{call}"
    zoned = pd.Series([datetime(2023, 5, 1, tzinfo=UTC)])
    yield hk.generate, (student, road, zoned, road), {}, ValueError, "start_times has the time zone UTC.*tz_localize"
    yield hk.generate, (student, road, list(zoned), road), {}, ValueError, "start_times has the time zone UTC"
    bare = gpd.GeoSeries(shapely.points(points))
    yield hk.generate, (student, bare, time, road), {}, ValueError, r"origins has no CRS.*set_crs"
    lines = [student.network.geometry[1]]
    yield hk.generate, (student, lines, time, road), {}, TypeError, f"geometries that are no points.*{call}"
    yield hk.generate, (student.model, points, time, road), {}, ValueError, "without its road network.*load_student"
    yield hk.next_step, (student, road, time), {}, TypeError, f"destinations is missing.*{step_call}"
    yield hk.next_step, (student, road, None, road), {}, TypeError, f"times is missing.*{step_call}"
    yield hk.next_step, (student, trips, time, road), {}, TypeError, "the Trajectories hold times"
    yield hk.next_step, (student, [road], [[START, START]], road), {}, DataError, "row 0: 1 roads and 2 times"
    yield hk.next_step, (student, [[]], [[]], road), {}, DataError, "histories, row 0: no road"
    yield hk.next_step, (student, [999], time, road), {}, DataError, "histories, row 0: road 999 does not exist"
    yield hk.next_step, (student, road, time, [999]), {}, DataError, "destinations, row 0: road 999"
    yield hk.next_step, (student, [[1, 1]], [[START, START]], road), {}, DataError, "road 1 does not follow road 1"
    follows = [1, int(student.network.successors.row(1)[0])]
    yield hk.next_step, (student, [follows], [[9, 8]], road), {}, DataError, "row 0: a time is earlier"
    yield hk.next_step, (student, road, [-5], road), {}, DataError, "before 1970"
    yield hk.next_step, (student, "1", time, road), {}, TypeError, f"histories is of type str.*{step_call}"
    yield hk.travel_times, (student, [follows], [1, 2]), {}, ValueError, r"differ in length \(1, 2\)"
    yield hk.trip_map, ([1],), {}, TypeError, r"trips is of type list, not trips. Call trip_map\("
    yield hk.trip_map, (Trajectories(np.zeros(1, np.int64), *[np.zeros(0, np.int64)] * 2),), {}, ValueError, "the roads"
    yield trips.to_csv, (None,), {}, TypeError, r"path is of type NoneType.*trips.to_csv"
    yield trips.to_pandas, ("steps",), {}, ValueError, "rows must be 'trips' or 'roads', not 'steps'"
    yield Student, ("model",), {}, TypeError, "model is of type str, not a HOSER"


def test_wrong_arguments_are_refused_with_the_right_call(student, trips):
    for function, arguments, keywords, error, message in _wrong_calls(student, trips):
        with pytest.raises(error, match=message):
            pytest.fail(f"{function.__name__} accepts {arguments}: {function(*arguments, **keywords)!r}")


def test_no_requests_give_no_trips(student, tmp_path):
    none = np.zeros(0, np.int64)
    trips = hk.generate(student, none, none, none)
    assert len(trips.to_pandas()) == 0
    trips.to_csv(tmp_path / "none.csv")
    trips.to_geojson(tmp_path / "none.geojson", with_times=True)
    assert json.loads((tmp_path / "none.geojson").read_text())["features"] == []
    assert len(hk.next_step(student, none, none, none).to_pandas()) == 0
    assert len(hk.travel_times(student, [], none)) == 0
