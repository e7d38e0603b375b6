"""Stages of the student group: the plain and the distilled HOSER."""

from __future__ import annotations

from typing import Any

from hoser_kd import plots
from hoser_kd.device import pick_device
from hoser_kd.pipeline import StageRun
from hoser_kd.stages.network import load_network, load_transitions, load_trips, load_zones
from hoser_kd.store import write_json


def vanilla_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER without a teacher."""
    return _train(run, distilled=False)


def distilled_student(run: StageRun) -> dict[str, Any]:
    """Train HOSER on the teacher's labels; nothing where the city's YAML switches distillation off."""
    if not run.config.distill.enabled:
        return {"enabled": False}
    return _train(run, distilled=True)


def _train(run: StageRun, *, distilled: bool) -> dict[str, Any]:
    ...
