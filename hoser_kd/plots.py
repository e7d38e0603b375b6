"""Pictures of artifacts and results: maps, curves, distributions.

Every function returns a matplotlib `Figure` that belongs to nobody else: no pyplot, no global state, so they can be
drawn from any thread. `png` turns one into bytes. Colours are those of Okabe and Ito and the cividis scale, which
people with any colour vision tell apart; real trips are always grey, the plain student orange, the distilled one blue.

Letters: N roads, H rows and W columns of cells, n trips.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hoser_kd import metrics
from hoser_kd.comparison import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

    from hoser_kd.ragged import BoolArray, Float64Array, Int64Array
    from hoser_kd.road_network import RoadNetwork
    from hoser_kd.trajectories import Trajectories

COLOURS = {"real": "#4d4d4d", "vanilla": "#E69F00", "distilled": "#0072B2", "teacher": "#009E73"}
_SPARE = ("#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#999999")
_ZONE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C3C", "#7A5195", "#444444")
_SAME_FIGURE = {"train_next_step": "nll", "train_time": "time_log_mape"}
"""The student's training losses, under the name of the validation figure that means the same."""
_INK, _FAINT = "#333333", "#d4d4d4"
_METRES_PER_DEGREE = 111_195.0

_CLASSES = {
    # class: colour, line width; from the widest road to the narrowest
    "motorway": ("#D55E00", 1.5),
    "trunk": ("#E69F00", 1.3),
    "primary": ("#0072B2", 1.1),
    "secondary": ("#56B4E9", 0.9),
    "tertiary": ("#009E73", 0.7),
    "residential": ("#8a8a8a", 0.55),
    "living_street": ("#CC79A7", 0.55),
}
_DIVERGING = LinearSegmentedColormap.from_list("wins", ["#B35900", "#E69F00", "#d9d9d9", "#56B4E9", "#00507E"])
_OTHER_CLASSES = ("#b8a27a", 0.45)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def network_map(network: RoadNetwork, title: str = "Roads by class") -> Figure:
    """Draw the roads, coloured by class, wider roads above narrower ones; the legend counts roads and kilometres."""
    figure, axes = _map_figure(_extent(network), title, below_in=0.8)
    names = np.array([str(name).removesuffix("_link") for name in network.highway])
    known = [name for name in _CLASSES if (names == name).any()]
    others = ~np.isin(names, known)
    layers = [(name, names == name, *_CLASSES[name]) for name in known]
    if others.any():
        layers += [(name, rows, colour, 0.6) for name, rows, colour in _other_layers(names, others, few=not known)]
    scale = _width_scale(network)
    handles = []
    for height, (name, rows, colour, width) in enumerate(reversed(layers)):
        _draw_roads(axes, network, rows, colour, width * scale, order=2 + height)
        label = f"{name.replace('_', ' ')}  ({rows.sum():,} roads, {network.length_m[rows].sum() / 1000:,.0f} km)"
        handles.append(Line2D([], [], color=colour, linewidth=1.6 + width, label=label))
    _legend_below(figure, list(reversed(handles)))
    return figure


def _other_layers(names: npt.NDArray[Any], rows: BoolArray, *, few: bool) -> list[tuple[str, BoolArray, str]]:
    """Return layers of classes that are no OpenStreetMap words: the five longest apart where they are all there is."""
    if not few:
        return [("other", rows, _OTHER_CLASSES[0])]
    found, counts = np.unique(names[rows], return_counts=True)
    main = found[np.argsort(-counts, kind="stable")][: len(_SPARE)]
    layers = [(f"class {name}", names == name, colour) for name, colour in zip(main.tolist(), _SPARE, strict=False)]
    rest = rows & ~np.isin(names, main)
    return [*layers, ("other", rest, _OTHER_CLASSES[0])] if rest.any() else layers


def zones_map(network: RoadNetwork, zones: Int64Array, title: str | None = None) -> Figure:
    """Draw the roads, coloured by zone so that zones next to each other differ; `zones` is (N,) int64."""
    sizes = np.bincount(zones)
    sizes = sizes[sizes > 0]
    text = f"{len(sizes):,} zones of {sizes.min():,} to {sizes.max():,} roads; neighbours differ in colour"
    figure, axes = _map_figure(_extent(network), title or text)
    colour_of_zone = _colour_zones(network, zones)
    scale = _width_scale(network)
    for number, colour in enumerate(_ZONE_COLOURS):
        rows = colour_of_zone[zones] == number
        if rows.any():
            _draw_roads(axes, network, rows, colour, 0.9 * scale)
    return figure


def _colour_zones(network: RoadNetwork, zones: Int64Array) -> Int64Array:
    """Give each zone the first colour that no zone connected to it has yet; the largest zones choose first."""
    count = int(zones.max()) + 1
    origin = np.repeat(zones, network.successors.degrees)
    links = np.column_stack([origin, zones[network.successors.indices]])
    links = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)
    links = links[links[:, 0] != links[:, 1]]
    starts = np.searchsorted(links[:, 0], np.arange(count + 1))
    colour = np.full(count, -1)
    for zone in np.argsort(-np.bincount(zones, minlength=count), kind="stable"):
        taken = colour[links[starts[zone] : starts[zone + 1], 1]]
        free = np.setdiff1d(np.arange(len(_ZONE_COLOURS)), taken)
        colour[zone] = free[0] if len(free) else zone % len(_ZONE_COLOURS)
    return colour


def grid_map(network: RoadNetwork, lat_edges: Float64Array, lng_edges: Float64Array, roads_per_cell_HW: Int64Array,
             title: str = "Roads that share a grid cell") -> Figure:
    """Draw the teacher's cells, coloured by how many roads have their centre there, and the centres as dots.

    Edges are (H + 1,) and (W + 1,) float64 degrees, ascending; empty cells are left blank. Centres outside the grid,
    which it can only clamp to its rim, stand out.
    """
    grid = np.array([[lng_edges[0], lat_edges[0]], [lng_edges[-1], lat_edges[-1]]])
    centres = network.centroids[:, ::-1]
    outside = ((centres < grid[0]) | (centres > grid[1])).any(1)
    extent = np.stack([np.minimum(grid[0], centres.min(0)), np.maximum(grid[1], centres.max(0))])
    figure, axes = _map_figure(extent, title, below_in=0.75)
    counts = np.where(roads_per_cell_HW > 0, roads_per_cell_HW, np.nan)
    most = max(int(roads_per_cell_HW.max(initial=1)), 1)
    bounds = [edge for edge in (1, 2, 3, 5, 9, 17, 33, 65, 129) if edge <= most] + [most + 1]
    mesh = _draw_cells(axes, lat_edges, lng_edges, counts, BoundaryNorm(bounds, 256))
    size = float(np.clip(4e3 / network.num_roads, 0.3, 9))
    axes.scatter(centres[~outside, 0], centres[~outside, 1], s=size, color=_INK, alpha=0.55, linewidths=0, zorder=4)
    axes.plot(grid[[0, 1, 1, 0, 0], 0], grid[[0, 0, 1, 1, 0], 1], color=_INK, linewidth=0.8, zorder=3)
    if outside.any():
        dots = axes.scatter(centres[outside, 0], centres[outside, 1], s=max(size, 3), color="#D55E00", linewidths=0,
                            zorder=5)
        dots.set_label(f"{outside.sum():,} road centres outside the grid")
        axes.legend(handles=[dots], loc="upper right", frameon=True, fontsize=8.5, markerscale=3, labelcolor=_INK)
    bar = _bar_below(figure, [axes], mesh, "roads in the cell")
    spans = list(pairwise(bounds))
    bar.set_ticks([(a + b) / 2 for a, b in spans], labels=[_span(a, b - 1) for a, b in spans])
    bar.ax.tick_params(which="both", length=0)
    return figure


def cell_value_map(network: RoadNetwork, lat_edges: Float64Array, lng_edges: Float64Array, values_HW: Float64Array,
                   label: str, *, title: str | None = None) -> Figure:
    """Draw a value of each grid cell (the teacher's surprise, say) over the roads; NaN leaves a cell blank.

    Edges are (H + 1,) and (W + 1,) float64 degrees, ascending. The map shows the cells that have a value; the scale
    ends at their 99th percentile.
    """
    known = np.isfinite(values_HW)
    extent = _extent(network)
    norm = Normalize(0, 1)
    if known.any():
        rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
        extent = np.array([[lng_edges[columns[0]], lat_edges[rows[0]]],
                           [lng_edges[columns[-1] + 1], lat_edges[rows[-1] + 1]]])
        low, high = float(values_HW[known].min()), float(np.quantile(values_HW[known], 0.99))
        norm = Normalize(low, high if high > low else low + 1)
    figure, axes = _map_figure(extent, title or label, below_in=0.9)
    _draw_roads(axes, network, None, _FAINT, 0.5, order=1)
    mesh = _draw_cells(axes, lat_edges, lng_edges, values_HW, norm)
    _draw_roads(axes, network, None, "#ffffff", 0.3, order=4, alpha=0.5)
    beyond = bool(known.any()) and float(values_HW[known].max()) > float(norm.vmax or 0)
    _bar_below(figure, [axes], mesh, label, extend="max" if beyond else "neither")
    return figure


def use_map(network: RoadNetwork, trips: Mapping[str, Trajectories]) -> Figure:
    """Draw how often each road is driven, a panel a set of trips, all on one logarithmic scale of visits a trip.

    Roads nobody drives are faint. The keys name the panels.
    """
    shares = {name: metrics.road_use(each, network) / len(each) for name, each in trips.items()}
    driven = np.concatenate([share[share > 0] for share in shares.values()])
    norm = LogNorm(float(driven.min()), float(max(driven.max(), driven.min() * 1.01)))
    colours = _sequential()
    figure, panels = _map_panels(network, list(trips))
    for axes, share in zip(panels, shares.values(), strict=True):
        _draw_roads(axes, network, share == 0, _FAINT, 0.3, order=1)
        rows = np.flatnonzero(share > 0)
        rows = rows[np.argsort(share[rows], kind="stable")]  # the busiest lie on top
        widths = 0.5 + 2.2 * norm(share[rows])
        axes.add_collection(LineCollection(_lines(network, rows), colors=colours(norm(share[rows])), linewidths=widths,
                                           capstyle="round", zorder=2))
    _bar_below(figure, panels, ScalarMappable(norm, colours), "visits of a road per trip")
    return figure


def trips_map(network: RoadNetwork, trips: Mapping[str, Trajectories], rows: Sequence[int],
              notes: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Draw trips over the roads: a row an OD, a column a set of trips (`rows` index all sets alike).

    Circles mark the origin, squares the destination of the first set; `notes` has a text for each trip drawn.
    """
    reference = next(iter(trips.values()))
    figure = Figure(figsize=(3.1 * len(trips) + 0.2, 2.9 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(trips), squeeze=False)
    for panels, row in zip(grid, rows, strict=True):
        windows = [network.centroids[each.roads(row)] for each in trips.values()]
        window = _square_window(np.concatenate(windows))
        nearby = _near(network, window)
        ends = network.centroids[[reference.origins[row], reference.destinations[row]]]
        for axes, (name, each) in zip(panels, trips.items(), strict=True):
            _draw_roads(axes, network, nearby, _FAINT, 0.6, order=1)
            colour = colour_of(name)
            path = _lines(network, each.roads(row))
            axes.add_collection(LineCollection(path, colors=colour, linewidths=2.6, capstyle="round", zorder=3))
            axes.plot(*ends[0, ::-1], marker="o", markersize=8, color="white", markeredgecolor=_INK, zorder=5)
            axes.plot(*ends[1, ::-1], marker="s", markersize=8, color=_INK, markeredgecolor="white", zorder=5)
            _map_axes(axes, window, margin=0.0)
            if notes and name in notes:
                axes.set_xlabel(notes[name][list(rows).index(row)], size=8, color=_INK)
    for axes, name in zip(grid[0], trips, strict=True):
        axes.set_title(name, size=11, color=_INK, loc="left", weight="bold")
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": _INK}
    _legend_below(figure, [Line2D([], [], marker="o", color="white", label="origin", **marks),
                           Line2D([], [], marker="s", color=_INK, label="destination", **marks)])
    return figure


def wins_map(network: RoadNetwork, gain: Float64Array, visits: Int64Array, title: str) -> Figure:
    """Draw where the distilled student's trips are closer to the real ones (blue) and where the plain one's (orange).

    `gain` (N,) float64 is the mean difference over the real trips through each road, `visits` (N,) int64 how many
    those are; roads without any are faint. The more trips, the wider the line.
    """
    figure, axes = _map_figure(_extent(network), title, below_in=0.9)
    rows = np.flatnonzero(visits > 0)
    _draw_roads(axes, network, visits == 0, _FAINT, 0.3, order=1)
    most = max(float(np.quantile(np.abs(gain[rows]), 0.95)) if len(rows) else 0.0, 1e-3)
    norm = Normalize(-most, most)
    rows = rows[np.argsort(np.abs(gain[rows]), kind="stable")]
    widths = _width_scale(network) * (0.7 + np.minimum(np.log2(visits[rows] + 1), 6) / 2)
    axes.add_collection(LineCollection(_lines(network, rows), colors=_DIVERGING(norm(gain[rows])), linewidths=widths,
                                       capstyle="round", zorder=2))
    _bar_below(figure, [axes], ScalarMappable(norm, _DIVERGING),
               "overlap with the real trip, distilled − vanilla, mean over trips through a road", extend="both")
    return figure


def by_group(values: Mapping[str, Mapping[str, Mapping[str, float]]], labels: Mapping[str, str],
             weights: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Draw a figure by group (hour, say), a panel a grouping, a colour a kind of student.

    `values` holds by grouping, then kind, the value of each group by its name; `weights` by grouping how much of the
    whole each group is (drawn as bars); `labels` names the groupings.
    """
    figure = Figure(figsize=(10.2, 3.1 * len(values)), layout="constrained")
    panels = figure.subplots(len(values), 1, squeeze=False).ravel()
    for axes, (grouping, kinds) in zip(panels, values.items(), strict=True):
        names = list(weights[grouping])
        behind = axes.twinx()
        share = np.array([weights[grouping][name] for name in names])
        behind.bar(range(len(names)), share / max(share.sum(), 1), color=_FAINT, width=0.8)
        behind.set_ylabel("share of the steps (bars)", size=8, color="#8a8a8a")
        behind.tick_params(labelsize=8, colors="#8a8a8a")
        behind.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for side in ("top", "left"):
            behind.spines[side].set_visible(False)
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)
        for kind, found in kinds.items():
            at = [place for place, name in enumerate(names) if name in found]
            axes.plot(at, [found[names[place]] for place in at], "o-", color=colour_of(kind), label=kind, linewidth=1.6,
                      markersize=5)
        _plain_axes(axes)
        slanted = max(map(len, names)) > 9
        axes.set_xticks(range(len(names)), labels=[name.replace("_", " ") for name in names],
                        rotation=30 if slanted else 0, ha="right" if slanted else "center")
        axes.set_xlabel(labels[grouping], size=9, color=_INK)
        axes.set_ylabel(ylabel, size=9, color=_INK)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_below(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def distributions(real: Trajectories, generated: Mapping[str, Trajectories], network: RoadNetwork) -> Figure:
    """Draw how distance, radius and step duration are distributed, real (filled) against each generated set (lines)."""
    figure = Figure(figsize=(10.2, 3.0), layout="constrained")
    panels = figure.subplots(1, 3)
    columns: tuple[tuple[str, Callable[[Trajectories], Float64Array]], ...] = (
        ("travelled distance (km)", lambda trips: metrics.travelled_km(trips, network)),
        ("radius (km)", lambda trips: metrics.radius_km(trips, network)),
        ("time to the next road (s)", lambda trips: metrics.step_minutes(trips) * 60),
    )
    for axes, (label, values_of) in zip(panels, columns, strict=True):
        reference = values_of(real)
        top = float(np.quantile(reference, 0.995)) if len(reference) else 1.0
        edges = np.linspace(0, top if top > 0 else 1.0, int(np.clip(2 * len(reference) ** 0.5, 12, 40)) + 1)
        share, _ = np.histogram(np.minimum(reference, edges[-1]), edges)
        axes.stairs(share / max(share.sum(), 1), edges, fill=True, color=COLOURS["real"], alpha=0.3, label="real")
        for name, trips in generated.items():
            share, _ = np.histogram(np.minimum(values_of(trips), edges[-1]), edges)
            axes.stairs(share / max(share.sum(), 1), edges, color=colour_of(name), linewidth=1.8, label=name)
        _plain_axes(axes)
        axes.set_xlabel(label, size=9, color=_INK)
        axes.set_xlim(0, edges[-1])
        _share_axis(axes)
    panels[0].set_ylabel("share", size=9, color=_INK)
    _legend_below(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def training_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
                    labels: Mapping[str, str] | None = None) -> Figure:
    """Draw every figure of the epochs' dicts: a panel a figure, a colour a kind, a thin line a run, thick their mean.

    `histories` holds, by kind (`vanilla`, `distilled`, …), one list of epochs a run; keys `train_x` and `val_x` (or
    plain `x`) share a panel, training dashed. Figures that never change are left out. `labels` names the panels, and
    chooses and orders them where it is given.
    """
    keys = _panel_keys(histories, labels)
    across = min(len(keys), 3)
    down = -(-len(keys) // max(across, 1))
    figure = Figure(figsize=(3.4 * max(across, 1) + 0.2, 2.5 * max(down, 1) + 0.4), layout="constrained")
    if not keys:
        return figure
    panels = figure.subplots(down, across, squeeze=False).ravel()
    handles: dict[str, Line2D] = {}
    for axes, (panel, lines) in zip(panels, keys.items(), strict=False):
        for kind, runs in histories.items():
            for key, style in lines.items():
                for handle in _draw_runs(axes, runs, key, colour_of(kind), style):
                    handles.setdefault(f"{kind}{', training' if style == '--' else ''}", handle)
        _plain_axes(axes)
        axes.set_title((labels or LABELS).get(panel, panel.replace("_", " ")), size=9.5, color=_INK, loc="left")
        axes.set_xlabel("epoch", size=9, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for label, handle in handles.items():
        handle.set_label(label)
    _legend_below(figure, list(handles.values()))
    return figure


def _panel_keys(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
                labels: Mapping[str, str] | None) -> dict[str, dict[str, str]]:
    """Return {panel: {key: line style}} for the numeric keys of all epochs."""
    panels: dict[str, dict[str, str]] = {}
    values: dict[str, set[float]] = {}
    epochs = [epoch for runs in histories.values() for run in runs for epoch in run]
    for key, value in ((key, value) for epoch in epochs for key, value in epoch.items()):
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in {"epoch", "step"}:
            panel = _SAME_FIGURE.get(key, key.removeprefix("train_").removeprefix("val_"))
            panels.setdefault(panel, {})[key] = "--" if key.startswith("train_") else "-"
            values.setdefault(panel, set()).add(float(value))
    changing = [panel for panel in panels if len(values[panel]) > 1 or len(epochs) == 1]
    return {panel: panels[panel] for panel in (labels or changing) if panel in changing}


def _draw_runs(axes: Axes, runs: Sequence[Sequence[Mapping[str, Any]]], key: str, colour: str,
               style: str) -> Iterable[Line2D]:
    """Draw every run thin and, where there are several, their mean over the epochs all have thick."""
    curves = [np.array([[epoch.get("epoch", number + 1), epoch[key]] for number, epoch in enumerate(run)
                        if key in epoch], float).reshape(-1, 2) for run in runs]
    curves = [curve for curve in curves if len(curve)]
    several = len(curves) > 1
    for curve in curves:
        line, = axes.plot(*curve.T, style, color=colour, linewidth=0.8 if several else 1.8,
                          alpha=0.45 if several else 1, marker="." if len(curve) == 1 else None)
        if not several:
            yield line
    if several:
        common = min(len(curve) for curve in curves)
        mean = np.mean([curve[:common] for curve in curves], axis=0)
        yield axes.plot(*mean.T, style, color=colour, linewidth=2.0)[0]


def histograms(values: Mapping[str, npt.NDArray[Any]], colour: str = COLOURS["teacher"], bins: int = 40) -> Figure:
    """Draw the distribution of each array (label diagnostics, say), a panel each; the keys name the axes.

    Whole numbers with few distinct values get a bar each. A line marks the median.
    """
    across = min(max(len(values), 1), 3)
    down = -(-max(len(values), 1) // across)
    figure = Figure(figsize=(3.4 * across + 0.2, 2.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (label, raw) in zip(panels, values.items(), strict=False):
        array = np.asarray(raw, float)
        array = array[np.isfinite(array)]
        if len(array):
            whole = bool((array == np.round(array)).all()) and np.ptp(array) <= bins
            edges = np.arange(array.min() - 0.5, array.max() + 1) if whole else np.histogram_bin_edges(array, bins)
            share, edges = np.histogram(array, edges)
            axes.stairs(share / share.sum(), edges, fill=True, color=colour, alpha=0.55)
            axes.axvline(float(np.median(array)), color=_INK, linewidth=1, linestyle=":")
        _plain_axes(axes)
        axes.set_xlabel(label, size=9, color=_INK)
        _share_axis(axes)
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    return figure


def differences(rows: Sequence[tuple[str, float, float, float, str | None]]) -> Figure:
    """Draw relative differences with their intervals: (label, mean, low, high, better), all in percent.

    `better` is lower, higher or None and decides the colour: blue for a change to the better, orange to the worse,
    hollow where the interval holds 0 or is missing (low and high not finite).
    """
    figure = Figure(figsize=(8.4, 0.34 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, (_, mean, low, high, better) in enumerate(reversed(rows)):
        known = np.isfinite([low, high]).all()
        good = None if better is None or mean == 0 else (mean < 0) == (better == "lower")
        colour = COLOURS["real"] if good is None else COLOURS["distilled"] if good else COLOURS["vanilla"]
        if known:
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        clear = known and (low > 0 or high < 0)
        axes.plot(mean, place, "o", color=colour if clear else "white", markeredgecolor=colour, markersize=7,
                  markeredgewidth=1.6, zorder=3)
    axes.axvline(0, color=_INK, linewidth=1)
    axes.set_yticks(range(len(rows)), labels=[label for label, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _plain_axes(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("distilled − vanilla, % of vanilla", size=9, color=_INK)
    return figure


def colour_of(name: str) -> str:
    """Return the colour of a set of trips or a kind of model; names without their own share a few spare ones."""
    for known, colour in COLOURS.items():
        if name.lower().startswith(known):
            return colour
    return _SPARE[sum(map(ord, name)) % len(_SPARE)]


def _sequential() -> Colormap:
    return colormaps["cividis_r"]


def _span(low: int, high: int) -> str:
    return f"{low}" if low >= high else f"{low}–{high}"


def _lines(network: RoadNetwork, rows: npt.NDArray[Any]) -> list[Float64Array]:
    """Return the (points, 2) lon, lat lines of these roads."""
    starts, ends = network.coord_offsets[:-1][rows].tolist(), network.coord_offsets[1:][rows].tolist()
    return [network.coords[a:b] for a, b in zip(starts, ends, strict=True)]


def _draw_roads(axes: Axes, network: RoadNetwork, rows: BoolArray | None, colour: str, width: float, *,
                order: float = 2, alpha: float = 1.0) -> None:
    chosen = np.arange(network.num_roads) if rows is None else np.flatnonzero(rows)
    axes.add_collection(LineCollection(_lines(network, chosen), colors=colour, linewidths=width, alpha=alpha,
                                       capstyle="round", zorder=order), autolim=False)


def _draw_cells(axes: Axes, lat_edges: Float64Array, lng_edges: Float64Array, values_HW: npt.NDArray[Any],
                norm: Normalize) -> Any:
    masked = np.ma.masked_invalid(values_HW)
    return axes.pcolormesh(lng_edges, lat_edges, masked, cmap=_sequential(), norm=norm, zorder=1)


def _width_scale(network: RoadNetwork) -> float:
    """Thinner lines where there are more roads on the same paper."""
    return float(np.clip(60 / np.sqrt(max(network.num_roads, 1)), 0.45, 2.2))


def _extent(network: RoadNetwork) -> Float64Array:
    """Return (2, 2) float64: the south-west and north-east corners as lon, lat."""
    return np.stack([network.coords.min(0), network.coords.max(0)])


def _shape(extent: Float64Array) -> float:
    """Height over width of an extent on paper."""
    width, height = np.maximum(extent[1] - extent[0], 1e-9)
    return float(np.clip(height / (width * np.cos(np.radians(extent[:, 1].mean()))), 0.25, 2.0))


def _map_figure(extent: Float64Array, title: str, *, below_in: float = 0.1) -> tuple[Figure, Axes]:
    """Return a figure of one map, with room for a legend or a colour bar below."""
    width = 9.0
    figure = Figure(figsize=(width, width * _shape(extent) + 0.3 + below_in), layout="constrained")
    axes = figure.subplots()
    _map_axes(axes, extent)
    axes.set_title(title, size=11, color=_INK, loc="left")
    return figure, axes


def _map_panels(network: RoadNetwork, names: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """Return a map a name: in a row, or the first above the others where the city is wider than high."""
    extent = _extent(network)
    shape, width, head, bar = _shape(extent), 10.2, 0.3, 0.7
    row = width / max(len(names), 1) * shape + head
    layout: list[Any] = [list(names)]
    heights = [row]
    if shape < 0.8 and len(names) > 1:
        others = list(names[1:])
        layout = [[names[0]] * len(others), others]
        heights = [width * 0.8 * shape + head, width / len(others) * shape + head]
    figure = Figure(figsize=(width, sum(heights) + bar), layout="constrained")
    panels = figure.subplot_mosaic(layout, height_ratios=heights)
    for name in names:
        _map_axes(panels[name], extent)
        panels[name].set_title(name, size=11, color=_INK, loc="left", weight="bold")
    return figure, [panels[name] for name in names]


def _map_axes(axes: Axes, extent: Float64Array, margin: float = 0.015) -> None:
    """Show this extent, metres equally long both ways at its middle latitude, with a scale bar and no ticks."""
    (west, south), (east, north) = extent
    edge = margin * max(east - west, north - south, 1e-6)
    axes.set_xlim(west - edge, east + edge)
    axes.set_ylim(south - edge, north + edge)
    axes.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
    _scale_bar(axes)


def _square_window(points: Float64Array) -> Float64Array:
    """Return the extent of a window, square in metres, that holds (lat, lon) points with room around them."""
    low, high = points.min(0)[::-1], points.max(0)[::-1]
    middle = (low + high) / 2
    stretch = np.cos(np.radians(middle[1]))
    side = max((high[0] - low[0]) * stretch, high[1] - low[1], 0.002) * 1.25
    half = np.array([side / 2 / stretch, side / 2])
    return np.stack([middle - half, middle + half])


def _near(network: RoadNetwork, window: Float64Array) -> BoolArray:
    """Return (N,) whether a road's bounding box meets the window."""
    low = np.minimum.reduceat(network.coords, network.coord_offsets[:-1])
    high = np.maximum.reduceat(network.coords, network.coord_offsets[:-1])
    near: BoolArray = ((low < window[1]) & (high > window[0])).all(1)
    return near


def _scale_bar(axes: Axes) -> None:
    """Draw a bar of a round length, about a fifth of the map, into the lower left corner."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    metre = 1 / (_METRES_PER_DEGREE * np.cos(np.radians((south + north) / 2)))
    wanted = (east - west) / metre / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    x, y = west + 0.03 * (east - west), south + 0.035 * (north - south)
    axes.plot([x, x + length * metre], [y, y], color=_INK, linewidth=2.5, solid_capstyle="butt", zorder=8)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.annotate(text, (x, y), (0, 4), textcoords="offset points", size=8, color=_INK, zorder=7,
                  bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})


def _plain_axes(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(visible=True, color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)


def _share_axis(axes: Axes) -> None:
    """Label the vertical axis in percent, at steps that need no rounding."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if axes.get_ylim()[1] > 0.05 else None))


def _bar_below(figure: Figure, panels: Sequence[Axes], colours: ScalarMappable, label: str, **options: Any) -> Any:
    """Add a colour bar under the maps and return it."""
    bar = figure.colorbar(colours, ax=list(panels), orientation="horizontal", fraction=0.05, pad=0.02, aspect=40,
                          shrink=0.6, **options)
    bar.set_label(label, size=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)
    bar.outline.set_edgecolor(_FAINT)
    return bar


def _legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Add a legend under everything, in as many columns as fit the width."""
    if handles:
        widest = max(len(handle.get_label()) for handle in handles) * 0.075 + 0.55  # inches at this font size
        columns = int(np.clip(figure.get_figwidth() // widest, 1, len(handles)))
        rows = -(-len(handles) // columns)
        figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows), frameon=False,
                      fontsize=8.5, labelcolor=_INK)
