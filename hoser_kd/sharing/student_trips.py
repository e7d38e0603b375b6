"""Trips of a student as users take them away: pandas, GeoDataFrame, Parquet, CSV, GeoJSON, LibCity.

Shapes: n trips, P roads of all trips.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.arguments import check_choice, check_path
from hoser_kd.common.arrays import Float64Array, Int64Array, row_of_value
from hoser_kd.common.files import atomic_path
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.sharing import exports
from hoser_kd.sharing.requests import OdPlaces
from hoser_kd.sharing.student import Student

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd


@dataclass(frozen=True, repr=False)
class StudentTrips(GeneratedTrajectories):
    """Trips with the student's road network and the requests: the result of `generate` and `travel_times`."""

    student: Student | None = field(default=None, compare=False, repr=False)
    """The student, with its road network."""
    requested_origins: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: requested first road."""
    requested_destinations: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64: requested last road."""
    origin_snap_m: Float64Array | None = None
    """(n,) float64: meters from the requested point to its road; None where roads were given."""
    destination_snap_m: Float64Array | None = None
    """(n,) float64: the same for destinations."""

    @classmethod
    def of(cls, trips: GeneratedTrajectories, student: Student, places: OdPlaces) -> StudentTrips:
        """Return the trips with their student and their requests."""
        return cls(
            **{each.name: getattr(trips, each.name) for each in fields(GeneratedTrajectories)},
            student=student,
            requested_origins=np.asarray(places.origins.roads, np.int64),
            requested_destinations=np.asarray(places.destinations.roads, np.int64),
            origin_snap_m=places.origins.distance_m,
            destination_snap_m=places.destinations.distance_m,
        )

    def take(self, rows: Int64Array) -> StudentTrips:
        """Return the trips at the given indices, in that order."""
        rows = np.asarray(rows, np.int64)
        part = super().take(rows)
        ids = np.arange(len(self)).astype(str).astype(object)[rows] if part.ids is None else np.asarray(part.ids)
        return StudentTrips(
            part.offsets,
            part.road_ids,
            part.times,
            ids,
            reached=self.reached[rows],
            expansions=self.expansions[rows],
            student=self.student,
            requested_origins=self.requested_origins[rows],
            requested_destinations=self.requested_destinations[rows],
            origin_snap_m=None if self.origin_snap_m is None else self.origin_snap_m[rows],
            destination_snap_m=None if self.destination_snap_m is None else self.destination_snap_m[rows],
        )

    @property
    def durations_s(self) -> Int64Array:
        """(n,) int64: seconds from entering the first road to entering the last."""
        return self.times[self.offsets[1:] - 1] - self.start_times

    def to_table(self) -> pa.Table:
        """Return one row per trip: its id, roads, times and outcome, the request, and the snap distances of points."""
        table = super().to_table()
        columns: dict[str, Any] = {
            "origin_road_id": self.requested_origins,
            "destination_road_id": self.requested_destinations,
            "origin_snap_m": self.origin_snap_m,
            "destination_snap_m": self.destination_snap_m,
        }
        for name, values in columns.items():
            if values is not None:
                table = table.append_column(name, pa.array(values))
        return table

    def to_pandas(self, rows: str = "trips") -> pd.DataFrame:
        """Return a DataFrame with one row per trip, or per road of a trip with `rows="roads"`.

        Trips: trajectory_id, origin_road_id, destination_road_id, reached, num_roads, start_time, end_time, duration_s,
        length_m if the student has its network, the snap distances of points, and the lists road_ids and times. Roads:
        trajectory_id, position, road_id, time. Times are on the clock of the training trips, without a time
        zone, so they can be the start times of other requests.
        """
        import pandas as pd

        check_choice("rows", rows, ("trips", "roads"), 'trips.to_pandas(rows="trips")')
        if rows == "roads":
            trip = row_of_value(self.offsets)
            return pd.DataFrame(
                {
                    "trajectory_id": exports.trip_ids(self)[trip],
                    "position": np.arange(len(trip)) - self.offsets[trip],
                    "road_id": self.road_ids,
                    "time": exports.stamps(self.times),
                }
            )
        frame = self._frame()
        table = super().to_table()
        frame["road_ids"], frame["times"] = table["road_ids"].to_pandas(), table["times"].to_pandas()
        return frame

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Return the rows of `to_pandas` without the lists, with a LineString along the roads, EPSG:4326.

        Raises ValueError if the student has no road network.
        """
        import geopandas as gpd

        from hoser_kd.generation.output_files import trip_lines

        lines = trip_lines(self, self._network("Lines need geometries"))
        return gpd.GeoDataFrame(self._frame(), geometry=lines.geometry)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write `to_table` as Parquet, which `hoser-kd evaluate --trips` reads."""
        check_path("path", path, 'trips.to_parquet("trips.parquet")')
        with atomic_path(path) as beside:
            pq.write_table(self.to_table(), beside, compression="zstd")

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write HOSER's columns mm_id, entity_id, traj_id, rid_list, time_list, and the requested roads.

        `hoser-kd evaluate --trips` and, without trips of a single road, `read_trips` read the file.
        """
        check_path("path", path, 'trips.to_csv("trips.csv")')
        with atomic_path(path) as beside:
            exports.write_csv(self, self.requested_origins, self.requested_destinations, beside)

    def to_geojson(self, path: str | PathLike[str], *, with_times: bool = False) -> None:
        """Write a FeatureCollection of LineStrings (RFC 7946), as QGIS and kepler.gl open it.

        `with_times` writes each coordinate as lon, lat, 0, seconds since 1970, which kepler.gl animates as trips. Times
        between the entries of two roads are interpolated by distance. Raises ValueError without a road network.
        """
        check_path("path", path, 'trips.to_geojson("trips.geojson")')
        network = self._network("GeoJSON needs geometries")
        with atomic_path(path) as beside:
            exports.write_geojson(self, self._frame(), network, beside, with_times=with_times)

    def to_libcity(self, folder: str | PathLike[str]) -> None:
        """Write LibCity's atomic files `<name>.geo`, `.rel`, `.usr`, `.dyna` and `config.json`, named as the folder.

        Locations are road ids; each trip has its own user. Raises ValueError without a road network.
        """
        check_path("folder", folder, 'trips.to_libcity("my_city")')
        exports.write_libcity(self, self._network("LibCity's .geo needs geometries"), folder)

    def _frame(self) -> pd.DataFrame:
        """Return a row per trip: id, request, outcome, numbers and snap distances."""
        import pandas as pd

        columns: dict[str, Any] = {
            "trajectory_id": exports.trip_ids(self),
            "origin_road_id": self.requested_origins,
            "destination_road_id": self.requested_destinations,
            "reached": self.reached,
            "num_roads": self.lengths,
            "start_time": exports.stamps(self.start_times),
            "end_time": exports.stamps(self.times[self.offsets[1:] - 1]),
            "duration_s": self.durations_s,
        }
        network = None if self.student is None else self.student.network
        if network is not None:
            columns["length_m"] = np.bincount(row_of_value(self.offsets), network.length_m[self.road_ids], len(self))
        for name in ("origin_snap_m", "destination_snap_m"):
            distance_m = getattr(self, name)
            if distance_m is not None:
                columns[name] = np.round(distance_m, 2)
        return pd.DataFrame(columns)

    def _network(self, purpose: str) -> Any:
        if self.student is None:
            raise ValueError(f"{purpose}, but these trips have no student. Take them from generate(student, ...).")
        return self.student.require_network(purpose)
