"""The built-in metrics, one record each, and `evaluate`, which computes those of generated trips.

To add a metric, `register` a record below. The measuring functions are in `trip_measures`, `distributions`, `pairing`
and `trip_similarity`; what they are computed from is in `context`. Records of metrics that other papers report are in
`flows`, `request_metrics` and `training_records` (measured by `privacy` and `utility`).

The published evaluation (HOSER: Cao et al., AAAI 2025, section "Experiments") compares distributions (traveled
distance, radius, step duration) over all trips, and shapes (Hausdorff, DTW, EDR) over pairs of a real and a generated
trip between the same two OD cells. Its numbers are reproduced, including earth radii and histogram edges, with two
exceptions: DTW is exact, and EDR is given both corrected and as published.

Shapes: n trips.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hoser_kd.common.errors import DataWarning
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.arguments import check_destinations, check_trips, check_types
from hoser_kd.evaluation.context import EvaluationContext
from hoser_kd.evaluation.distributions import jensen_shannon
from hoser_kd.evaluation.flows import FLOWS, OD_MATCH
from hoser_kd.evaluation.metric_registry import Metric, all_metrics, check_built_in_references, register
from hoser_kd.evaluation.next_step_records import NEXT_STEP
from hoser_kd.evaluation.pairing import in_same_request_cell
from hoser_kd.evaluation.request_metrics import DIVERSITY, PAIRED_DURATION
from hoser_kd.evaluation.training_records import PRIVACY, UTILITY
from hoser_kd.evaluation.trip_measures import road_use

if TYPE_CHECKING:
    import numpy.typing as npt

    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


NO_TIMES = (
    "There is no time information in the real trips: all roads of a trip have the same time. Metrics of times and "
    "durations are left out. Give the time at which each road is entered."
)
"""Why there are no metrics of durations."""


def evaluate(
    real: Trajectories,
    generated: Trajectories,
    network: RoadNetwork,
    config: EvaluationConfig | None = None,
    *,
    destinations: Int64Array | None = None,
    training: Trajectories | None = None,
    paired: bool = False,
    details: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compare generated trips with real ones (HOSER: Cao et al., AAAI 2025).

    Args:
        real: the real trips, usually the test split; at least one, each of one road or more.
        generated: the generated trips, likewise.
        network: the road network of both.
        config: side of the OD cells and EDR threshold; the defaults are the published ones.
        destinations: (n,) int64, the requested destination of each generated trip. With `paired`, it defaults to the
            destinations of the real trips.
        training: the training trips, for the metrics of memorized trips, privacy and utility.
        paired: generated trip i answers the request (origin, destination) of real trip i.
        details: add `details`, the values of every trip and pair and the histograms, as lists.

    Returns:
        Floats by section and metric, for every record of `METRICS` that has a function. Undefined metrics are left
        out: sections `requests`, `paired`, `training` and the like without their arguments, `diversity` unless every
        request is repeated, and means over no pair. Durations (`duration`, `trip_duration`, `paired_duration`) are left
        out if all roads of each real trip have the same time.

    Warns with DataWarning where there is no time information.

    Raises:
        TypeError: an argument has another type, for example because two are swapped.
        ValueError: there are no trips, or `destinations` or `paired` does not match their number.
        DataError: a trip has no road, or a road id is not on the network; names the argument and the trip.
    """
    check_types(real, generated, network, config, training, paired=paired, details=details)
    _check_sizes(real, generated, paired=paired)
    for name, trips in (("real", real), ("generated", generated), ("training", training)):
        if trips is not None:
            check_trips(name, trips, network)
    if destinations is not None:
        destinations = check_destinations(destinations, len(generated), network)
    elif paired:
        destinations = real.destinations

    config = EvaluationConfig() if config is None else config
    context = EvaluationContext(real, generated, network, config, destinations, training, bool(paired))
    if not context.has_times:
        warnings.warn(NO_TIMES, DataWarning, stacklevel=2)
    result: dict[str, dict[str, Any]] = {}
    for metric in all_metrics():
        value = None if metric.compute is None else metric.compute(context)
        if value is not None:
            result.setdefault(metric.section, {})[metric.key] = float(value)
    return {**result, "details": context.details()} if details else result


def _check_sizes(real: Trajectories, generated: Trajectories, *, paired: bool) -> None:
    """Raise ValueError where there are no trips, or, with `paired`, not as many of both."""
    if len(real) == 0 or len(generated) == 0:
        raise ValueError("evaluate needs at least one real and one generated trip")
    if paired and len(real) != len(generated):
        raise ValueError(
            f"paired=True needs as many generated trips as real ones, got {len(generated)} and {len(real)}"
        )


def flatten(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the result of `evaluate` by `section.metric`, without the details. Raises TypeError for others."""
    if not isinstance(metrics, Mapping) or not all(isinstance(values, Mapping) for values in metrics.values()):
        raise TypeError("metrics is not a dict of sections. Call flatten(evaluate(real, generated, network)).")
    return {
        f"{section}.{key}": value
        for section, values in metrics.items()
        if section != "details"
        for key, value in values.items()
    }


_HOSER = "HOSER (Cao et al., AAAI 2025)"


def _mean(values: npt.NDArray[Any] | None) -> float | None:
    """Return the mean of (n,) values; None where there are none."""
    return None if values is None or len(values) == 0 else float(values.mean())


for _metric in NEXT_STEP:
    register(_metric)

# Generated trips.
for _metric in (
    Metric(
        "counts.real",
        label="real",
        text="Number of real trips.",
        unit="trips",
        compute=lambda context: len(context.real),
    ),
    Metric(
        "counts.generated",
        label="generated",
        text="Number of generated trips.",
        unit="trips",
        compute=lambda context: len(context.generated),
    ),
    Metric(
        "counts.pairs",
        label="pairs",
        text="Number of pairs of a real and a generated trip between the same two OD cells (200 m): the k-th real trip "
        "of an OD with its k-th generated one.",
        unit="pairs",
        compute=lambda context: len(context.pairs),
    ),
):
    register(_metric)


def _register_distribution(section: str, quantity: str, unit: str, *, headline: bool = False) -> None:
    """Register means and divergence of one of `trip_measures.MEASURES`, which `section` names."""

    def value(name: str) -> Any:
        def compute(context: EvaluationContext) -> float | None:
            pair = context.distribution(section)
            if pair is None:
                return None
            return pair.divergence if name == "jsd" else _mean(pair.real if name == "real" else pair.generated)

        return compute

    register(
        Metric(
            f"{section}.real_mean",
            label="real mean",
            text=f"Mean {quantity}, real trips.",
            unit=unit,
            compute=value("real"),
        )
    )
    register(
        Metric(
            f"{section}.generated_mean",
            label="mean",
            text=f"Mean {quantity}, generated trips; closest to the real mean is best.",
            unit=unit,
            compute=value("generated"),
            real=f"{section}.real_mean",
            target="real",
        )
    )
    register(
        Metric(
            f"{section}.jsd",
            label="divergence (JSD)",
            text=f"Jensen-Shannon divergence between the real and the generated histogram of the {quantity}: 0 if "
            "equal, ln 2 = 0.693 if disjoint.",
            unit="nat",
            better="lower",
            compute=value("jsd"),
            headline=headline,
            is_divergence=True,
            source=_HOSER if headline else "",
        )
    )


_register_distribution(
    "distance", "traveled distance (great circles from road center to road center)", "km", headline=True
)
_register_distribution(
    "radius", "radius of a trip (mean distance of its road centers from their mean)", "km", headline=True
)
_register_distribution(
    "gyration", "radius of gyration of a trip (root mean square distance of its road centers from their mean)", "km"
)
_register_distribution("duration", "time from one road to the next", "min", headline=True)
_register_distribution("trip_length", "total length of a trip's roads", "km")
_register_distribution("trip_duration", "time from a trip's first road to its last", "min")
register(
    Metric(
        "road_use.jsd",
        label="divergence (JSD)",
        text="Jensen-Shannon divergence between the distributions of visits over the roads, real and generated.",
        unit="nat",
        better="lower",
        compute=lambda context: jensen_shannon(
            road_use(context.real, context.network), road_use(context.generated, context.network)
        ),
        is_divergence=True,
    )
)


def _register_shapes(section: str, over: str, shapes: str, *, headline: bool = False) -> None:
    """Register the mean shape distances over the pairs of `EvaluationContext.<shapes>`; `over` describes them."""

    def shape(key: str, label: str, text: str, unit: str, *, variant: bool = False) -> None:
        twin = f"{section}.edr" if variant else None if section == "similarity" else f"similarity.{key}"
        register(
            Metric(
                f"{section}.{key}",
                label=label,
                text=text,
                unit=unit,
                better="lower",
                compute=lambda context: _mean(getattr(context, shapes).get(key)),
                headline=headline and key in {"hausdorff", "dtw", "edr"},
                same_as=twin,
                variant=variant,
                source=_HOSER if headline and "per_road" not in key else "",
            )
        )

    shape("hausdorff", "Hausdorff", f"Hausdorff distance between two trips' road centers, mean over {over}.", "km")
    shape(
        "dtw",
        "DTW",
        "Dynamic time warping: great-circle distances summed along the best alignment of two trips' road centers, mean "
        f"over {over}. Exact; the published values come from an approximation (fastdtw, radius 1) and are at or above "
        "it.",
        "km",
    )
    shape(
        "edr",
        "EDR",
        "Edit distance on real sequences: edits that turn one trip's road centers into the other's, where centers "
        f"closer than the threshold (100 m) match, over the longer trip's number of roads, mean over {over}.",
        "",
    )
    shape(
        "edr_published",
        "EDR as published",
        "EDR as published, with latitude and longitude swapped; for comparison with published tables only.",
        "",
        variant=True,
    )
    shape(
        "hausdorff_per_road",
        "Hausdorff per road",
        f"Hausdorff distance over the mean number of roads of the two trips, mean over {over}.",
        "km",
    )
    shape(
        "dtw_per_road", "DTW per road", f"DTW over the mean number of roads of the two trips, mean over {over}.", "km"
    )


_register_shapes("similarity", "the pairs of the same OD cells", "pair_shapes", headline=True)
register(
    Metric(
        "requests.reached_share",
        label="destination reached",
        text="Share of generated trips that end on the requested road.",
        better="higher",
        is_share=True,
        headline=True,
        compute=lambda context: (
            None if context.destinations is None else _mean(context.generated.destinations == context.destinations)
        ),
    )
)


def _od_cell_share(context: EvaluationContext) -> float | None:
    if context.destinations is None:
        return None
    network, generated = context.network, context.generated
    starts = in_same_request_cell(network, context.requested_origins, generated.origins)
    ends = in_same_request_cell(network, context.destinations, generated.destinations)
    return _mean(starts & ends)


register(
    Metric(
        "requests.od_cell_share",
        label="requested OD cells",
        text="Share of generated trips that start and end in the requested cells (0.001°).",
        better="higher",
        is_share=True,
        compute=_od_cell_share,
    )
)
_register_shapes("paired", "generated trips and the real trip of the same request", "request_shapes")


def _request_values(context: EvaluationContext, key: str) -> Float64Array | None:
    return context.request_shapes.get(key)


register(
    Metric(
        "paired.edit_similarity",
        label="edit similarity of roads",
        text="1 minus the edits that turn one sequence of road ids into the other over the longer one's number of "
        "roads, mean over requests; 1 is the same route.",
        better="higher",
        compute=lambda context: _mean(_request_values(context, "edit_similarity")),
    )
)
register(
    Metric(
        "paired.jaccard",
        label="overlap of roads (Jaccard)",
        text="Roads in both the generated and the real trip of a request over roads in either, mean over requests.",
        better="higher",
        compute=lambda context: _mean(_request_values(context, "jaccard")),
    )
)


def _identical_share(context: EvaluationContext) -> float | None:
    similarity = _request_values(context, "edit_similarity")
    return None if similarity is None else _mean(similarity == 1)


register(
    Metric(
        "paired.identical_share",
        label="identical to the real trip",
        text="Share of requests whose generated trip has exactly the roads of the real trip.",
        better="higher",
        is_share=True,
        compute=_identical_share,
    )
)


def _detour_ratio(context: EvaluationContext) -> float | None:
    ratios = _request_values(context, "detour_ratio")
    return None if ratios is None else _mean(ratios[~np.isnan(ratios)])


register(
    Metric(
        "paired.detour_ratio",
        label="detour ratio",
        text="Length of the generated trip over that of the real trip of the same request, mean over those that end on "
        "the same road; 1 is the real length.",
        target=1.0,
        compute=_detour_ratio,
    )
)
register(
    Metric(
        "training.memorized_share",
        label="memorized trips",
        text="Share of generated trips with exactly the roads of a training trip.",
        is_share=True,
        real="training.real_memorized_share",
        compute=lambda context: _mean(context.memorized),
    )
)
register(
    Metric(
        "training.real_memorized_share",
        label="memorized trips, real",
        text="The same share of the real trips: how often trips repeat anyway.",
        is_share=True,
        compute=lambda context: _mean(context.real_memorized),
    )
)

# Metrics of other papers, after the ones above: the order of metrics.json is kept.
for _metric in (*FLOWS, *OD_MATCH, *PAIRED_DURATION, *DIVERSITY, *PRIVACY, *UTILITY):
    register(_metric)

check_built_in_references()
