"""How well a student tells the next road and its time, on trips it did not see, and what a guess would reach.

Shapes: B trips, T steps, C candidates of the step with most, S steps of all trips together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.optimizer import Precision, autocast
from hoser_kd.common.progress import Progress, silent
from hoser_kd.hoser import collate
from hoser_kd.student.losses import LabelSource, RaggedLabels, StoredLabels, kl_loss

if TYPE_CHECKING:
    from hoser_kd.common.arrays import Float64Array, Int64Array
    from hoser_kd.hoser import HOSER, StudentOutput, TimeScale
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

CALIBRATION_BINS = 15
_SUMMED = ("correct", "in_top_3", "nll", "decision", "decision_correct", "error_s", "relative_error", "log_error")
_SUMMED_WITH_TEACHER = ("decision_agrees", "decision_kl")


@torch.no_grad()
def evaluate_student(
    model: HOSER,
    trajectories: Trajectories,
    *,
    labels: RaggedLabels | LabelSource | None = None,
    temperature: float = 1.0,
    batch_size: int = 256,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> dict[str, float]:
    """Return figures over all steps of the trips; the model's mode is left as it was.

    `accuracy`, `top_3` (share of steps whose true next road is among the three best), `nll` (nats a step),
    `calibration_error` (expected, 15 equal bins of confidence); `decision_share`, `decision_accuracy` (steps with
    two candidates or more, and the accuracy on them); `time_mae_s`, `time_mape` (in real seconds) and
    `time_log_mape` (the published loss, of log1p seconds); `steps`. With the teacher's `labels` of these trips,
    over decisions: `teacher_agreement` (the student's choice is one of the teacher's best) and `teacher_kl` at
    `temperature`. Processes that train together share the trips, and all return the figures of all trips.
    """
    was_training = model.training
    model.eval()
    source = as_label_source(labels, trajectories)
    team = DistributedContext.current()
    order = team.share(np.argsort(trajectories.lengths, kind="stable"))
    names = (*_SUMMED, *(() if source is None else _SUMMED_WITH_TEACHER))
    totals = np.zeros(1 + len(names) + CALIBRATION_BINS)
    for start in range(0, len(order), batch_size):
        batch = collate(trajectories, order[start : start + batch_size]).to(model.device)
        with autocast(precision, model.device):
            output = model(batch)
        scores = None if source is None else source(batch, output.candidates)[output.step_mask]
        totals += _totals(_step_figures(output, model.time_scale, scores, temperature), names)
        progress("evaluation", min(start + batch_size, len(order)), len(order))
    model.train(was_training)
    return _summary(team.sum(totals, model.device), names)


def frequency_baseline(train: Trajectories, val: Trajectories, network: RoadNetwork) -> dict[str, float]:
    """Return `accuracy` and `nll` on `val` of the most frequent next road of each road in `train`.

    It knows neither history nor destination. Probabilities are counts plus one, so a road that no training trip
    leaves has uniform ones; a tie counts as the chance to guess it right.
    """
    count = np.zeros(len(network.successors.indices))
    np.add.at(count, _connections(train, network), 1)
    degree = network.successors.degrees
    origin = np.repeat(np.arange(network.num_roads), degree)
    probability = (count + 1) / (np.bincount(origin, count, network.num_roads) + degree)[origin]
    top = np.zeros(network.num_roads)
    np.maximum.at(top, origin, count)
    is_top = count == top[origin]
    chance = is_top / np.bincount(origin, is_top, network.num_roads)[origin]
    taken = _connections(val, network)
    return {"accuracy": float(chance[taken].mean()), "nll": float(-np.log(probability[taken]).mean())}


def as_label_source(labels: RaggedLabels | LabelSource | None, trajectories: Trajectories) -> LabelSource | None:
    """Return stored labels as a source for these trips; a source, such as an asked teacher, stays as it is."""
    return labels if labels is None or callable(labels) else StoredLabels(labels, trajectories)


def _connections(trips: Trajectories, network: RoadNetwork) -> Int64Array:
    """Return (S,) int64: the connection every step takes."""
    at, _ = trips.step_positions()
    road = trips.road_ids[at]
    taken: Int64Array = network.successors.indptr[road] + network.candidate_index(road, trips.road_ids[at + 1])
    return taken


def _step_figures(
    output: StudentOutput, scale: TimeScale, scores: Tensor | None, temperature: float
) -> dict[str, Tensor]:
    """Return (S,) figures of the steps of a batch."""
    mask = output.step_mask
    logits, label = output.logits[mask], output.label[mask][:, None]
    log_p = logits.log_softmax(1)
    confidence, choice = log_p.max(1)
    correct = choice == label[:, 0]
    decision = output.candidate_mask[mask].sum(1) > 1
    true_log_p = log_p.gather(1, label)
    seconds, predicted = output.seconds[mask], output.time_pred[mask]
    error_s = (scale.seconds(predicted) - seconds).abs()
    log_seconds = torch.log1p(seconds)
    figures = {
        "correct": correct,
        "in_top_3": (log_p > true_log_p).sum(1) < 3,
        "nll": -true_log_p[:, 0],
        "confidence": confidence.exp(),
        "decision": decision,
        "decision_correct": decision & correct,
        "error_s": error_s,
        "relative_error": error_s / seconds.clamp(min=1),
        "log_error": (scale.log1p_seconds(predicted) - log_seconds).abs() / log_seconds.clamp(min=1),
    }
    if scores is not None:
        agrees = scores.gather(1, choice[:, None])[:, 0] >= scores.max(1).values
        figures["decision_agrees"] = decision & agrees
        figures["decision_kl"] = decision * kl_loss(
            logits, scores, output.candidate_mask[mask], temperature, reduction="none"
        )
    return figures


def _totals(steps: dict[str, Tensor], names: tuple[str, ...]) -> Float64Array:
    """Return (1 + F + 15,) float64: the number of steps, the sum of each named figure, the gaps of calibration."""
    figures = {name: values.double().cpu().numpy() for name, values in steps.items()}
    count = float(len(figures["correct"]))
    sums = [float(figures[name].sum()) for name in names]
    return np.concatenate([[count], sums, _calibration_gaps(figures["confidence"], figures["correct"])])


def _summary(totals: Float64Array, names: tuple[str, ...]) -> dict[str, float]:
    steps, gaps = float(totals[0]), totals[1 + len(names) :]
    total = {name: float(value) for name, value in zip(names, totals[1:], strict=False)}
    # where there is no decision, its figures are 0
    decisions = max(total["decision"], 1.0)
    summary = {
        "accuracy": total["correct"] / steps,
        "top_3": total["in_top_3"] / steps,
        "nll": total["nll"] / steps,
        "calibration_error": float(np.abs(gaps).sum()) / steps,
        "decision_share": total["decision"] / steps,
        "decision_accuracy": total["decision_correct"] / decisions,
        "time_mae_s": total["error_s"] / steps,
        "time_mape": total["relative_error"] / steps,
        "time_log_mape": total["log_error"] / steps,
        "steps": steps,
    }
    if "decision_agrees" in total:
        summary |= {
            "teacher_agreement": total["decision_agrees"] / decisions,
            "teacher_kl": total["decision_kl"] / decisions,
        }
    return summary


def calibration_error(confidence: Float64Array, correct: Float64Array) -> float:
    """Return the expected calibration error: |confidence - accuracy| of each bin, weighted by its steps."""
    return float(np.abs(_calibration_gaps(confidence, correct)).sum() / len(confidence))


def _calibration_gaps(confidence: Float64Array, correct: Float64Array) -> Float64Array:
    """Return (15,) float64: the sum of confidence - correctness over the steps of each bin of confidence."""
    place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return np.bincount(place, confidence - correct, CALIBRATION_BINS).astype(np.float64)
