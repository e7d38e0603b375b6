"""The distilled student against the plain one, figure by figure, paired by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hoser_kd.evaluation.metrics import DEFINITIONS, Definition
from hoser_kd.evaluation.statistics import Difference, paired_difference

Runs = Mapping[int, Mapping[str, float]]
"""Figures by name, by seed."""
Verdict = Literal["better", "leans better", "same", "leans worse", "worse"]

NEXT_STEP: dict[str, Definition] = {
    "accuracy": Definition("", "Share of steps whose most probable next road is the one driven.", "higher"),
    "decision_accuracy": Definition("", "Accuracy over the steps that have two candidates or more.", "higher"),
    "decision_share": Definition("", "Share of steps that have two candidates or more.", None),
    "top_3": Definition("", "Share of steps whose next road is among the three most probable.", "higher"),
    "nll": Definition("nat", "Negative log-likelihood of the next road driven, mean over steps.", "lower"),
    "calibration_error": Definition(
        "",
        "Expected calibration error: how far stated confidence and accuracy lie apart, "
        "mean over 15 bins of confidence weighted by their steps.",
        "lower",
    ),
    "time_mae_s": Definition("s", "Absolute error of the time to the next road, mean over steps.", "lower"),
    "time_mape": Definition(
        "", "Absolute error of the time to the next road over the real time (at least 1 s), mean over steps.", "lower"
    ),
    "time_log_mape": Definition(
        "", "The published time loss: the same relative error of log(1 + seconds), mean over steps.", "lower"
    ),
    "teacher_agreement": Definition(
        "",
        "Share of the steps with two candidates or more at which the student's choice is one of the teacher's best.",
        None,
    ),
    "teacher_kl": Definition(
        "nat",
        "Kullback-Leibler divergence of the student from the teacher, mean over the steps with two candidates or more.",
        None,
    ),
    "steps": Definition("steps", "Steps tested.", None),
}
"""Figures of the prediction of the next step on the test trips."""

SECTIONS = {
    "next_step": "Next step",
    "counts": "Trips",
    "requests": "OdPairs",
    "similarity": "Shape, against real trips of the same OD cells",
    "paired": "Shape, against the real trip of the same request",
    "distance": "Traveled distance",
    "radius": "Radius",
    "gyration": "Radius of gyration",
    "duration": "Time to the next road",
    "trip_length": "Length of a trip",
    "trip_duration": "Duration of a trip",
    "road_use": "Use of the roads",
    "training": "Repetition of training trips",
}
"""Headings of the sections of figures, in the order of reading."""

LABELS = {
    "accuracy": "accuracy",
    "decision_accuracy": "accuracy where there is a choice",
    "decision_share": "steps with a choice",
    "top_3": "top-3 accuracy",
    "nll": "negative log-likelihood",
    "calibration_error": "calibration error",
    "time_mae_s": "time, absolute error",
    "time_mape": "time, relative error",
    "time_log_mape": "time, published loss",
    "teacher_agreement": "agreement with the teacher",
    "teacher_kl": "divergence from the teacher (KL)",
    "steps": "steps",
    "jsd": "divergence (JSD)",
    "generated_mean": "mean",
    "real_mean": "real mean",
    "real": "real",
    "generated": "generated",
    "pairs": "pairs",
    "reached_share": "destination reached",
    "od_cell_share": "OD cells as asked",
    "hausdorff": "Hausdorff",
    "dtw": "DTW",
    "edr": "EDR",
    "edr_published": "EDR as published",
    "hausdorff_per_road": "Hausdorff per road",
    "dtw_per_road": "DTW per road",
    "detour_ratio": "detour ratio",
    "edit_similarity": "edit similarity of roads",
    "jaccard": "overlap of roads (Jaccard)",
    "identical_share": "exactly the real trip",
    "memorized_share": "copies of a training trip",
    "generation_reached": "validation trips that arrive",
    "generation_score": "score of validation trips",
    "real_memorized_share": "the same, real trips",
    "kl": "distillation loss (KL)",
    "loss": "loss",
}
"""What a figure is called where people read it."""

_SHARES = {
    "accuracy",
    "decision_accuracy",
    "top_3",
    "calibration_error",
    "time_mape",
    "time_log_mape",
    "teacher_agreement",
}
_HIGHER_WORDS, _LOWER_WORDS = ("accuracy", "recall", "share"), ("loss", "nll", "mae", "mape", "ece", "error", "kl")


@dataclass(frozen=True)
class Row:
    """One figure of both students."""

    name: str
    """`section.figure`."""
    definition: Definition
    """Unit, meaning and direction."""
    vanilla: tuple[float, ...]
    """Of every seed of the plain student."""
    distilled: tuple[float, ...]
    """Of every seed of the distilled student; empty without one."""
    real: float | None
    """The value of real trips, where the figure has one."""
    difference: Difference | None
    """Distilled minus vanilla over the seeds both have; None without any."""
    verdict: Verdict | None
    """Which student is better; None where no direction is, or nothing to compare."""
    effect: float | None = None
    """Size of the difference: its mean over its standard deviation over the seeds (Cohen's d for pairs); None where
    fewer than two seeds have both, or all differ by the same."""

    @property
    def section(self) -> str:
        """The part of the name before the point."""
        return self.name.partition(".")[0]

    @property
    def label(self) -> str:
        """The figure in words, without its section."""
        figure = self.name.partition(".")[2]
        return LABELS.get(figure, figure.replace("_", " "))

    @property
    def is_share(self) -> bool:
        """Whether it reads best as a percentage."""
        figure = self.name.partition(".")[2]
        return figure.endswith("_share") or figure in _SHARES

    @property
    def relative(self) -> Difference | None:
        """The difference in percent of the plain student's mean; None where that is 0 or there is no difference."""
        mean = float(np.mean(self.vanilla)) if self.vanilla else 0.0
        if self.difference is None or mean == 0:
            return None
        low, high = sorted((100 * self.difference.low / mean, 100 * self.difference.high / mean))
        return Difference(100 * self.difference.mean / mean, low, high)


def compare(vanilla: Runs, distilled: Runs, confidence: float = 0.95) -> list[Row]:
    """Return a row for each figure that either student has, in the order of `SECTIONS`.

    Figures are named `section.figure`, as `evaluation.metrics.flatten` names them, and `next_step.figure`. Where the
    aim is the real value (a `generated_mean`, the detour ratio), the one that comes closer to it is better. Real means
    stand beside the generated ones and have no row.
    """
    names = dict.fromkeys(name for runs in (vanilla, distilled) for figures in runs.values() for name in figures)
    order = {section: place for place, section in enumerate(SECTIONS)}
    chosen = [name for name in names if not name.endswith(".real_mean")]
    chosen.sort(key=lambda name: order.get(name.partition(".")[0], len(order)))
    return [_row(name, vanilla, distilled, confidence) for name in chosen]


def definition_of(name: str) -> Definition:
    """Return the definition of `section.figure`; an unknown figure gets its direction from its name."""
    section, _, figure = name.partition(".")
    known = NEXT_STEP.get(figure) if section == "next_step" else DEFINITIONS.get(name)
    if known is not None:
        return known
    words = figure.split("_")
    if any(word in words for word in _LOWER_WORDS):
        return Definition("", "", "lower")
    return Definition("", "", "higher" if any(word in words for word in _HIGHER_WORDS) else None)


def _row(name: str, vanilla: Runs, distilled: Runs, confidence: float) -> Row:
    definition = definition_of(name)
    a, b = ({seed: figures[name] for seed, figures in runs.items() if name in figures} for runs in (vanilla, distilled))
    real = _real_value(name, [*vanilla.values(), *distilled.values()])
    aim = 1.0 if name == "paired.detour_ratio" else real if name.endswith(".generated_mean") else None
    difference, verdict, effect = None, None, None
    both = [seed for seed in a if seed in b]
    if both:
        plain, taught = np.array([a[seed] for seed in both]), np.array([b[seed] for seed in both])
        difference = paired_difference(taught, plain, confidence)
        spread = float((taught - plain).std(ddof=1)) if len(both) > 1 else 0.0
        effect = difference.mean / spread if spread > 0 else None
        if aim is not None:
            verdict = _verdict(paired_difference(abs(taught - aim), abs(plain - aim), confidence), "lower")
        elif definition.better is not None:
            verdict = _verdict(difference, definition.better)
    return Row(name, definition, tuple(a.values()), tuple(b.values()), real, difference, verdict, effect)


def _real_value(name: str, runs: list[Mapping[str, float]]) -> float | None:
    partner = {"generated_mean": "real_mean", "memorized_share": "real_memorized_share"}
    section, _, figure = name.partition(".")
    values = _values(runs, f"{section}.{partner[figure]}") if figure in partner else iter(())
    return next(values, None)


def _values(runs: list[Mapping[str, float]], name: str) -> Iterator[float]:
    return (figures[name] for figures in runs if name in figures)


def _verdict(difference: Difference, better: Literal["lower", "higher"]) -> Verdict:
    if difference.mean == 0:
        return "same"
    good = (difference.mean < 0) == (better == "lower")
    if difference.is_clear:
        return "better" if good else "worse"
    return "leans better" if good else "leans worse"
