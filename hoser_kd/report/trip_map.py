"""The zoomable map of the report: one HTML file with the roads and, by request, the real and the generated trips.

Bokeh draws it; its script comes from the installed package and is written into the file, so the page needs no network
connection. Ids and numbers from the data are JSON in the page, never markup or code.

Shapes: n requests, M roads on the map, P points.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from hoser_kd.common.arrays import ranges
from hoser_kd.common.files import atomic_path
from hoser_kd.evaluation.statistics import PRIMARY_TRIP
from hoser_kd.plots import COLORS
from hoser_kd.report.data import ReportData, answered_trips, first_generated
from hoser_kd.report.templating import template_environment

if TYPE_CHECKING:
    from os import PathLike

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

MAX_REQUESTS = 3000
"""Requests on the map; the files for a GIS hold all trips."""
_KM_PER_DEGREE = 111.195
_TOLERANCE_KM = 0.003
"""Largest distance by which a simplified road may leave its line."""
_STYLES = {"real": ("#9a9a9a", 13.0), "vanilla": (COLORS["vanilla"], 7.0), "distilled": (COLORS["distilled"], 3.0)}
_BASELINE_STYLE = ("#222222", 1.2)


@dataclass(frozen=True)
class MapRoads:
    """The roads on the map, in kilometers east and north of a corner."""

    xy: npt.NDArray[np.float32]
    """(P, 2) float32."""
    offsets: Int64Array
    """(M + 1,) int64: points of each road."""
    ids: Int64Array
    """(M,) int64: their ids."""


def map_name(report_name: str) -> str:
    """Return the file name of the map beside a report."""
    stem = Path(report_name).stem
    return "map.html" if stem == "report" else f"{stem}_map.html"


def write_map(path: str | PathLike[str], data: ReportData) -> bool:
    """Write the map to `path`, atomically, and return True; False, and no file, without generated trips."""
    sets = trip_sets(data)
    if not sets:
        return False
    page = render_map(data, sets)
    with atomic_path(path) as beside:
        Path(beside).write_text(page, encoding="utf-8")
    return True


def trip_sets(data: ReportData) -> dict[str, Trajectories]:
    """Return the trips on the map, row by row of the same requests: real, students (first seed), best baseline."""
    generated = {kind: each.generated for kind, each in first_generated(data).items() if each.generated is not None}
    if not generated or len({len(trips) for trips in generated.values()}) > 1:
        return {}
    real = answered_trips(data)
    sets: dict[str, Trajectories] = {} if real is None else {"real": real}
    sets |= generated
    count = len(next(iter(generated.values())))
    scores = {name: metrics[PRIMARY_TRIP] for name, metrics in data.baselines.trips.items() if PRIMARY_TRIP in metrics}
    known = [name for name in sorted(scores, key=scores.__getitem__) if len(data.baseline_trips.get(name, ())) == count]
    if known:
        sets[known[0]] = data.baseline_trips[known[0]]
    rows = np.arange(min(count, MAX_REQUESTS))
    return {name: trips.take(rows) for name, trips in sets.items()}


def render_map(data: ReportData, sets: Mapping[str, Trajectories]) -> str:
    """Return the page; `sets` as `trip_sets` returns them."""
    from bokeh.embed import json_item
    from bokeh.resources import Resources

    roads = roads_near(data.network, sets)
    reference = next(iter(sets.values()))
    environment = template_environment()
    # Bokeh's JSON defines a model where it is first named, so the order matters
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    total = len(next(iter(first_generated(data).values())).generated or ())
    return environment.get_template("map.html").render(
        city=data.city,
        bokeh=Resources(mode="inline", components=["bokeh"], minified=True).render_js(),
        plot=_renumbered(json_item(_figure(roads, sets), "plot"), {}),
        shown=len(reference),
        total=total,
        content={
            "ids": _ids(reference),
            "offsets": _packed(roads.offsets),
            "road_ids": _packed(roads.ids),
            "sets": [_content(data, roads, name, trips) for name, trips in sets.items()],
        },
    )


def _renumbered(item: Any, names: dict[str, str]) -> Any:
    """Return Bokeh's JSON with its models numbered from 1: Bokeh counts them per process, so pages would differ."""
    if isinstance(item, list):
        return [_renumbered(each, names) for each in item]
    if not isinstance(item, Mapping):
        return item
    return {
        key: names.setdefault(value, f"p{len(names) + 1}")
        if key in {"id", "root_id"} and isinstance(value, str)
        else _renumbered(value, names)
        for key, value in item.items()
    }


def _figure(roads: MapRoads, sets: Mapping[str, Trajectories]) -> Any:
    """Return the Bokeh figure: roads, an empty source per set of trips, and one for origin and destination."""
    from bokeh.models import ColumnDataSource, HoverTool

    plot = road_figure(roads)
    for name in sets:
        color, width = _STYLES.get(name, _BASELINE_STYLE)
        source = ColumnDataSource({"xs": [], "ys": [], "road": [], "place": []}, name=f"set {name}")
        lines = plot.multi_line(
            "xs",
            "ys",
            source=source,
            color=color,
            line_width=width,
            line_cap="round",
            line_alpha=0.75 if name == "real" else 1,
            line_dash="solid" if name in _STYLES else "dashed",
            name=name,
        )
        tooltips = [("trip", name.replace("@", "").replace("$", "")), ("road", "@road"), ("position", "@place")]
        plot.add_tools(HoverTool(renderers=[lines], tooltips=tooltips))
    ends = ColumnDataSource({"x": [], "y": [], "marker": [], "fill": []}, name="ends")
    plot.scatter("x", "y", marker="marker", fill_color="fill", source=ends, size=13, line_color="#333333", line_width=2)
    return plot


def road_figure(roads: MapRoads) -> Any:
    """Return a Bokeh figure of the roads with a scale bar, to which lines of trips are added."""
    from bokeh.models import Range1d, ScaleBar
    from bokeh.plotting import figure

    low, high = roads.xy.min(0), roads.xy.max(0)
    plot = figure(
        name="map",
        sizing_mode="stretch_both",
        x_range=Range1d(float(low[0]), float(high[0])),
        y_range=Range1d(float(low[1]), float(high[1])),
        tools="pan,wheel_zoom",
        active_scroll="wheel_zoom",
        toolbar_location=None,
        min_border=0,
        background_fill_color="#fbfbfa",
        outline_line_color=None,
    )
    plot.axis.visible = False
    plot.grid.visible = False
    # a single line with gaps: fast to draw and small to store
    breaks = np.insert(roads.xy, roads.offsets[1:-1], np.nan, axis=0)
    plot.line(breaks[:, 0], breaks[:, 1], color="#c9c9c4", line_width=1.1)
    plot.add_layout(ScaleBar(range=plot.x_range, unit="km", background_fill_alpha=0.7, border_line_color=None))
    return plot


def roads_near(network: RoadNetwork, sets: Mapping[str, Trajectories]) -> MapRoads:
    """Return the simplified roads within the bounding box of the trips."""
    used = np.unique(np.concatenate([trips.road_ids for trips in sets.values()]))
    low = np.minimum.reduceat(network.coords, network.coord_offsets[:-1])
    high = np.maximum.reduceat(network.coords, network.coord_offsets[:-1])
    first, last = low[used].min(0), high[used].max(0)
    margin = 0.03 * (last - first)
    rows = np.flatnonzero(((low < last + margin) & (high > first - margin)).all(1))
    rows = np.union1d(rows, used)
    counts = np.diff(network.coord_offsets)[rows]
    points = network.coords[ranges(network.coord_offsets[:-1][rows], counts)]
    xy = _kilometers(points, first)
    lines = shapely.linestrings(xy, indices=np.repeat(np.arange(len(rows)), counts))
    simple, index = shapely.get_coordinates(shapely.simplify(lines, _TOLERANCE_KM), return_index=True)
    offsets = np.searchsorted(index, np.arange(len(rows) + 1))
    return MapRoads(simple.astype(np.float32), np.asarray(offsets, np.int64), np.asarray(rows, np.int64))


def _kilometers(points: Float64Array, corner: Float64Array) -> Float64Array:
    """Return (P, 2) float64 kilometers east and north of the corner of (P, 2) lon, lat."""
    scale = np.array([np.cos(np.radians(points[:, 1].mean())), 1.0]) * _KM_PER_DEGREE
    return np.asarray((points - corner) * scale, np.float64)


def _content(data: ReportData, roads: MapRoads, name: str, trips: Trajectories) -> dict[str, Any]:
    """Return a set of trips as JSON: name, color, and the roads of each trip by their place on the map."""
    meters = np.bincount(
        np.repeat(np.arange(len(trips)), trips.lengths), data.network.length_m[trips.road_ids], len(trips)
    )
    result = first_generated(data).get(name)
    reached = None if result is None or result.reached is None else result.reached[: len(trips)].astype(int).tolist()
    return {
        "name": name,
        "color": _STYLES.get(name, _BASELINE_STYLE)[0],
        "offsets": _packed(trips.offsets),
        "roads": _packed(np.searchsorted(roads.ids, trips.road_ids)),
        "km": np.round(meters / 1000, 3).tolist(),
        "reached": reached,
    }


def _ids(trips: Trajectories) -> list[str]:
    """Return the id of each request: that of its real trip, or its number."""
    ids = np.arange(len(trips)) if trips.ids is None else trips.ids
    return [str(each) for each in ids]


def _packed(values: npt.NDArray[Any]) -> str:
    """Return integers as Base64 of little-endian int32."""
    return base64.b64encode(np.asarray(values).astype("<i4").tobytes()).decode("ascii")
