"""Metrics of a file of trips that were paired with test trips, and what makes them incomparable.

Shapes: n generated trips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.progress import duration
from hoser_kd.evaluation.divergences import MIN_TRIPS_FOR_JSD, without_divergences
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.trip_measures import trip_minutes
from hoser_kd.network.trip_consistency import has_times

if TYPE_CHECKING:
    from hoser_kd.common.arrays import BoolArray, Int64Array
    from hoser_kd.config.evaluation import EvaluationConfig
    from hoser_kd.evaluation.trip_matching import TripMatch
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

MIN_COVERED_SHARE = 0.1
"""Files that answer a smaller share of the test trips get no Jensen-Shannon divergence."""
MAX_DURATION_RATIO = 100
"""A median duration this many times longer or shorter than that of the real trips is a wrong unit, not a model."""
_OVER_PAIRS = ("similarity", "counts.pairs")
"""Section and metric over pairs of trips, besides those of the same request: a repeated real trip is in several."""


def evaluate_matched(
    trips: Trajectories,
    match: TripMatch,
    test: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig,
    *,
    destinations: Int64Array | None = None,
    training: Trajectories | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the metrics of `hoser_kd.evaluation.metrics.evaluate` of generated trips; arguments as there.

    Metrics of the same request are means over all generated trips. Distributions are compared with each test trip that
    is answered once, however often it is: otherwise, one trip written n times would equal its n copies. Divergences
    are left out where `has_divergences` is False.
    """
    if match.test_rows is None:
        return evaluate(test, trips, network, config, destinations=destinations, training=training)
    real = test.take(match.test_rows)
    result = evaluate(real, trips, network, config, destinations=destinations, training=training, paired=True)
    if match.most_repeats > 1:
        once = evaluate(test.take(np.unique(match.test_rows)), trips, network, config, training=training)
        result = {section: _with(section, values, once.get(section, {})) for section, values in result.items()}
    return result if has_divergences(match) else without_divergences(result)


def has_divergences(match: TripMatch) -> bool:
    """Return whether the trips answer all test trips, or enough of them for a divergence."""
    enough = match.num_covered >= max(MIN_TRIPS_FOR_JSD, MIN_COVERED_SHARE * match.num_test)
    return match.is_complete or enough


def _with(section: str, over_trips: dict[str, Any], once: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a section: those over pairs of trips, and the others with each real trip once."""
    return over_trips | {
        key: value for key, value in once.items() if not {section, f"{section}.{key}"} & set(_OVER_PAIRS)
    }


def cautions(name: str, trips: Trajectories, match: TripMatch, test: Trajectories) -> Iterator[str]:
    """Yield a sentence for everything about the trips that makes their metrics incomparable; `name`: the generator's.

    They are few test trips, repeated test trips, durations of another order of magnitude than the real ones, and start
    times that were not requested.
    """
    if not match.is_complete:
        yield _coverage(name, match)
    if match.most_repeats > 1:
        yield (
            f"Up to {match.most_repeats:,} trips of {name} answer the same test trip: metrics of the same request are "
            "means over all trips, distributions are compared with each answered test trip once."
        )
    yield from _durations(name, trips, match, test)
    yield from _start_times(name, trips, match, test)


def _coverage(name: str, match: TripMatch) -> str:
    text = (
        f"{name} answers {match.num_covered:,} of {match.num_test:,} test trips "
        f"({match.num_covered / match.num_test:.1%}): its metrics describe these trips, not the test split, and do not "
        "compare with the other columns."
    )
    if has_divergences(match):
        return text
    return (
        f"{text} Divergences (JSD) are left out: they need {MIN_TRIPS_FOR_JSD} answered test trips and "
        f"{MIN_COVERED_SHARE:.0%} of them."
    )


def _durations(name: str, trips: Trajectories, match: TripMatch, test: Trajectories) -> Iterator[str]:
    real = test if match.test_rows is None else test.take(np.unique(match.test_rows))
    if not has_times(real):
        return
    own, usual = (float(np.median(trip_minutes(each)[each.lengths > 1])) for each in (trips, real) if len(each))
    if usual > 0 and not 1 / MAX_DURATION_RATIO <= own / usual <= MAX_DURATION_RATIO:
        yield (
            f"The median duration of {name}'s trips is {_span(60 * own)}, that of the real trips "
            f"{_span(60 * usual)}: check the unit of its times."
        )


def _start_times(name: str, trips: Trajectories, match: TripMatch, test: Trajectories) -> Iterator[str]:
    if match.test_rows is None:
        return
    other = _starts_unrequested(trips, test.take(match.test_rows), test)
    if not other.any():
        return
    shift_s = np.abs(trips.start_times - test.start_times[match.test_rows])[other]
    yield (
        f"{other.sum():,} of {len(trips):,} trips of {name} start at another time than the test trips of their origin "
        f"and destination, by a median of {_span(float(np.median(shift_s)))}: check their times, or the time zone."
    )


def _starts_unrequested(trips: Trajectories, real: Trajectories, test: Trajectories) -> BoolArray:
    """Return (n,) bool: whether no test trip of the request's origin and destination starts when a trip does.

    `real` are the n paired test trips; another one of the same origin and destination may have been requested.
    """
    known = np.column_stack([test.origins, test.destinations, test.start_times])
    own = np.column_stack([real.origins, real.destinations, trips.start_times])
    ids = np.unique(np.concatenate([known, own]), axis=0, return_inverse=True)[1].reshape(-1)
    unrequested: BoolArray = ~np.isin(ids[len(known) :], ids[: len(known)])
    return unrequested


def _span(seconds: float) -> str:
    """Return a time span as text, from two days on in days."""
    return duration(seconds) if seconds < 2 * 86_400 else f"{seconds / 86_400:,.0f} days"
