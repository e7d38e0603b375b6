"""Checks on finished artifacts: each guards against a mistake that would poison, unseen, what follows from it.

A validator refuses input; a check reports on a result. A blocking check that fails keeps Dagster from going on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hoser_kd.pipeline import check_evidence
from hoser_kd.pipeline.check_evidence import Evidence
from hoser_kd.pipeline.store import Artifact


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    name: str
    passed: bool
    message: str
    """One sentence for a person: what was found and, on failure, what to do."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = None
    """Where it is wrong; None where the check has passed."""


@dataclass(frozen=True)
class Check:
    """A question asked of every new version of an artifact."""

    name: str
    description: str
    ask: Callable[[Artifact, Mapping[str, Any]], tuple[bool, str, dict[str, Any]]]
    """Given the artifact and the inputs it was made from: passed?, a sentence, figures."""
    show: Callable[[Artifact, Mapping[str, Any]], Evidence]
    """Given the same, where it is wrong; asked only on failure."""
    blocking: bool = True


def run_checks(artifact: Artifact, inputs: Mapping[str, Any]) -> list[CheckResult]:
    """Ask all checks of the artifact's stage."""
    results = []
    for check in CHECKS.get(artifact.stage, ()):
        passed, said, figures = check.ask(artifact, inputs)
        evidence = None if passed else check.show(artifact, inputs)
        results.append(CheckResult(check.name, passed, said, figures, evidence))
    return results


def _roads_inside_grid(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    coverage = artifact.summary["coverage"]
    share = float(coverage["share_inside"])
    least = float(artifact.settings.get("grid", {}).get("min_share_inside", 0.9))
    passed = share >= least
    said = f"{share:.1%} of the roads lie inside the grid, {coverage['clamped']} are clamped to its edge."
    figures = {"share_inside": share, "clamped": int(coverage["clamped"])}
    if "visits_inside" in coverage:
        figures["visits_inside"] = float(coverage["visits_inside"])
        said += f" {figures['visits_inside']:.1%} of the training trips' points are inside."
    if not passed:
        said += (
            f" At least {least:.0%} are asked for. The grid is probably another city's or shifted: correct "
            "`grid.bounds` in the city's YAML. If the teacher's grid covers only a part of the roads, lower "
            "`grid.min_share_inside`."
        )
    return passed, said, figures


def _cells_apart(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    coverage, resolution = artifact.summary["coverage"], artifact.summary["resolution"]
    apart, choices = float(resolution["apart"]), int(resolution["choices"])
    fullest = int(coverage["roads_per_cell_max"]) / max(int(coverage["roads"]), 1)
    passed = choices == 0 or apart >= _LEAST_APART
    said = (
        f"A cell holds {coverage['roads_per_cell_median']:g} roads in the middle, "
        f"{coverage['roads_per_cell_p99']:g} at the 99th percentile, {coverage['roads_per_cell_max']} at most; in "
        f"{apart:.1%} of the choices the candidates lie in more than one cell."
    )
    if not passed:
        said += (
            " The teacher is silent on nearly all choices: its cells are too large for these roads. Check the "
            "unit of `grid.cell_size_m`, `cell_lat` and `cell_lng`, or use a teacher of smaller cells."
        )
    figures = {
        "roads_per_cell_median": float(coverage["roads_per_cell_median"]),
        "roads_per_cell_max": int(coverage["roads_per_cell_max"]),
        "share_in_fullest_cell": round(fullest, 4),
        "choices_apart": apart,
    }
    return passed, said, figures


_LEAST_APART = 0.05
"""Below this share of choices that the cells tell apart, distillation is a waste of a student's training."""


def _grid_aligned(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    found = artifact.summary.get("alignment")
    if not isinstance(found, Mapping):
        return True, "The grid is made here or comes with its cells: there is nothing to compare it with.", {}
    figures = {
        key: found[key]
        for key in (
            "loss",
            "guess",
            "least_half_a_cell_off",
            "best_cells_north",
            "best_cells_east",
            "shifts_tried",
            "trips",
        )
    }
    loss, guess, off = (float(found[key]) for key in ("loss", "guess", "least_half_a_cell_off"))
    correct = "Correct `grid.bounds` and the cell size in the city's YAML to those the teacher was trained with."
    nats = f"{loss:.3f} nats a token"
    if found["misplaced"]:
        said = (
            f"The teacher is less surprised where its grid lies {found['best_cells_north']:g} cells further north "
            f"and {found['best_cells_east']:g} further east than given. {correct}"
        )
        return False, said, figures
    if not loss < guess:
        said = (
            f"The teacher's surprise over the trips is {nats}, that of a blind guess {guess:.3f}: these are not "
            f"the cells it was trained on. {correct}"
        )
        return False, said, figures
    if found["can_tell"]:
        return True, f"The teacher's surprise is {nats}, and {off:.3f} or more with the grid half a cell off.", figures
    said = (
        f"The teacher cannot tell: its surprise of {nats} (a blind guess: {guess:.3f}) hardly changes where the "
        "grid is shifted. It has learnt little of these trips; make sure of the bounds yourself."
    )
    return True, said, figures


def _tokens_in_vocabulary(artifact: Artifact, inputs: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
    vocab_size = int(artifact.summary["vocab_size"])
    labels = int(inputs["grid_token_table"].summary["num_labels"])
    passed = labels <= vocab_size - 3
    said = f"The grid has {labels} labels, the teacher's vocabulary {vocab_size} with its three special tokens."
    if not passed:
        said += " The grid does not belong to this teacher: correct `grid` in the city's YAML."
    elif unused := vocab_size - 3 - labels:
        said += f" {unused} labels are not used (published preprocessing leaves a row and one)."
    return passed, said, {"labels": labels, "vocab_size": vocab_size, "layers": int(config.get("n_layer", 0) or 0)}


def _beats_guess(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    loss, guess = float(artifact.summary["val_loss"]), math.log(int(artifact.summary["vocab_size"]) - 2)
    passed = loss < guess
    said = f"The teacher's validation loss is {loss:.4f} nats a token, that of a blind guess {guess:.4f}."
    if artifact.summary.get("val_sequences_scored") == 0:
        said = (
            f"No validation trip fits the teacher's context of {artifact.summary.get('block_size')} tokens, so "
            "nothing is known of it. Take a teacher of longer sequences."
        )
    elif not passed:
        said += (
            " It knows nothing of these trips: train longer, or, where it is imported, give the grid it was trained on."
        )
    return passed, said, {"val_loss": loss, "guess": round(guess, 4)}


def _labels_on_graph(artifact: Artifact, inputs: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    import numpy as np

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import SPLITS, Trajectories
    from hoser_kd.teacher.soft_labels import SoftLabels

    network = RoadNetwork.load(inputs["road_network"].path)
    online = artifact.summary.get("labels") == "online"
    wrong = steps = 0
    for split in SPLITS:
        trips = Trajectories.load(inputs["trajectories"].path / f"{split}.arrow")
        at, _ = trips.step_positions()
        expected = network.successors.degrees[trips.road_ids[at]]
        rows = expected if online else np.diff(SoftLabels.load(artifact.path / f"{split}.arrow").offsets)
        steps += len(expected)
        wrong += abs(len(rows) - len(expected)) if len(rows) != len(expected) else int((rows != expected).sum())
        wrong += int((network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1]) < 0).sum())
    said = f"{steps} {'' if online else 'labeled '}steps; {wrong} do not match the candidates of the road graph."
    if wrong:
        said += " Trips, roads and labels are of different versions: materialize teacher_soft_labels again."
    return wrong == 0, said, {"steps": steps, "wrong": wrong}


def _labels_finite(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    import numpy as np

    from hoser_kd.network.trajectories import SPLITS
    from hoser_kd.teacher.soft_labels import SoftLabels

    if artifact.summary.get("labels") == "online":
        return True, "No labels are stored: a score that is not finite stops the training that asks for it.", {}
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
    nll, trivial = float(artifact.summary["val_nll"]), float(artifact.summary["frequency_nll"])
    said = f"Validation NLL {nll:.4f}, that of the most usual next road {trivial:.4f}."
    passed = nll < trivial
    if not passed:
        said += " The student has learnt nothing: look at the training curves, train longer or with more trips."
    return passed, said, {"val_nll": nll, "frequency_nll": trivial}


_STUDENT = (
    Check(
        "beats_frequency_baseline",
        "The student's validation NLL is below that of the most usual next road of the training trips.",
        _beats_trivial,
        check_evidence.student_curves,
    ),
)


def _seeds_alike(artifact: Artifact, _: Mapping[str, Any]) -> tuple[bool, str, dict[str, Any]]:
    left_out = artifact.summary["left_out"]
    said = f"Seeds {artifact.summary['seeds']} were made alike, from what there is now."
    if left_out:
        told = "; ".join(f"seed {row['seed']}: {row['why']}" for row in left_out)
        said += f" Left out: {told}. To have them in, launch `distill` and `evaluate` for them, then `report`."
    return not left_out, said, {"num_seeds": int(artifact.summary["num_seeds"]), "num_left_out": len(left_out)}


CHECKS: dict[str, tuple[Check, ...]] = {
    "grid_token_table": (
        Check(
            "roads_inside_grid",
            "Nearly all roads lie inside the teacher's grid.",
            _roads_inside_grid,
            check_evidence.roads_outside,
        ),
        Check(
            "grid_resolution_sufficient",
            "Roads are not so crowded in cells that the teacher is silent.",
            _cells_apart,
            check_evidence.crowded_cells,
        ),
        Check(
            "grid_alignment",
            "An imported teacher is less surprised in its grid as given than in shifted ones.",
            _grid_aligned,
            check_evidence.nll_of_shifts,
        ),
    ),
    "teacher": (
        Check(
            "tokens_in_vocabulary",
            "Every road's token is in the teacher's vocabulary.",
            _tokens_in_vocabulary,
            check_evidence.tokens_beyond,
        ),
        Check(
            "beats_uniform_baseline",
            "The teacher's validation loss is below that of a guess among all tokens.",
            _beats_guess,
            check_evidence.teacher_curves,
        ),
    ),
    "teacher_soft_labels": (
        Check(
            "labels_on_road_graph",
            "Every labeled step is a step of the road graph.",
            _labels_on_graph,
            check_evidence.steps_off_graph,
        ),
        Check(
            "labels_finite", "Every stored score is a finite number.", _labels_finite, check_evidence.scores_not_finite
        ),
    ),
    "vanilla_student": _STUDENT,
    "distilled_student": _STUDENT,
    "distillation_report": (
        Check(
            "seeds_comparable",
            "All seeds there are were made with the same settings, labels and code, and are in the report.",
            _seeds_alike,
            check_evidence.seeds_left_out,
            blocking=False,
        ),
    ),
}
"""Checks by stage."""
