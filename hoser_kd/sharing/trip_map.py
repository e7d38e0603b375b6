"""An interactive map of trips for notebooks, which works without a network connection.

Bokeh draws it, as the map of the report. Shapes: n trips, P points of the roads on the map.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.arguments import check_path
from hoser_kd.common.arrays import ranges, row_of_value
from hoser_kd.common.files import atomic_path
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.plots import COLORS
from hoser_kd.report.trip_map import MapRoads, road_figure, roads_near
from hoser_kd.sharing.student_trips import StudentTrips

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array

MAX_TRIPS = 300
"""Trips of each set that the map draws."""
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe-Ito colors of sets whose name has none of its own."""
_CALL = 'trip_map({"vanilla": trips, "distilled": others})'


class TripMap:
    """A map of sets of trips: shown as the last value of a notebook's cell, or saved as an HTML file."""

    def __init__(self, figure: Any, title: str) -> None:
        """`figure` is the Bokeh figure, to which glyphs can be added before the map is shown."""
        self.figure = figure
        self.title = title

    def page(self) -> str:
        """Return the page with Bokeh's script in it."""
        from bokeh.embed import file_html
        from bokeh.resources import Resources

        text: str = file_html(self.figure, Resources(mode="inline", minified=True), self.title)
        return text

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page, atomically."""
        check_path("path", path, 'map.save("map.html")')
        with atomic_path(path) as beside:
            beside.write_text(self.page(), encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that it cannot change the notebook's own page."""
        page = html.escape(self.page(), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:520px;border:0"></iframe>'


def trip_map(
    trips: Trajectories | Mapping[str, Trajectories],
    network: RoadNetwork | None = None,
    *,
    max_trips: int = MAX_TRIPS,
) -> TripMap:
    """Return a zoomable map of trips, or of sets of trips by name, such as those of two students.

    Sets have a color each; a click on a name in the legend hides its set, and a hover shows trip, roads and length. The
    network is that of the trips' student, or `network`, for trips of another source. The first `max_trips` of each set
    are drawn. Raises TypeError or ValueError for wrong arguments.
    """
    sets = dict(trips) if isinstance(trips, Mapping) else {"trips": trips}
    for name, each in sets.items():
        if not isinstance(each, Trajectories):
            raise TypeError(f"{name} is of type {type(each).__name__}, not trips. Call {_CALL}.")
    if isinstance(max_trips, bool) or not isinstance(max_trips, int) or max_trips < 1:
        raise ValueError(f"max_trips is {max_trips!r}, not an integer of 1 or more. Call {_CALL}.")
    roads_of = network or next((found for each in sets.values() if (found := _network_of(each)) is not None), None)
    if roads_of is None:
        raise ValueError(f"a map needs the roads. Give them: {_CALL[:-1]}, network=read_network(folder)).")
    shown = {name: each.take(np.arange(min(len(each), max_trips))) for name, each in sets.items()}
    if not any(len(each) for each in shown.values()):
        raise ValueError(f"there are no trips to draw. Call {_CALL}.")
    roads = roads_near(roads_of, {name: each for name, each in shown.items() if len(each)})
    figure = road_figure(roads)
    free = [color for color in _PALETTE if color not in {COLORS.get(name) for name in shown}]
    for place, (name, each) in enumerate(shown.items()):
        more = f" (first {max_trips} of {len(sets[name])})" if len(sets[name]) > max_trips else ""
        _draw(figure, roads, roads_of, each, f"{name}{more}", COLORS.get(name, free[place % len(free)]))
    figure.legend.click_policy = "hide"
    figure.legend.location = "top_left"  # the scale bar is at the top right
    _keep_proportions(figure)
    return TripMap(figure, ", ".join(shown))


def _keep_proportions(figure: Any) -> None:
    """Let a kilometer be equally long in both directions in a frame of any shape, with a margin around the roads."""
    from bokeh.models import DataRange1d, ScaleBar

    figure.x_range, figure.y_range = DataRange1d(range_padding=0.05), DataRange1d(range_padding=0.05)
    figure.match_aspect = True
    for bar in figure.select({"type": ScaleBar}):
        bar.range = figure.x_range


def _network_of(trips: Trajectories) -> RoadNetwork | None:
    return trips.student.network if isinstance(trips, StudentTrips) and trips.student is not None else None


def _draw(figure: Any, roads: MapRoads, network: RoadNetwork, trips: Trajectories, label: str, color: str) -> None:
    """Add the trips to a figure, with their ends."""
    from bokeh.models import ColumnDataSource, HoverTool

    if len(trips) == 0:
        return
    lines = _lines(roads, trips)
    meters = np.bincount(row_of_value(trips.offsets), network.length_m[trips.road_ids], len(trips))
    ids = np.arange(len(trips)).astype(str) if trips.ids is None else trips.ids
    source = ColumnDataSource(
        {
            "xs": [line[:, 0] for line in lines],
            "ys": [line[:, 1] for line in lines],
            "trip": [str(each) for each in ids],
            "roads": trips.lengths,
            "km": np.round(meters / 1000, 2),
            "start": [str(each) for each in trips.start_times.astype("datetime64[s]")],
        }
    )
    drawn = figure.multi_line(
        "xs", "ys", source=source, color=color, line_width=3, line_alpha=0.6, line_cap="round", legend_label=label
    )
    for corner, marker in ((0, "circle"), (-1, "square")):
        ends = np.array([line[corner] for line in lines])
        figure.scatter(ends[:, 0], ends[:, 1], marker=marker, size=6, color=color, legend_label=label)
    tooltips = [("trip", "@trip"), ("start", "@start"), ("roads", "@roads"), ("km", "@km")]
    figure.add_tools(HoverTool(renderers=[drawn], tooltips=tooltips))


def _lines(roads: MapRoads, trips: Trajectories) -> list[Float64Array]:
    """Return the points of each trip on the map, (points, 2) float64 each."""
    at = np.searchsorted(roads.ids, trips.road_ids)
    starts, counts = roads.offsets[at], np.diff(roads.offsets)[at]
    points = roads.xy[ranges(starts, counts)].astype(np.float64)
    ends = np.cumsum(counts)[trips.offsets[1:] - 1]
    return np.split(points, ends[:-1])
