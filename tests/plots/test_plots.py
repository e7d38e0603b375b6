"""Figures show the data they are given, without pyplot and without warnings."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from small_city import grid_network, random_trips

from hoser_kd import plots
from hoser_kd.network.road_network import read_hoser

NETWORK = grid_network()
LAT_EDGES = np.linspace(41.139, 41.151, 7)
LNG_EDGES = np.linspace(-8.661, -8.652, 5)


def drawn(figure: Figure) -> list[str]:
    """Return every text of a figure."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def num_lines(axes) -> int:
    return sum(len(c.get_segments()) for c in axes.collections if isinstance(c, LineCollection))


def history(shift: float, epochs: int = 5) -> list[dict]:
    return [
        {
            "epoch": e + 1,
            "train_loss": 2 / (e + 1) + shift,
            "val_loss": 2.1 / (e + 1) + shift,
            "accuracy": e / 10,
            "steps": 70.0,
        }
        for e in range(epochs)
    ]


ALL = {
    "network": lambda: plots.network_map(NETWORK),
    "zones": lambda: plots.zones_map(NETWORK, np.arange(NETWORK.num_roads) % 7),
    "grid": lambda: plots.grid_map(NETWORK, LAT_EDGES, LNG_EDGES, np.arange(24).reshape(6, 4)),
    "cell values": lambda: plots.cell_value_map(NETWORK, LAT_EDGES, LNG_EDGES, np.arange(24.0).reshape(6, 4), "nat"),
    "use": lambda: plots.use_map(NETWORK, {"real": random_trips(NETWORK, 9), "vanilla": random_trips(NETWORK, 9, 1)}),
    "trips": lambda: plots.trips_map(
        NETWORK, {"real": random_trips(NETWORK, 3), "distilled": random_trips(NETWORK, 3)}, [0, 2]
    ),
    "distributions": lambda: plots.distributions(
        random_trips(NETWORK, 9), {"vanilla": random_trips(NETWORK, 9, 1)}, NETWORK
    ),
    "curves": lambda: plots.training_curves({"vanilla": [history(0), history(1)], "distilled": [history(0.2)]}),
    "histograms": lambda: plots.histograms({"entropy (nat)": np.linspace(0, 1, 50), "candidates": np.arange(9) % 4}),
    "wins": lambda: plots.wins_map(
        NETWORK, np.linspace(-1, 1, NETWORK.num_roads), np.arange(NETWORK.num_roads) % 3, "closer"
    ),
    "by group": lambda: plots.by_group(
        {"hour": {"vanilla": {"08": 0.5}}}, {"hour": "hour of the day"}, {"hour": {"08": 3.0, "09": 1.0}}, "accuracy"
    ),
    "differences": lambda: plots.differences(
        [("EDR", -1.0, -2.0, 0.5, "lower", False), ("DTW", 1.0, np.nan, np.nan, None, False)]
    ),
}


def saved(figure: Figure, dpi: int) -> bytes:
    """Return the PNG that Matplotlib itself writes, which draws a figure with a layout twice."""
    figure.set_dpi(dpi)
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@pytest.mark.parametrize("name", ALL)
def test_every_figure_is_the_png_that_matplotlib_writes_and_is_drawn_once(name, monkeypatch):
    draws = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: (draws.append(figure), draw(figure, renderer))[1])
    first = plots.png(ALL[name](), dpi=60)
    assert len(draws) == 1
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == saved(ALL[name](), dpi=60)


def test_pyplot_is_never_imported():
    code = "import sys, hoser_kd.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_network_map_draws_every_road_once_and_counts_classes():
    figure = plots.network_map(NETWORK)
    assert num_lines(figure.axes[0]) == NETWORK.num_roads
    residential = NETWORK.highway == "residential"
    km = NETWORK.length_m[residential].sum() / 1000
    assert f"residential  ({residential.sum()} roads, {km:,.0f} km)" in drawn(figure)


def test_classes_that_are_numbers_get_colors_of_their_own():
    numbered = replace(NETWORK, highway=np.array([str(i % 7) for i in range(NETWORK.num_roads)], object))
    texts = set(drawn(plots.network_map(numbered)))
    assert sum(text.startswith("class ") for text in texts) == 5
    assert any(text.startswith("other ") for text in texts)


def test_zones_next_to_each_other_differ_in_color():
    row, column = ((NETWORK.centroids - NETWORK.centroids.min(0)) / 0.0031).astype(np.int64).T
    zones = row * 10 + column
    color = plots.maps._color_zones(NETWORK, zones)
    origin = np.repeat(np.arange(NETWORK.num_roads), NETWORK.successors.degrees)
    a, b = zones[origin], zones[NETWORK.successors.indices]
    assert ((color[a] != color[b]) | (a == b)).all()


def test_grid_map_counts_centers_outside_the_grid():
    lat, lon = NETWORK.centroids.T
    outside = (lat < LAT_EDGES[0]) | (lat > LAT_EDGES[-1]) | (lon < LNG_EDGES[0]) | (lon > LNG_EDGES[-1])
    texts = drawn(plots.grid_map(NETWORK, LAT_EDGES, LNG_EDGES, np.arange(24).reshape(6, 4)))
    assert outside.any()
    assert f"{outside.sum()} road centers outside the grid" in texts
    assert {"1", "2", "3–4", "17–23"} <= set(texts)


def test_cells_without_a_value_stay_blank_even_if_all_are():
    some = np.where(np.arange(24).reshape(6, 4) % 3 == 0, np.nan, 2.0)
    for values in (some, np.full((6, 4), np.nan)):
        figure = plots.cell_value_map(NETWORK, LAT_EDGES, LNG_EDGES, values, "nat")
        figure.draw_without_rendering()
        (mesh,) = [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]
        blank = np.ma.getmaskarray(mesh.get_array()).reshape(6, 4)
        np.testing.assert_array_equal(blank, np.isnan(values))
        assert (mesh.norm.vmin, mesh.norm.vmax) == ((0, 1) if blank.all() else (2, 3))


def test_scale_bar_is_round_and_true():
    axes = plots.network_map(NETWORK).axes[0]
    bar = next(line for line in axes.lines if line.get_linewidth() == 2.5)
    text = next(text.get_text() for text in axes.texts)
    degrees = float(np.ptp(bar.get_xdata()))
    meters = degrees * 111_195 * np.cos(np.radians(NETWORK.centroids[:, 0].mean()))
    number, unit = text.split()
    assert float(number) * {"m": 1, "km": 1000}[unit] == pytest.approx(meters, rel=1e-3)


def test_use_map_draws_every_road_once_and_visited_ones_apart():
    trips = random_trips(NETWORK, 6)
    axes = plots.use_map(NETWORK, {"real": trips}).axes[0]
    faint, driven = [len(c.get_segments()) for c in axes.collections if isinstance(c, LineCollection)]
    assert driven == len(np.unique(trips.road_ids))
    assert faint + driven == NETWORK.num_roads


def test_trips_map_has_one_panel_per_trip_and_kind_and_draws_its_roads():
    real, generated = random_trips(NETWORK, 4), random_trips(NETWORK, 4, seed=1)
    figure = plots.trips_map(NETWORK, {"real": real, "vanilla": generated}, [1, 3], {"vanilla": ["a note", "another"]})
    assert len(figure.axes) == 4
    path = figure.axes[3].collections[-1]
    assert len(path.get_segments()) == generated.lengths[3]
    assert {"real", "vanilla", "a note", "another"} <= set(drawn(figure))


def test_curves_pair_training_with_validation_and_choose_panels():
    figure = plots.training_curves({"vanilla": [history(0), history(1)]})
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["loss", "accuracy"]
    assert len(figure.axes[0].lines) == 6  # two runs and their mean, in training and validation
    chosen = plots.training_curves({"vanilla": [history(0)]}, {"loss": "loss (nat)"})
    assert [axes.get_title(loc="left") for axes in chosen.axes if axes.get_visible()] == ["loss (nat)"]
    assert plots.training_curves({"vanilla": [[]]}).axes == []


def test_training_losses_share_the_panel_of_the_metric_that_measures_the_same():
    epochs = [
        {"epoch": e, "train_next_step": 1 / e, "train_time": 2 / e, "nll": 3 / e, "time_log_mape": 4 / e}
        for e in (1, 2)
    ]
    figure = plots.training_curves({"vanilla": [epochs]})
    assert [len(axes.lines) for axes in figure.axes if axes.get_visible()] == [2, 2]
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == [
        "negative log-likelihood",
        "time, published loss",
    ]


def test_difference_is_filled_only_where_it_is_clear():
    rows = [
        ("a", -1.0, -2.0, -0.5, "lower", True),
        ("b", -1.0, -2.0, -0.5, "lower", False),
        ("c", 2.0, np.nan, np.nan, "lower", False),
    ]
    axes = plots.differences(rows).axes[0]
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert faces == ["white", "white", plots.COLORS["distilled"]]  # drawn from the bottom


def test_wins_map_colors_roads_with_trips_by_who_is_closer():
    gain, visits = np.zeros(NETWORK.num_roads), np.zeros(NETWORK.num_roads, np.int64)
    gain[[3, 5]], visits[[3, 5]] = (-0.5, 0.5), 2
    axes = plots.wins_map(NETWORK, gain, visits, "closer").axes[0]
    faint, colored = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(faint.get_segments()) == NETWORK.num_roads - 2
    vanilla, distilled = colored.get_colors()
    assert vanilla[0] > vanilla[2]  # orange: more red than blue
    assert distilled[0] < distilled[2]


def test_by_group_leaves_gaps_where_a_group_has_no_value():
    axes = ALL["by group"]().axes
    assert [list(line.get_xdata()) for line in axes[0].lines] == [[0]]
    assert [bar.get_height() for bar in axes[1].patches] == [0.75, 0.25]


def test_a_real_city(porto: Path):
    network = read_hoser(porto)
    assert num_lines(plots.network_map(network).axes[0]) == network.num_roads


def test_primary_metrics_fill_rows_of_panels_with_a_row_for_each_model():
    points = [
        plots.Point("kl", 0.3, "distilled", (0.2, 0.4), (0.25, 0.35)),
        plots.Point("pool", 0.1, "ceiling"),
        plots.Point("vanilla", 0.5, "vanilla"),
    ]
    figure = plots.primary_chart({"a": points, "b": points[:2], "c": points}, columns=2)
    assert len(figure.axes) == 4
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["vanilla", "kl", "pool"]  # the best on top
    assert first.get_legend() is None
    lines = [(list(line.get_xdata()), line.get_linewidth()) for line in first.lines]
    assert ([0.25, 0.35], 5.0) in lines
    assert ([0.2, 0.4], 1.4) in lines
    assert [list(line.get_xdata()) for line in first.lines if line.get_linestyle() == "--"] == [[0.1, 0.1]]
