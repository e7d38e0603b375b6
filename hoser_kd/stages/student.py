"""Stages of the student group: the plain and the distilled HOSER."""

from __future__ import annotations

from typing import Any

from hoser_kd import plots
from hoser_kd.device import pick_device
from hoser_kd.pipeline import StageRun
from hoser_kd.soft_labels import SoftLabels
from hoser_kd.stages.grid import load_tokens
from hoser_kd.stages.network import load_network, load_transitions, load_trips, load_zones
from hoser_kd.training import train_student, trivial_baseline

_SHOWN = ("accuracy", "decision_accuracy", "nll", "top_3", "calibration_error", "time_mae_s", "time_log_mape")


def vanilla_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER without a teacher."""
    return _train(run)


def distilled_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER on the teacher's labels; nothing where the city's YAML switches distillation off."""
    if not run.config.distill.enabled:
        return {"enabled": False}
    return _train(run, distill=run.config.distill, grid_tokens=load_tokens(run.path("grid_token_table")),
                  **{name: _labels(run, split) for name, split in (("labels", "train"), ("val_labels", "val"))})


def _labels(run: StageRun, split: str) -> SoftLabels:
    return SoftLabels.load(run.path("teacher_soft_labels") / f"{split}.arrow")


def _train(run: StageRun, **distillation: Any) -> dict[str, Any]:
    network, train, val = load_network(run), load_trips(run, "train"), load_trips(run, "val")
    result = train_student(
        network, load_zones(run), load_transitions(run), train, val, run.config.student, **distillation,
        seed=run.seed or 0, device=pick_device(run.device), folder=run.folder, progress=run.progress,
        on_epoch=run.on_epoch,
    )
    (run.folder / "curves.png").write_bytes(plots.png(plots.training_curves({"student": [result.history]})))
    trivial = trivial_baseline(train, val, network)
    return {
        "parameters": sum(weight.numel() for weight in result.model.parameters()),
        "best_epoch": result.best_epoch,
        **{f"val_{name}": round(result.best[name], 5) for name in _SHOWN},
        "trivial_accuracy": round(trivial["accuracy"], 5),
        "trivial_nll": round(trivial["nll"], 5),
        "epochs": result.history,
    }
