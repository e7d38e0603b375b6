"""Metrics of requests: durations beside the real trip's, and the diversity of several samples of one request.

Shapes: n trips, R requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import entr

from hoser_kd.evaluation.memorization import route_hashes
from hoser_kd.evaluation.metric_registry import Metric
from hoser_kd.evaluation.trip_measures import trip_minutes

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.evaluation.context import EvaluationContext
    from hoser_kd.network.trajectories import Trajectories


class Diversity(NamedTuple):
    """Routes of the samples of each request."""

    samples: Int64Array
    """(R,) int64: samples of each request."""
    distinct: Int64Array
    """(R,) int64: distinct routes among them."""
    entropy: Float64Array
    """(R,) float64, nats: entropy of the shares of the routes."""

    @classmethod
    def of(cls, trips: Trajectories, requests: Int64Array) -> Diversity:
        """Count the routes of trips by request; `requests` is (n,) int64, from 0 to R - 1, each used."""
        samples = np.bincount(requests)
        route = np.unique(route_hashes(trips), return_inverse=True)[1].reshape(-1)
        keys, count = np.unique(requests * len(trips) + route, return_counts=True)
        request = keys // len(trips)
        entropy = np.bincount(request, entr(count / samples[request]), len(samples))
        return cls(samples, np.bincount(request, minlength=len(samples)), np.asarray(entropy, np.float64))


def _diversity(value: Callable[[Diversity], Float64Array]) -> Callable[[EvaluationContext], float | None]:
    def compute(context: EvaluationContext) -> float | None:
        if not _has_samples(context) or context.requests is None:
            return None
        return float(value(Diversity.of(context.generated, context.requests)).mean())

    return compute


def _has_samples(context: EvaluationContext) -> bool:
    """Return whether every request has two samples or more."""
    return context.requests is not None and bool(np.bincount(context.requests).min() >= 2)


def _best(key: str, value: Callable[[Float64Array], Float64Array]) -> Callable[[EvaluationContext], float | None]:
    """Return a metric: the best value of a request's samples, mean over requests, from a shape of the request."""

    def compute(context: EvaluationContext) -> float | None:
        if not context.paired or not _has_samples(context) or context.requests is None:
            return None
        best = np.zeros(context.requests.max() + 1)
        np.maximum.at(best, context.requests, value(context.request_shapes[key]))
        return float(best.mean())

    return compute


DIVERSITY = (
    Metric(
        "diversity.distinct_share",
        label="distinct routes",
        text="Distinct routes among the samples of a request over their number, mean over requests; only where every "
        "request has two samples or more (`generation.samples_per_od`), like the other metrics of this section.",
        is_share=True,
        compute=_diversity(lambda diversity: diversity.distinct / diversity.samples),
        source="distinct-n (Li et al., NAACL 2016), here over whole routes",
    ),
    Metric(
        "diversity.entropy",
        label="entropy of the routes",
        text="Entropy of the shares of the routes among the samples of a request, mean over requests: 0 for one route, "
        "ln k for k samples on k routes.",
        unit="nat",
        compute=_diversity(lambda diversity: diversity.entropy),
    ),
    Metric(
        "diversity.covered_share",
        label="real route among the samples",
        text="Share of requests with a sample that has exactly the roads of the real trip.",
        better="higher",
        is_share=True,
        compute=_best("edit_similarity", lambda similarity: (similarity == 1).astype(np.float64)),
        source="coverage (Naeem et al., ICML 2020), here of exact routes",
    ),
    Metric(
        "diversity.best_jaccard",
        label="best overlap with the real route",
        text="Largest overlap of a sample with the real trip of its request (roads in both over roads in either), mean "
        "over requests.",
        better="higher",
        compute=_best("jaccard", lambda jaccard: jaccard),
    ),
)


def duration_errors(real: Trajectories, generated: Trajectories) -> tuple[Float64Array, Float64Array]:
    """Return absolute errors of the trip durations, minutes, and real durations, minutes.

    Both (K,) float64, over the trips i whose generated trip ends where the real trip ends.
    """
    comparable = real.destinations == generated.destinations
    real_min, generated_min = trip_minutes(real)[comparable], trip_minutes(generated)[comparable]
    return np.abs(generated_min - real_min), real_min


def _duration_mae(context: EvaluationContext) -> float | None:
    if not context.paired or not context.has_times:
        return None
    errors, _ = duration_errors(context.real, context.generated)
    return float(errors.mean()) if len(errors) else None


def _duration_mape(context: EvaluationContext) -> float | None:
    if not context.paired or not context.has_times:
        return None
    errors, real_min = duration_errors(context.real, context.generated)
    moving = real_min > 0
    return float((errors[moving] / real_min[moving]).mean()) if moving.any() else None


PAIRED_DURATION = (
    Metric(
        "paired_duration.mae_min",
        label="duration, absolute error",
        text="Absolute difference of the durations of the generated and the real trip of the same request, mean over "
        "those that end on the same road.",
        unit="min",
        better="lower",
        compute=_duration_mae,
        source="travel time estimation (DeepTTE: Wang et al., AAAI 2018)",
    ),
    Metric(
        "paired_duration.mape",
        label="duration, relative error",
        text="The same difference over the duration of the real trip (MAPE), where that is above 0.",
        better="lower",
        is_share=True,
        compute=_duration_mape,
        source="travel time estimation (DeepTTE: Wang et al., AAAI 2018)",
    ),
)
"""Registered by `hoser_kd.evaluation.metrics`, like `DIVERSITY`."""
