"""Checks on finished artifacts: each guards against a mistake that would poison, unseen, what follows from it.

A validator refuses input; a check reports on a result. A blocking check that fails keeps Dagster from going on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hoser_kd.store import Artifact


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    name: str
    passed: bool
    said: str
    """One sentence for a person: what was found and, on failure, what to do."""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A question asked of every new version of an artifact."""

    name: str
    description: str
    ask: Callable[[Artifact, Mapping[str, Any]], tuple[bool, str, dict[str, Any]]]
    """Given the artifact and the inputs it was made from: passed?, a sentence, figures."""
    blocking: bool = True


def run_checks(artifact: Artifact, inputs: Mapping[str, Any]) -> list[CheckResult]:
    """Ask all checks of the artifact's stage."""
    return [CheckResult(check.name, *check.ask(artifact, inputs)) for check in CHECKS.get(artifact.stage, ())]


def _roads_inside_grid(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    coverage = artifact.summary["coverage"]
    share = float(coverage["share_inside"])
    passed = share >= _LEAST_INSIDE
    said = f"{share:.1%} of the roads lie inside the grid, {coverage['clamped']} are clamped to its edge."
    if not passed:
        said += " The grid is probably another city's or shifted: correct `grid.bounds` in the city's YAML."
    return passed, said, {"share_inside": share, "clamped": int(coverage["clamped"])}


_LEAST_INSIDE = 0.9
"""Below this share of roads inside the grid, the grid is taken for a wrong one."""


def _tokens_in_vocabulary(artifact: Artifact, inputs: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
    vocab_size = int(artifact.summary["vocab_size"])
    labels = int(inputs["grid_token_table"].summary["num_labels"])
    passed = labels <= vocab_size - 3
    said = f"The grid has {labels} labels, the teacher's vocabulary {vocab_size} with its three special tokens."
    if not passed:
        said += " The grid does not belong to this teacher: correct `grid` in the city's YAML."
    return passed, said, {"labels": labels, "vocab_size": vocab_size, "layers": int(config.get("n_layer", 0) or 0)}


def _labels_on_graph(artifact: Artifact, inputs: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    import numpy as np

    from hoser_kd.road_network import RoadNetwork
    from hoser_kd.soft_labels import SoftLabels
    from hoser_kd.trajectories import SPLITS, Trajectories

    network = RoadNetwork.load(inputs["road_network"].path)
    wrong = steps = 0
    for split in SPLITS:
        trips = Trajectories.load(inputs["trajectories"].path / f"{split}.arrow")
        labels = SoftLabels.load(artifact.path / f"{split}.arrow")
        at, _ = trips.step_positions()
        expected = network.successors.degrees[trips.road_ids[at]]
        rows = np.diff(labels.offsets)
        steps += len(expected)
        wrong += abs(len(rows) - len(expected)) if len(rows) != len(expected) else int((rows != expected).sum())
        wrong += int((network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) < 0).sum())
    said = f"{steps} labelled steps; {wrong} do not match the candidates of the road graph."
    if wrong:
        said += " Trips, roads and labels are of different versions: materialise teacher_soft_labels again."
    return wrong == 0, said, {"steps": steps, "wrong": wrong}


def _labels_finite(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    import numpy as np

    from hoser_kd.soft_labels import SoftLabels
    from hoser_kd.trajectories import SPLITS

    bad = 0
    for split in SPLITS:
        bad += int((~np.isfinite(SoftLabels.load(artifact.path / f"{split}.arrow").scores)).sum())
    said = f"{bad} of the stored scores are not finite."
    if bad:
        said += " The teacher's weights are damaged or overflow in half precision: try `distill.teacher_fp16: false`."
    return bad == 0, said, {"not_finite": bad}


def _beats_trivial(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    if artifact.summary.get("enabled") is False:
        return True, "Distillation is switched off in the city's YAML.", {}
    nll, trivial = float(artifact.summary["val_nll"]), float(artifact.summary["trivial_nll"])
    said = f"Validation NLL {nll:.4f}, that of the most usual next road {trivial:.4f}."
    passed = nll < trivial
    if not passed:
        said += " The student has learnt nothing: look at the training curves, train longer or with more trips."
    return passed, said, {"val_nll": nll, "trivial_nll": trivial}


_STUDENT = (Check("beats_trivial_guess", "The student's validation NLL is below that of the most usual next road of "
                  "the training trips.", _beats_trivial),)

CHECKS: dict[str, tuple[Check, ...]] = {
    "grid_token_table": (
        Check("roads_inside_grid", "Nearly all roads lie inside the teacher's grid.", _roads_inside_grid),
    ),
    "teacher": (
        Check("tokens_in_vocabulary", "Every road's token is in the teacher's vocabulary.", _tokens_in_vocabulary),
    ),
    "teacher_soft_labels": (
        Check("labels_on_road_graph", "Every labelled step is a step of the road graph.", _labels_on_graph),
        Check("labels_finite", "Every stored score is a finite number.", _labels_finite),
    ),
    "vanilla_student": _STUDENT,
    "distilled_student": _STUDENT,
}
"""Checks by stage."""
