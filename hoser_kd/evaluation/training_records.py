"""Records of the metrics that need training trips: `hoser_kd.evaluation.privacy` and `hoser_kd.evaluation.utility`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.evaluation.metric_registry import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from hoser_kd.evaluation.context import EvaluationContext
    from hoser_kd.evaluation.privacy import Privacy
    from hoser_kd.evaluation.utility import NextRoadScore


def _privacy(value: Callable[[Privacy], float | None]) -> Callable[[EvaluationContext], float | None]:
    def compute(context: EvaluationContext) -> float | None:
        return None if context.privacy is None else value(context.privacy)

    return compute


_NEAREST = "nearest training trip"
_RECORD = "distance to the closest record (Zhao et al., ACML 2021)"
PRIVACY = (
    Metric(
        "privacy.nearest_mean",
        label=_NEAREST,
        text="Distance of a generated trip to the nearest training trip, mean over trips: 1 minus roads in both over "
        "roads in either (Jaccard), so 0 for the same roads and 1 for no common road. Well below that of the real test "
        "trips, generated trips repeat training trips.",
        target="real",
        real="privacy.real_nearest_mean",
        compute=_privacy(lambda privacy: float(privacy.nearest.mean())),
        source=_RECORD,
    ),
    Metric(
        "privacy.real_nearest_mean",
        label=f"{_NEAREST}, real",
        text="The same of the real test trips.",
        compute=_privacy(lambda privacy: float(privacy.real_nearest.mean())),
    ),
    Metric(
        "privacy.nearest_p5",
        label=f"{_NEAREST}, 5th percentile",
        text="5th percentile of this distance over the generated trips.",
        target="real",
        real="privacy.real_nearest_p5",
        same_as="privacy.nearest_mean",
        variant=True,
        compute=_privacy(lambda privacy: float(np.quantile(privacy.nearest, 0.05))),
        source=_RECORD,
    ),
    Metric(
        "privacy.real_nearest_p5",
        label=f"{_NEAREST}, 5th percentile, real",
        text="The same of the real test trips.",
        compute=_privacy(lambda privacy: float(np.quantile(privacy.real_nearest, 0.05))),
    ),
    Metric(
        "privacy.membership_auc",
        label="membership inference AUC",
        text="Area under the ROC curve of telling training trips from test trips by their distance to the nearest "
        "generated trip (for a test trip: among those of other requests): 0.5 is chance, above it generated trips "
        "give training trips away. Only where the requests are those of test trips. A lower bound of what an attacker "
        "with the model can do; a few hundred trips show only gross copying, and where the splits differ in time or "
        "place, so does the value of the real trips.",
        target=0.5,
        real="privacy.real_membership_auc",
        compute=_privacy(lambda privacy: privacy.membership_auc),
        source="full black-box attack of GAN-Leaks (Chen et al., CCS 2020)",
    ),
    Metric(
        "privacy.real_membership_auc",
        label="membership inference AUC, real",
        text="The same with the test trips in place of the generated ones: 0.5 where the splits are alike.",
        compute=_privacy(lambda privacy: privacy.real_membership_auc),
    ),
)


def _utility(index: int, value: Callable[[NextRoadScore], float]) -> Callable[[EvaluationContext], float | None]:
    def compute(context: EvaluationContext) -> float | None:
        return None if context.utility is None else value(context.utility[index])

    return compute


_TSTR = "train on synthetic, test on real (Esteban, Hyland and Rätsch, 2017)"
UTILITY = (
    Metric(
        "utility.nll",
        label="negative log-likelihood",
        text="Negative log-likelihood of the next roads of the real test trips under a Markov chain of order 1 fitted "
        "on the generated trips, mean over steps. Its smoothing is chosen on a held-out fifth of them. Trips generated "
        "for the requests of the test trips have the same ends, and can score better than training trips.",
        unit="nat",
        better="lower",
        real="utility.real_nll",
        compute=_utility(0, lambda score: score.nll),
        source=_TSTR,
    ),
    Metric(
        "utility.real_nll",
        label="negative log-likelihood, trained on real trips",
        text="The same, fitted on as many training trips as there are generated ones (all, if fewer).",
        unit="nat",
        compute=_utility(1, lambda score: score.nll),
    ),
    Metric(
        "utility.accuracy",
        label="accuracy",
        text="Share of the steps of the real test trips whose most probable next road under this chain is the true "
        "one; k equally probable roads count 1/k each.",
        better="higher",
        is_share=True,
        real="utility.real_accuracy",
        compute=_utility(0, lambda score: score.accuracy),
        source=_TSTR,
    ),
    Metric(
        "utility.real_accuracy",
        label="accuracy, trained on real trips",
        text="The same, fitted on as many training trips as there are generated ones (all, if fewer).",
        is_share=True,
        compute=_utility(1, lambda score: score.accuracy),
    ),
)
"""Registered by `hoser_kd.evaluation.metrics`, like `PRIVACY`."""
