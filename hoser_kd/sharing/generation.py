"""`generate` for users: roads or points in, trips with exports out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hoser_kd.common.progress import Progress, silent
from hoser_kd.generation import generator
from hoser_kd.generation.generator import DEFAULT_MAX_STEPS
from hoser_kd.sharing.requests import MAX_SNAP_M, od_places, seconds_of
from hoser_kd.sharing.student import Student, student_of
from hoser_kd.sharing.student_trips import StudentTrips

if TYPE_CHECKING:
    from hoser_kd.generation.decoding import Decoding
    from hoser_kd.generation.prior import Prior
    from hoser_kd.hoser import HOSER

_CALL = "generate(student, origins, start_times, destinations)"


def generate(
    student: Student | HOSER,
    origins: Any,
    start_times: Any,
    destinations: Any,
    max_steps: int = DEFAULT_MAX_STEPS,
    *,
    decoding: Decoding | str | None = None,
    prior: Prior | None = None,
    concurrent: int | None = None,
    max_snap_m: float = MAX_SNAP_M,
    progress: Progress = silent,
) -> StudentTrips:
    """Generate a trip for each origin, start time and destination.

    `origins` and `destinations` are road ids, (n,) integers, or points: (n, 2) lon, lat in degrees, a GeoSeries or a
    list of shapely Points. Points take the nearest road, of a two-way street the direction of the trip; the result
    holds the distances, and a point farther than `max_snap_m` meters is refused. `start_times` (n,) are integer seconds
    since 1970 or datetimes without a time zone, on the clock of the training trips. The other arguments are those of
    `hoser_kd.generation.generator.generate`, and so are the trips.

    Raises DataError with the row of a wrong road, point or time, ConfigError for an unknown decoder, TypeError or
    ValueError for other wrong arguments.
    """
    owner = student_of(student, _CALL)
    places = od_places(owner, origins, destinations, max_snap_m, _CALL)
    trips = generator.generate(
        owner.model,
        places.origins.roads,
        seconds_of("start_times", start_times),
        places.destinations.roads,
        max_steps,
        decoding=decoding,
        prior=prior,
        concurrent=concurrent,
        encoded=owner.decoder,
        progress=progress,
    )
    return StudentTrips.of(trips, owner, places)
