"""The teacher's grid: parity with the published formulas, properties of tokens, and validation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.common.arrays import Csr
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.bounds import Bounds
from hoser_kd.config.grid import GridConfig
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.grid.spec import GridSpec, RoadTokens, bounds_source, choose_grid, config_fallbacks
from hoser_kd.grid.token_table import cells_frame, corpus_tokens, coverage, resolution, token_table
from hoser_kd.network import road_network, trajectories
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.synthetic.city import make_city
from hoser_kd.network.trajectories import SPLITS, Trajectories

PORTO = {
    "min_lat": 41.140092,
    "max_lat": 41.185969,
    "min_lng": -8.690261,
    "max_lng": -8.549155,
    "cell_lat": 0.1 / 110.574,
    "cell_lng": 0.1 / 111.320 / 0.99974,
}


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = make_city(tmp_path_factory.mktemp("city"), SyntheticConfig(blocks=(8, 8), num_trips=60))
    network = road_network.read_hoser(folder)
    return network, trajectories.read_hoser(folder / "train.csv", network)


def _network(centers):
    """A network whose roads are short lines centered on (lat, lon) `centers`, each followed by all others."""
    count = len(centers)
    middle = np.repeat(np.asarray(centers, float)[:, ::-1], 2, axis=0)
    coords = middle + np.tile([[-1e-9, 0.0], [1e-9, 0.0]], (count, 1))
    others = np.array([[j for j in range(count) if j != i] for i in range(count)], np.int64)
    return RoadNetwork(
        np.arange(0, 2 * count + 1, 2),
        coords,
        np.ones(count),
        np.array(["primary"] * count, object),
        Csr(np.arange(0, count * (count - 1) + 1, count - 1), others.ravel()),
    )


# parity with the published code


@pytest.fixture(scope="module")
def grid_golden(golden):
    expected = json.loads((golden / "grid_golden.json").read_text())
    return expected, road_network.read_hoser(golden / "hoser_city").centroids


def test_square_degree_grid_matches_the_published_mapper(grid_golden):
    expected, centers = grid_golden
    grid = GridSpec(**expected["boundary"], cell_lat=expected["grid_size"], cell_lng=expected["grid_size"])
    assert list(grid.shape) == expected["grid_hw"]
    tokens = grid.tokenize(*centers.T)
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, expected["road_to_token_float64_centroids"])


def test_downsampling_matches_the_published_mapper(grid_golden):
    expected, centers = grid_golden
    size = expected["grid_size"]
    grid = GridSpec(**expected["boundary"], cell_lat=size, cell_lng=size, downsample_factor=2)
    assert list(grid.shape) == expected["downsample2"]["grid_hw"]
    np.testing.assert_array_equal(grid.tokenize(*centers.T), expected["downsample2"]["road_to_token"])


def test_kilometer_grid_matches_the_published_preprocessing(grid_golden):
    expected, centers = grid_golden
    official = expected["official_preprocess_porto"]
    grid = GridSpec(
        **expected["boundary"],
        cell_lat=official["grid_height_km"] / 110.574,
        cell_lng=official["grid_width_km"] / 111.320 / 0.99974,
    )
    assert list(grid.shape) == official["grid_hw"]
    np.testing.assert_array_equal(grid.tokenize(*centers.T), official["road_to_token"])


def test_published_porto_constants_give_the_published_shape():
    grid = GridSpec(**PORTO)
    assert grid.shape == (51, 158)
    assert grid.num_labels + grid.shape[1] + 1 + 3 == 8220


def test_porto_resolution(porto):
    """The share of real choices whose candidates lie in more than one cell grows as cells shrink."""
    network = road_network.read_hoser(porto)
    trips = trajectories.concatenate([trajectories.read_hoser(porto / f"{s}.csv", network) for s in SPLITS])
    south, west = network.centroids.min(0)
    north, east = network.centroids.max(0)
    shares = {}
    for size_m in (100, 50, 25):
        grid = GridSpec(south, north, west, east, size_m / 1000 / 110.574, size_m / 1000 / 111.320 / 0.99974)
        shares[size_m] = resolution(grid.tokenize(*network.centroids.T), network, trips)
    assert [round(shares[size]["distinguishable_share"], 2) for size in (100, 50, 25)] == [0.65, 0.83, 0.92]
    assert shares[100]["steps"] == 76545
    assert shares[100]["choices"] == 39388


# properties


def _grid(corner, size, cell, factor):
    (lat, lng), (height, width) = corner, size
    north, east = lat + height, lng + width
    return GridSpec(lat, north, lng, east, min(cell[0], north - lat), min(cell[1], east - lng), factor)


grids = st.builds(
    _grid,
    st.tuples(st.floats(-80, 70), st.floats(-170, 160)),
    st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)),
    st.tuples(st.floats(0.003, 0.7), st.floats(0.003, 0.7)),
    st.integers(1, 5),
)
points = st.lists(st.tuples(st.floats(-89, 89), st.floats(-179, 179)), min_size=1, max_size=30)


@given(grids, points)
def test_tokens_are_in_range_and_clamped_exactly_outside(grid, where):
    lat, lng = np.array(where).T
    height, width = grid.shape
    # a token of points that are all outside is refused
    lat, lng = np.append(lat, grid.min_lat), np.append(lng, grid.min_lng)
    cells = grid.cell_of(lat, lng)
    tokens = grid.tokenize(lat, lng)
    assert ((tokens >= 0) & (tokens < grid.num_labels)).all()
    np.testing.assert_array_equal(tokens, cells.row * width + cells.column)
    outside = (lat < grid.min_lat) | (lng < grid.min_lng)
    assert cells.clamped[outside].all()
    well_inside = (
        (lat > grid.lat_edges[0])
        & (lat < grid.lat_edges[-1] - 1e-9)
        & (lng > grid.lng_edges[0])
        & (lng < grid.lng_edges[-1] - 1e-9)
    )
    assert not cells.clamped[well_inside].any()
    assert (cells.row[lat <= grid.min_lat] == 0).all()
    assert (cells.row[lat > grid.lat_edges[-1] + 1e-9] == height - 1).all()


@given(grids, st.lists(st.floats(-89, 89), min_size=2, max_size=30))
def test_rows_and_columns_grow_with_latitude_and_longitude(grid, values):
    ordered = np.sort(np.array(values))
    assert (np.diff(grid.cell_of(ordered, np.zeros_like(ordered)).row) >= 0).all()
    assert (np.diff(grid.cell_of(np.zeros_like(ordered), ordered).column) >= 0).all()


@given(grids, st.data())
def test_every_point_of_a_cells_polygon_has_its_token(grid, data):
    width = grid.shape[1]
    token = data.draw(st.integers(0, grid.num_labels - 1))
    frame = cells_frame(grid, np.array([token, token]))
    assert frame.loc[0, ["token", "roads"]].tolist() == [token, 2]
    assert (frame["row"][0], frame["column"][0]) == divmod(token, width)
    west, south, east, north = frame.geometry[0].bounds
    u, v = data.draw(st.tuples(st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6)))
    assert grid.tokenize(south + u * (north - south), west + v * (east - west)) == token


@given(st.integers(0, 10_000))
def test_a_shift_by_half_a_cell_moves_most_points(seed):
    rng = np.random.default_rng(seed)
    lat, lng = rng.uniform(0, 1, 400), rng.uniform(0, 1, 400)
    grid = GridSpec(0, 1, 0, 1, 0.05, 0.05)
    shifted = GridSpec(-0.025, 0.975, -0.025, 0.975, 0.05, 0.05)
    assert (grid.tokenize(lat, lng) != shifted.tokenize(lat, lng)).mean() > 0.5


@given(grids)
def test_merged_cells_are_unions_of_finer_cells(grid):
    fine = GridSpec(grid.min_lat, grid.max_lat, grid.min_lng, grid.max_lng, grid.cell_lat, grid.cell_lng)
    assert grid.shape == tuple(max(1, side // grid.downsample_factor) for side in fine.shape)
    lat = np.linspace(grid.min_lat, grid.max_lat, 50)
    lng = np.linspace(grid.min_lng, grid.max_lng, 50)
    merged, single = grid.cell_of(lat, lng), fine.cell_of(lat, lng)
    factor = grid.downsample_factor
    np.testing.assert_array_equal(merged.row, np.minimum(single.row // factor, grid.shape[0] - 1))
    np.testing.assert_array_equal(merged.column, np.minimum(single.column // factor, grid.shape[1] - 1))


def test_scalars_and_shapes():
    grid = GridSpec(0, 1, 0, 1, 0.1, 0.1)
    assert grid.tokenize(0.35, 0.25) == 3 * 11 + 2
    assert grid.tokenize(np.full((2, 3), 0.35), np.full((2, 3), 0.25)).shape == (2, 3)


def test_float32_points_are_computed_in_float64():
    lat = np.float32(41.15)
    grid = GridSpec(**PORTO)
    assert grid.tokenize(lat, -8.6) == grid.tokenize(float(lat), -8.6)


def test_points_that_are_all_outside_are_rejected():
    grid = GridSpec(**PORTO)
    lat, lng = np.array([41.15, 41.16]), np.array([-8.6, -8.61])
    with pytest.raises(ValueError, match=r"none of the 2 points lies inside.* exchanged\. Call tokenize\(lat, lng\)"):
        grid.tokenize(lng, lat)
    with pytest.raises(ValueError, match=r"none of the 1 points lies inside.*the grid is that of this city"):
        grid.tokenize(39.9, 116.4)
    assert grid.tokenize([41.15, 39.9], [-8.6, 116.4]).shape == (2,)
    assert grid.tokenize([], []).shape == (0,)


def test_points_of_different_shapes_are_rejected():
    with pytest.raises(ValueError, match=r"lat has shape \(3,\), lng \(2,\)\. Call tokenize\(lat, lng\)"):
        GridSpec(**PORTO).tokenize(np.full(3, 41.15), np.full(2, -8.6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_point_that_is_not_finite_is_rejected(value):
    with pytest.raises(ValueError, match="not finite"):
        GridSpec(0, 1, 0, 1, 0.1, 0.1).tokenize(value, 0.5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 0, 0, 1, 0.1, 0.1), "min_lat 1 is not below max_lat 0"),
        ((0, 1, 1, 1, 0.1, 0.1), "min_lng 1 is not below max_lng 1"),
        ((0, 1, 0, 1, 0, 0.1), "cell_lat 0 is not above 0"),
        ((41, 42, -9, -8, 50, 0.5), r"cell_lat 50 is larger than the extent of 1° \(min_lat to max_lat\)"),
        ((41, 42, -9, -8, 0.5, 50), "cell_lng 50 is larger than the extent of 1°"),
        ((0, 1, 0, np.nan, 0.1, 0.1), "max_lng is nan"),
        ((0, 1, 0, 1, 0.1, 0.1, 0), "downsample_factor 0"),
        ((0, 1, 0, 1, 0.1, 1e-9), "cells of 0.1° × 1e-09° give more than 10,000,000 rows or columns"),
        ((0, 1, 0, 1, 1e-320, 0.1), "more than 10,000,000 rows or columns"),
    ],
)
def test_invalid_grids_are_rejected(numbers, message):
    with pytest.raises(ConfigError, match=message):
        GridSpec(*numbers)


# grids of checkpoints


def test_complete_dataset_config():
    assert GridSpec.from_dataset_config({**PORTO, "grip_size": (51, 158), "data_dir": "x"}) == GridSpec(**PORTO)


def test_aliases_of_keys():
    degrees = {"grid_size": 0.002, "downsample_factor": np.int64(2)}
    expected = GridSpec(39.88, 39.91, 116.36, 116.39, 0.002, 0.002, 2)
    for bounds in (
        {"min_lat": 39.88, "max_lat": 39.91, "min_lng": 116.36, "max_lng": 116.39},
        {"min_lat": 39.88, "max_lat": 39.91, "min_lon": 116.36, "max_lon": 116.39},
        {"lat_min": 39.88, "lat_max": np.float64(39.91), "lng_min": 116.36, "lng_max": "116.39"},
        {"lat_min": 39.88, "lat_max": 39.91, "lon_min": 116.36, "lon_max": 116.39},
        {"boundary": {"min_lat": 39.88, "max_lat": 39.91, "min_lng": 116.36, "max_lng": 116.39}},
    ):
        assert GridSpec.from_dataset_config({**bounds, **degrees}) == expected


def test_fallbacks_apply_only_where_the_checkpoint_has_no_value():
    cfg = {"grip_size": (51, 158), "min_lat": PORTO["min_lat"], "downsample_factor": None}
    others = {key: value for key, value in PORTO.items() if key != "min_lat"}
    assert GridSpec.from_dataset_config(cfg, min_lat=0.0, **others) == GridSpec(**PORTO)
    with_cells = {**PORTO, "grid_size": 0.5}
    assert GridSpec.from_dataset_config(with_cells, cell_size_m=7.0) == GridSpec(**PORTO)


def test_missing_parameters_are_named():
    with pytest.raises(ConfigError, match="min_lng, max_lng, cell_lng are missing"):
        GridSpec.from_dataset_config({"min_lat": 1, "max_lat": 2, "cell_lat": 0.1})
    with pytest.raises(ConfigError, match="max_lat is missing"):
        GridSpec.from_dataset_config({"min_lat": 1, "min_lng": 1, "max_lng": 2, "grid_size": 0.1})


def test_published_checkpoint_needs_bounds_and_cells(golden):
    from hoser_kd.lmtad import load_checkpoint

    own = load_checkpoint(golden / "lmtad_ckpt.pt")
    with pytest.raises(ConfigError, match="min_lat, max_lat, min_lng, max_lng, cell_lat, cell_lng are missing"):
        GridSpec.from_dataset_config(own.dataset_config)
    expected = json.loads((golden / "grid_golden.json").read_text())
    grid = GridSpec.from_dataset_config(own.dataset_config, boundary=expected["boundary"], grid_size=0.002)
    assert grid.shape == (10, 10)


def test_a_shape_that_contradicts_grip_size_is_rejected_with_both_values():
    cfg = {**PORTO, "cell_lat": 0.002, "grip_size": (51, 158)}
    with pytest.raises(ConfigError, match=r"23 × 158 cells.*grip_size 51 × 158"):
        GridSpec.from_dataset_config(cfg)
    assert GridSpec.from_dataset_config(cfg, ignore_grip_size=True).shape == (23, 158)


@pytest.mark.parametrize("unused", [0, 158 + 1])
def test_the_vocabulary_overrides_a_stale_grip_size(unused):
    cfg = {**PORTO, "cell_lat": 0.002, "grip_size": (51, 158)}
    assert GridSpec.from_dataset_config(cfg, vocab_size=23 * 158 + unused + 3).shape == (23, 158)
    with pytest.raises(ConfigError, match="grip_size"):
        GridSpec.from_dataset_config(cfg, vocab_size=23 * 158 + unused + 4)


def test_grip_size_may_count_cells_before_or_after_merging():
    for shape in ((51, 158), (25, 79)):
        assert GridSpec.from_dataset_config({**PORTO, "downsample_factor": 2, "grip_size": shape}).shape == (25, 79)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"min_lat": "north"}, "min_lat is 'north'"),
        ({"min_lat": float("nan")}, "min_lat is nan; it must be a finite number"),
        ({"grid_size": (10, 10)}, "grid_size is"),
        ({**PORTO, "grip_size": 51}, "rows and columns"),
    ],
)
def test_values_of_the_wrong_type_are_rejected(cfg, message):
    with pytest.raises(ConfigError, match=message):
        GridSpec.from_dataset_config(cfg)


def test_unknown_fallbacks_are_rejected():
    with pytest.raises(ConfigError, match="Unknown fallback min_latitude"):
        GridSpec.from_dataset_config(PORTO, min_latitude=3)


# grids of teachers trained here


def test_from_config_in_meters(city):
    network, _ = city
    grid = GridSpec.from_config(GridConfig(bounds="roads", cell_size_m=50), network)
    middle = np.radians((grid.min_lat + grid.max_lat) / 2)
    assert grid.cell_lat == pytest.approx(0.05 / 110.574)
    assert grid.cell_lng == pytest.approx(0.05 / (111.320 * np.cos(middle)))
    assert not token_table(grid, network)["clamped"].any()


def test_from_config_in_degrees_with_bounds(city):
    bounds = Bounds(min_lat=44.4, max_lat=44.6, min_lng=-33.6, max_lng=-33.4)
    config = GridConfig(bounds=bounds, cell_lat=0.001, cell_lng=0.002, downsample_factor=3)
    assert GridSpec.from_config(config, city[0]) == GridSpec(44.4, 44.6, -33.6, -33.4, 0.001, 0.002, 3)


def test_bounds_are_never_guessed_from_the_roads(city):
    with pytest.raises(ConfigError, match=r"min_lat, max_lat, min_lng, max_lng are missing.*`bounds: roads`"):
        GridSpec.from_config(GridConfig(cell_size_m=50), city[0])
    assert config_fallbacks(GridConfig(), city[0]) == {}


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        (
            {"cell_size_m": 0.5},
            [
                "`grid.cell_size_m: 0.5`",
                "`grid.vocabulary: all`",
                "the maximum is 4,000,000",
                "`vocabulary: occupied`",
                "larger cells",
            ],
        ),
        ({"cell_lat": 1e-6, "cell_lng": 2e-6}, ["`grid.cell_lat: 1e-06, cell_lng: 2e-06`", "`vocabulary: occupied`"]),
        (
            {"cell_size_m": 1e-6, "vocabulary": "occupied"},
            ["`grid.cell_size_m: 1e-06`", "larger cells", "the maximum is 10,000,000 rows or columns"],
        ),
        ({"cell_size_m": 1e-320}, ["`grid.cell_size_m", "the maximum is 10,000,000 rows or columns"]),
    ],
)
def test_far_too_small_cells_are_rejected(city, sizes, parts):
    with pytest.raises(ConfigError) as caught:
        choose_grid(GridConfig(bounds="roads", **sizes), city[0])
    for part in parts:
        assert part in str(caught.value)


def test_the_error_has_the_number_of_cells(city):
    network = city[0]
    half = GridSpec.from_config(GridConfig(bounds="roads", cell_size_m=0.5, vocabulary="occupied"), network)
    height, width = half.shape
    assert height * width > 4_000_000
    with pytest.raises(ConfigError, match=f"{height:,} × {width:,} = {height * width:,} cells"):
        choose_grid(GridConfig(bounds="roads", cell_size_m=0.5), network)
    assert choose_grid(GridConfig(bounds="roads", cell_size_m=0.5, vocabulary="occupied"), network).num_labels <= (
        network.num_roads
    )
    # what is merged counts
    merged = GridConfig(bounds="roads", cell_size_m=0.5, downsample_factor=100)
    assert choose_grid(merged, network).shape == (height // 100, width // 100)


def test_choose_grid(city):
    network, _ = city
    config = GridConfig(bounds="roads", cell_size_m=80)
    own = {**PORTO, "grip_size": (51, 158)}
    assert choose_grid(config, network) == GridSpec.from_config(config, network)
    assert choose_grid(GridConfig(), network, own) == GridSpec(**PORTO)
    assert isinstance(choose_grid(GridConfig(kind="roads"), network), RoadTokens)
    bare = {"grip_size": (51, 158)}
    bounds = Bounds(**{key: PORTO[key] for key in PORTO if key.startswith("m")})
    sizes = {key: PORTO[key] for key in PORTO if key.startswith("cell")}
    assert choose_grid(GridConfig(bounds=bounds, **sizes), network, bare) == GridSpec(**PORTO)


STATED = {
    "bounds": {key: PORTO[key] for key in PORTO if key.startswith("m")},
    "cell_lat": PORTO["cell_lat"],
    "cell_lng": PORTO["cell_lng"],
}


@pytest.mark.parametrize(
    "stated",
    [
        STATED,
        {"bounds": {key: round(value, 5) for key, value in STATED["bounds"].items()}},
        {"bounds": {key: float(np.float32(value)) for key, value in STATED["bounds"].items()}},
        {"cell_lat": round(PORTO["cell_lat"], 7), "cell_lng": round(PORTO["cell_lng"], 7)},
    ],
)
def test_checkpoint_and_settings_may_differ_by_rounding(city, stated):
    assert choose_grid(GridConfig(**stated), city[0], {**PORTO, "grip_size": (51, 158)}) == GridSpec(**PORTO)


def test_a_side_in_meters_is_a_nominal_size(city):
    own = {
        "min_lat": 41.1,
        "max_lat": 41.2,
        "min_lng": -8.7,
        "max_lng": -8.5,
        "cell_lat": 0.1 / 110.574,
        "cell_lng": 0.1 / 111.320 / np.cos(np.radians(41.15)),
    }
    assert choose_grid(GridConfig(cell_size_m=101), city[0], own) == GridSpec(**own)
    with pytest.raises(ConfigError, match=r"cell_lat is 0.00090437173° in the checkpoint .* \(cell_size_m 50\)"):
        choose_grid(GridConfig(cell_size_m=50), city[0], own)


def _half_a_cell(axis):
    half = PORTO[f"cell_{axis}"] / 2
    return {"bounds": {key: value + half * key.endswith(axis) for key, value in STATED["bounds"].items()}}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (
            _half_a_cell("lat"),
            r"min_lat is 41.140092 in the checkpoint and 41.14054\d+ in the settings, 0.5 cells apart",
        ),
        (
            _half_a_cell("lng"),
            r"max_lng is -8.549155 in the checkpoint and -8.5487\d+ in the settings, 0.5 cells apart",
        ),
        (
            {"cell_lat": PORTO["cell_lat"] * 1.01, "cell_lng": PORTO["cell_lng"]},
            "^((?!cell_lng).)*cell_lat is .* in the",
        ),
        ({"downsample_factor": 2}, "downsample_factor is 1 in the checkpoint and 2 in the settings"),
        ({"bounds": "roads"}, r"min_lat is 41.140092 in the checkpoint and 44.*Remove `bounds: roads`"),
    ],
)
def test_a_difference_beyond_rounding_is_rejected_with_both_values(city, stated, message):
    with pytest.raises(ConfigError, match=message):
        choose_grid(GridConfig(**stated), city[0], {**PORTO, "downsample_factor": 1})


@given(st.floats(0.06, 40), st.sampled_from(["lat", "lng"]), st.sampled_from([-1, 1]))
def test_every_shift_of_known_bounds_is_rejected(city, cells, axis, sign):
    step = sign * cells * PORTO[f"cell_{axis}"]
    moved = {key: value + step * key.endswith(axis) for key, value in STATED["bounds"].items()}
    with pytest.raises(ConfigError, match="define different grids"):
        choose_grid(GridConfig(bounds=Bounds(**moved)), city[0], PORTO)


def test_a_road_vocabulary_must_match_kind_and_network(city):
    network, _ = city
    count = network.num_roads
    roads = {"kind": "roads", "grip_size": (1, count)}
    assert isinstance(choose_grid(GridConfig(kind="roads"), network, roads, count + 3), RoadTokens)
    with pytest.raises(ConfigError, match="one token per road: set `kind: roads`"):
        choose_grid(GridConfig(bounds="roads", cell_size_m=80), network, roads, count + 3)
    for own, vocab_size in ((roads, count + 4), ({"grip_size": (51, 158)}, 8061), (PORTO, 8220)):
        with pytest.raises(ConfigError, match=rf"the city has {count} roads, but the teacher's checkpoint has"):
            choose_grid(GridConfig(kind="roads"), network, own, vocab_size)


def test_bounds_source():
    sources = [
        bounds_source(GridConfig(**config), own)
        for config, own in (
            ({"bounds": "roads"}, None),
            (STATED, None),
            (STATED, {"grip_size": (51, 158)}),
            ({}, PORTO),
            (STATED, PORTO),
            ({"kind": "roads"}, None),
        )
    ]
    assert sources == [
        "roads",
        "settings",
        "settings",
        "checkpoint",
        "checkpoint, agreeing with settings",
        "none: one token per road",
    ]


# tables and figures


def test_token_table_and_cells(city):
    network, _ = city
    grid = GridSpec.from_config(GridConfig(bounds="roads", cell_size_m=120), network)
    table = token_table(grid, network)
    assert list(table.columns) == ["road_id", "row", "column", "token", "clamped", "geometry"]
    assert table.crs.to_epsg() == 4326
    np.testing.assert_array_equal(table["token"], grid.tokenize(*network.centroids.T))
    cells = cells_frame(grid, table["token"].to_numpy())
    assert cells.crs.to_epsg() == 4326
    assert cells["roads"].sum() == network.num_roads
    cell_of_road = cells.set_index("token").geometry.loc[table["token"]].to_numpy()
    assert shapely.covers(shapely.buffer(cell_of_road, 1e-9), table.geometry.to_numpy()).all()


def test_road_tokens_have_the_same_tables(city):
    network, trips = city
    grid = RoadTokens(network)
    table = token_table(grid, network)
    np.testing.assert_array_equal(table["token"], np.arange(network.num_roads))
    assert grid.num_labels == network.num_roads == grid.shape[0] * grid.shape[1]
    cells = cells_frame(grid, table["token"].to_numpy())
    assert (cells["roads"] == 1).all()
    assert (cells.geom_type == "LineString").all()
    assert coverage(grid, table)["share_inside"] == 1.0
    result = resolution(table["token"].to_numpy(), network, trips)
    assert result["distinguishable_share"] == result["all_distinguishable_share"] == 1.0
    assert result["label_distinguishable_share"] == 1.0


def test_a_factor_that_does_not_divide_leaves_no_road_outside():
    """10 × 10 cells, merged by 4: rows 8 and 9 belong to the last of two complete rows, as published."""
    network = _network([(0.05, 0.05), (0.85, 0.05), (0.95, 0.95), (0.05, 0.85), (1.05, 0.5)])
    grid = GridSpec(0, 0.95, 0, 0.95, 0.1, 0.1, 4)
    assert grid.shape == (2, 2)
    table = token_table(grid, network)
    assert table["token"].tolist() == [0, 2, 3, 1, 3]
    assert table["clamped"].tolist() == [False] * 4 + [True]
    measured = coverage(grid, table)
    assert (measured["share_inside"], measured["clamped"], measured["in_remainder"]) == (0.8, 1, 3)


def test_coverage_counts_clamped_roads_and_roads_per_cell():
    network = _network([(0.05, 0.05), (0.06, 0.06), (0.55, 0.55), (1.9, 0.5)])
    grid = GridSpec(0, 0.95, 0, 0.95, 0.1, 0.1)
    figures = coverage(grid, token_table(grid, network))
    assert figures == {
        "roads": 4,
        "share_inside": 0.75,
        "clamped": 1,
        "cells": 100,
        "occupied_cells": 3,
        "roads_per_cell_mean": pytest.approx(4 / 3),
        "roads_per_cell_median": 1.0,
        "roads_per_cell_p90": pytest.approx(1.8),
        "roads_per_cell_p99": pytest.approx(1.98),
        "roads_per_cell_max": 2,
    }


def _choices(tokens, successors_of_0, label):
    """The resolution of one step from road 0, whose candidates are the given roads."""
    degrees = [len(successors_of_0)] + [0] * (len(tokens) - 1)
    links = Csr(np.concatenate([[0], np.cumsum(degrees)]), np.array(successors_of_0, np.int64))
    base = _network([(0.1 * i, 0.0) for i in range(len(tokens))])
    network = RoadNetwork(base.coord_offsets, base.coords, base.length_m, base.highway, links)
    trip = Trajectories(np.array([0, 2]), np.array([0, label]), np.array([0, 1]))
    return resolution(np.array(tokens), network, trip)


@pytest.mark.parametrize(
    ("tokens", "label", "share", "all_share", "label_share"),
    [
        ([9, 5, 5, 5], 1, 0.0, 0.0, 0.0),
        ([9, 5, 5, 6], 1, 1.0, 0.0, 0.0),
        ([9, 5, 5, 6], 3, 1.0, 0.0, 1.0),
        ([9, 5, 6, 7], 2, 1.0, 1.0, 1.0),
        ([5, 5, 6, 7], 1, 1.0, 1.0, 1.0),
    ],
)
def test_resolution_of_one_choice(tokens, label, share, all_share, label_share):
    result = _choices(tokens, [1, 2, 3], label)
    assert result == {
        "steps": 1,
        "choices": 1,
        "distinguishable_share": share,
        "all_distinguishable_share": all_share,
        "label_distinguishable_share": label_share,
    }


def test_resolution_ignores_steps_without_a_choice():
    assert _choices([9, 5], [1], 1) == {
        "steps": 1,
        "choices": 0,
        "distinguishable_share": 1.0,
        "all_distinguishable_share": 1.0,
        "label_distinguishable_share": 1.0,
    }


def test_corpus_keeps_repeated_tokens(city):
    network, trips = city
    tokens = token_table(GridSpec.from_config(GridConfig(bounds="roads", cell_size_m=400), network), network)["token"]
    offsets, corpus = corpus_tokens(tokens.to_numpy(), trips)
    np.testing.assert_array_equal(offsets, trips.offsets)
    np.testing.assert_array_equal(corpus[offsets[3] : offsets[4]], tokens[trips.roads(3)])
    assert (np.diff(corpus) == 0).any()
