"""Stages of the student group: the vanilla and the distilled HOSER."""

from __future__ import annotations

from typing import Any

from hoser_kd.common.device import pick_device
from hoser_kd.evaluation.validation_trips import validators_for
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.hoser import load
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.grid import load_tokens
from hoser_kd.pipeline.stages.labels import SYNTHETIC, load_labels
from hoser_kd.pipeline.stages.network import load_network, load_transitions, load_trips, load_zones
from hoser_kd.pipeline.stages.off_path_labels import load_off_path_states
from hoser_kd.pipeline.stages.synthetic_trips import load_synthetic_trips
from hoser_kd.pipeline.stages.teacher_training import train_together
from hoser_kd.pipeline.workers.nodes import Nodes
from hoser_kd.student.model_selection import PREFIX, SUMMARY_PREFIX
from hoser_kd.student.off_path import SECONDS
from hoser_kd.student.training import TrainingResult, frequency_baseline, train_student
from hoser_kd.student.training_budget import TrainingBudget, training_warnings
from hoser_kd.student.training_checkpoint import read_result
from hoser_kd.teacher.online_teacher import OnlineTeacher
from hoser_kd.teacher.other_teachers import load_other_teacher

_SHOWN = ("accuracy", "decision_accuracy", "nll", "top_3", "calibration_error", "time_mae_s", "time_log_mape")


def vanilla_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER without a teacher."""
    return _train(run)


def distilled_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER on the teacher's labels; does nothing if the city's YAML switches distillation off."""
    if not run.config.distill.enabled:
        return {"enabled": False}
    return _train(run)


def train_here(run: StageRun) -> TrainingResult:
    """Train the student of a stage in this process, which may be one of several in a process group."""
    distillation: dict[str, Any] = {}
    if run.stage.name == "distilled_student":
        distillation = _distillation(run)
    network, val = load_network(run), load_trips(run, "val")
    return train_student(
        network,
        load_zones(run),
        load_transitions(run),
        load_trips(run, "train"),
        val,
        run.config.student,
        **distillation,
        seed=run.seed or 0,
        device=pick_device(run.device),
        folder=run.folder,
        progress=run.progress,
        on_epoch=run.on_epoch,
        validators=validators_for(val, network, run.config.student),
    )


def _distillation(run: StageRun) -> dict[str, Any]:
    """Return the arguments of distillation for `train_student`."""
    distill = run.config.distill
    arguments: dict[str, Any] = {
        "distill": distill,
        "grid_tokens": load_tokens(run.path("grid_token_table")),
        "synthetic": load_synthetic_trips(run),
        "sampler": sample_trips,
        "off_path_states": load_off_path_states(run),
    }
    if "kl" in distill.recipe or distill.pools("teacher"):
        arguments["labels"], arguments["val_labels"] = load_labels(run, "train", "val")
    if run.config.labels_synthetic_trips:
        (arguments["synthetic_labels"],) = load_labels(run, SYNTHETIC)
    if run.config.pools_vanilla_student:
        arguments["first_generation"] = load(run.path("vanilla_student"))
    if run.config.fine_tunes_vanilla_student:
        arguments["vanilla"] = read_result(run.path("vanilla_student"))
    if distill.uses_pooled and distill.pooled.other_teachers:
        arguments["other_teachers"] = _other_teachers(run)
    if distill.asks_teacher_off_path:
        (arguments["online_teacher"],) = load_labels(run, "train")
    return arguments


def _other_teachers(run: StageRun) -> list[OnlineTeacher]:
    """Return the further teachers of the pool."""
    distill, network = run.config.distill, load_network(run)
    return [
        load_other_teacher(
            path,
            network,
            distill.window,
            device=pick_device(run.device),
            half=distill.teacher_fp16,
            min_share_inside=run.config.grid.min_share_inside,
        )
        for path in distill.pooled.other_teachers
    ]


def _train_together(run: StageRun) -> TrainingResult:
    """Train in as many processes and on as many machines as the settings say."""
    count, nodes = run.config.student.num_processes, Nodes.of(run.config.torchrun)
    if count == nodes.count == 1:
        return train_here(run)
    train_together(run, count, "student.num_processes", nodes)
    return read_result(run.folder)


def _train(run: StageRun) -> dict[str, Any]:
    # imported here, so that worker processes start without matplotlib
    from hoser_kd import plots

    network, train, val = load_network(run), load_trips(run, "train"), load_trips(run, "val")
    result = _train_together(run)
    (run.folder / "curves.png").write_bytes(plots.png(plots.training_curves({"student": [result.history]})))
    baseline = frequency_baseline(train, val, network)
    student = run.config.student
    synthetic = load_synthetic_trips(run) if "sequence" in run.config.distill.recipe else None
    num_synthetic = 0 if synthetic is None else len(synthetic)
    in_epoch = run.config.distill.num_synthetic(num_synthetic)
    budget = TrainingBudget.of(student, len(train), in_epoch)
    warnings = training_warnings(student, len(train), len(result.history), result.best_epoch, in_epoch)
    # not rounded, because students are compared by them
    trip_metrics = {f"{SUMMARY_PREFIX}{name}": value for name, value in result.best.items() if name.startswith(PREFIX)}
    return {
        "parameters": sum(weight.numel() for weight in result.model.parameters()),
        "train_trips": budget.num_trips,
        **({"synthetic_trips": num_synthetic} if num_synthetic else {}),
        "steps": len(result.history) * budget.steps_per_epoch,
        "best_epoch": result.best_epoch,
        "selected_by": student.select_by,
        "training_warnings": warnings,
        **{f"{SUMMARY_PREFIX}{name}": round(result.best[name], 5) for name in _SHOWN},
        **trip_metrics,
        "frequency_accuracy": round(baseline["accuracy"], 5),
        "frequency_nll": round(baseline["nll"], 5),
        "epochs": result.history,
        **{name: round(value, 5) for name, value in result.best.items() if name.startswith("pool_")},
        **_off_path_summary(result),
    }


def _off_path_summary(result: TrainingResult) -> dict[str, Any]:
    """Return the metrics of the epochs on off-path states, and of the student before them; empty without them."""
    if not result.off_path:
        return {}
    before = result.history[result.best_epoch - 1]
    seconds = {name: sum(epoch.get(name, 0.0) for epoch in result.off_path) for name in SECONDS}
    return {
        "off_path_epochs": result.off_path,
        **{f"off_path_{name}": round(value, 1) for name, value in seconds.items()},
        **{f"before_off_path_{SUMMARY_PREFIX}{name}": round(before[name], 5) for name in _SHOWN},
    }
