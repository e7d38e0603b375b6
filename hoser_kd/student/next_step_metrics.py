"""Next-step metrics of a student on held-out trips, per step and as means, and a frequency baseline.

`step_table` computes everything per step in one pass over the model; `summarize_steps` and
`hoser_kd.evaluation.scenarios.next_step_by` read it.

Shapes: B trips, T steps, C maximum number of candidates per step, S steps of all trips together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    from hoser_kd.hoser import HOSER, Batch, StudentOutput, TimeScale
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories

CALIBRATION_BINS = 15
_SUMMED = ("correct", "in_top_3", "nll", "decision", "decision_correct", "error_s", "relative_error", "log_error")
_SUMMED_WITH_TEACHER = ("decision_agrees", "decision_kl")


@dataclass(frozen=True)
class StepTable:
    """Results of S steps, one row per step, in the order in which the model saw them.

    Columns, each (S,): `trip` (row of the trip), `road` (the road the step leaves), `time` (when that road was entered,
    seconds since the epoch), `destination`; `correct`, `in_top_3`, `decision` (two candidates or more),
    `decision_correct` bool; `nll` (nats), `confidence` (largest probability), `error_s`, `relative_error`, `log_error`
    float32; with a teacher `decision_agrees` bool and `decision_kl` (nats) float32.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]
    """Columns by name."""
    batch_offsets: Int64Array
    """(batches + 1,) int64: rows of each batch. Sums are taken batch by batch, so that they do not depend on whether a
    table or a stream of batches is summed."""

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """Return a column."""
        return self.columns[name]

    def __len__(self) -> int:
        """Number of steps."""
        return int(self.batch_offsets[-1])

    @property
    def has_teacher(self) -> bool:
        """Whether the table compares the student with a teacher."""
        return "decision_kl" in self.columns

    def batches(self) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Yield the columns of each batch."""
        for start, end in zip(self.batch_offsets[:-1], self.batch_offsets[1:], strict=True):
            yield {name: values[start:end] for name, values in self.columns.items()}


def step_table(
    model: HOSER,
    trajectories: Trajectories,
    *,
    labels: RaggedLabels | LabelSource | None = None,
    temperature: float = 1.0,
    batch_size: int = 256,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> StepTable:
    """Evaluate every step of the trips in one pass; the mode of the model is restored.

    Arguments are those of `evaluate_student`. Processes that train together each get the table of their share.
    """
    batches = list(
        _step_batches(
            model,
            trajectories,
            as_label_source(labels, trajectories),
            temperature=temperature,
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
    )
    offsets = np.cumsum([0, *(len(batch["correct"]) for batch in batches)], dtype=np.int64)
    names = batches[0] if batches else {}
    return StepTable({name: np.concatenate([batch[name] for batch in batches]) for name in names}, offsets)


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
    """Return metrics over all steps of the trips; the mode of the model is restored.

    `accuracy`, `top_3` (share of steps whose true next road is among the three most probable), `nll` (nats per step),
    `calibration_error` (expected, 15 equal bins of confidence); `decision_share`, `decision_accuracy` (share of steps
    with two candidates or more, and the accuracy on them); `time_mae_s`, `time_mape` (in seconds) and `time_log_mape`
    (the published loss, of log1p seconds); `steps`. With the teacher's `labels` of these trips, over decisions:
    `teacher_agreement` (the student's choice is among the teacher's best) and `teacher_kl` (nats) at `temperature`.
    Processes that train together share the trips, and all return the metrics of all trips. Memory is that of a batch.
    """
    source = as_label_source(labels, trajectories)
    batches = _step_batches(
        model,
        trajectories,
        source,
        temperature=temperature,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    return _summarize(batches, has_teacher=source is not None, device=model.device)


def summarize_steps(table: StepTable) -> dict[str, float]:
    """Return the metrics of `evaluate_student` from a table, bit for bit."""
    return _summarize(table.batches(), has_teacher=table.has_teacher, device=torch.device("cpu"))


def frequency_baseline(train: Trajectories, val: Trajectories, network: RoadNetwork) -> dict[str, float]:
    """Return `accuracy` and `nll` (nats) on `val` of the most frequent next road of each road in `train`.

    The baseline uses neither history nor destination. Probabilities come from counts plus one, so a road that no
    training trip leaves has uniform ones; a tie among k roads counts 1 / k.
    """
    count = np.zeros(len(network.successors.indices))
    for part in train.chunks():
        np.add.at(count, _connections(part, network), 1)
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
    """Return stored labels as a source for these trips; a source, such as an online teacher, is returned unchanged."""
    return labels if labels is None or callable(labels) else StoredLabels(labels, trajectories)


def _connections(trips: Trajectories, network: RoadNetwork) -> Int64Array:
    """Return (S,) int64: index of the connection that each step takes."""
    at, _ = trips.step_positions()
    road = trips.road_ids[at]
    taken: Int64Array = network.successors.indptr[road] + network.candidate_index(road, trips.road_ids[at + 1])
    return taken


@torch.no_grad()
def _step_batches(
    model: HOSER,
    trajectories: Trajectories,
    source: LabelSource | None,
    *,
    temperature: float,
    batch_size: int,
    precision: Precision,
    progress: Progress,
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield the columns of `StepTable` for each batch of this process's share of the trips."""
    was_training = model.training
    model.eval()
    order = DistributedContext.current().share(np.argsort(trajectories.lengths, kind="stable"))
    for start in range(0, len(order), batch_size):
        batch = collate(trajectories, order[start : start + batch_size]).to(model.device)
        with autocast(precision, model.device):
            output = model(batch)
        scores = None if source is None else source(batch, output.candidates)[output.step_mask]
        columns = {**_places(batch, output.step_mask), **_results(output, model.time_scale, scores, temperature)}
        yield {name: values.cpu().numpy() for name, values in columns.items()}
        progress("evaluation", min(start + batch_size, len(order)), len(order))
    model.train(was_training)


def _places(batch: Batch, mask: Tensor) -> dict[str, Tensor]:
    """Return (S,) int64 trip, road, time and destination of the steps of a batch."""
    return {
        "trip": batch.rows[:, None].expand_as(mask)[mask],
        "road": batch.road_ids[:, :-1][mask],
        "time": batch.times[:, :-1][mask],
        "destination": batch.destinations[:, None].expand_as(mask)[mask],
    }


def _results(output: StudentOutput, scale: TimeScale, scores: Tensor | None, temperature: float) -> dict[str, Tensor]:
    """Return the (S,) results of the steps of a batch."""
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
    results = {
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
        results["decision_agrees"] = decision & agrees
        results["decision_kl"] = decision * kl_loss(
            logits, scores, output.candidate_mask[mask], temperature, reduction="none"
        )
    return results


def _summarize(
    batches: Iterable[Mapping[str, np.ndarray[Any, Any]]], *, has_teacher: bool, device: torch.device
) -> dict[str, float]:
    """Return the means over the steps of all batches and processes."""
    names = (*_SUMMED, *(_SUMMED_WITH_TEACHER if has_teacher else ()))
    totals = np.zeros(1 + len(names) + CALIBRATION_BINS)
    for batch in batches:
        totals += _totals(batch, names)
    totals = DistributedContext.current().sum(totals, device)
    steps, gaps = float(totals[0]), totals[1 + len(names) :]
    total = {name: float(value) for name, value in zip(names, totals[1:], strict=False)}
    # without decisions their metrics are 0
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
    if has_teacher:
        summary |= {
            "teacher_agreement": total["decision_agrees"] / decisions,
            "teacher_kl": total["decision_kl"] / decisions,
        }
    return summary


def _totals(batch: Mapping[str, np.ndarray[Any, Any]], names: tuple[str, ...]) -> Float64Array:
    """Return (1 + names + 15,) float64: number of steps, sum of each named column, calibration gaps."""
    columns = {name: batch[name].astype(np.float64) for name in (*names, "confidence")}
    count = float(len(columns["correct"]))
    sums = [float(columns[name].sum()) for name in names]
    return np.concatenate([[count], sums, _calibration_gaps(columns["confidence"], columns["correct"])])


def calibration_error(confidence: Float64Array, correct: Float64Array) -> float:
    """Return the expected calibration error: |confidence - accuracy| of each bin, weighted by its steps."""
    return float(np.abs(_calibration_gaps(confidence, correct)).sum() / len(confidence))


def _calibration_gaps(confidence: Float64Array, correct: Float64Array) -> Float64Array:
    """Return (15,) float64: sum of confidence - correctness over the steps of each bin of confidence."""
    place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return np.bincount(place, confidence - correct, CALIBRATION_BINS).astype(np.float64)
