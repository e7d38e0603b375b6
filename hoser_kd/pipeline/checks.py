"""Checks of finished artifacts: each detects an error that would silently corrupt all later stages.

Validators reject invalid input; checks judge results. After a failed blocking check, Dagster and the command line stop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hoser_kd.pipeline import check_evidence, matching_checks
from hoser_kd.pipeline.check import Check, CheckResult, Verdict
from hoser_kd.pipeline.network_checks import NETWORK_CHECKS
from hoser_kd.pipeline.store import Artifact


def run_checks(artifact: Artifact, inputs: Mapping[str, Any]) -> list[CheckResult]:
    """Run all checks of the artifact's stage."""
    results = []
    for check in CHECKS.get(artifact.stage, ()):
        passed, message, metrics = check.run(artifact, inputs)
        evidence = None if passed else check.collect_evidence(artifact, inputs)
        results.append(CheckResult(check.name, passed, message, metrics, evidence))
    return results


def _roads_inside_grid(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    coverage = {**artifact.summary["coverage"], **check_evidence.coverage_of_merged_cells(artifact)}
    share = float(coverage["share_inside"])
    required = float(artifact.settings.get("grid", {}).get("min_share_inside", 0.9))
    passed = share >= required
    message = f"{share:.1%} of the roads lie inside the grid; {coverage['clamped']} are clamped to its edge."
    metrics = {"share_inside": share, "clamped": int(coverage["clamped"])}
    if "visits_inside" in coverage:
        metrics["visits_inside"] = float(coverage["visits_inside"])
        message += f" {metrics['visits_inside']:.1%} of the training trips' points lie inside."
    if remainder := int(coverage.get("in_remainder", 0)):
        metrics["in_remainder"] = remainder
        message += (
            f" {remainder} roads inside lie beyond the last complete row or column of merged cells, because "
            "`grid.downsample_factor` does not divide the number of cells; they belong to the nearest complete one, as "
            "published."
        )
    if not passed:
        message += (
            f" The required share is {required:.0%}. The grid probably belongs to another city or is shifted: correct "
            "`grid.bounds` in the city's YAML. If the teacher's grid covers only a part of the roads, lower "
            "`grid.min_share_inside`."
        )
    return passed, message, metrics


_MIN_DISTINGUISHABLE_SHARE = 0.05
"""Below this share of distinguishable choices the teacher has almost no signal for a student."""


def _grid_resolution(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    coverage, resolution = artifact.summary["coverage"], artifact.summary["resolution"]
    share, choices = float(resolution["distinguishable_share"]), int(resolution["choices"])
    fullest = int(coverage["roads_per_cell_max"]) / max(int(coverage["roads"]), 1)
    passed = choices == 0 or share >= _MIN_DISTINGUISHABLE_SHARE
    message = (
        f"Roads per cell: median {coverage['roads_per_cell_median']:g}, 99th percentile "
        f"{coverage['roads_per_cell_p99']:g}, maximum {coverage['roads_per_cell_max']}. The candidates lie in more "
        f"than one cell at {share:.1%} of the choices."
    )
    if not passed:
        message += (
            " The teacher provides no signal on nearly all choices, because its cells are too large for these roads. "
            "Check the unit of `grid.cell_size_m`, `cell_lat` and `cell_lng`, or use a teacher with smaller cells."
        )
    metrics = {
        "roads_per_cell_median": float(coverage["roads_per_cell_median"]),
        "roads_per_cell_max": int(coverage["roads_per_cell_max"]),
        "share_in_fullest_cell": round(fullest, 4),
        "distinguishable_share": share,
    }
    return passed, message, metrics


_ALIGNMENT_METRICS = (
    "loss",
    "uniform_loss",
    "min_loss_half_cell",
    "best_cells_north",
    "best_cells_east",
    "shifts_tried",
    "trips",
)


def _grid_alignment(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    alignment = artifact.summary.get("alignment")
    if not isinstance(alignment, Mapping):
        return True, "Not applicable: the grid is defined here or stored in the checkpoint.", {}
    metrics = {key: alignment[key] for key in _ALIGNMENT_METRICS}
    loss, uniform, shifted = (float(alignment[key]) for key in ("loss", "uniform_loss", "min_loss_half_cell"))
    fix = "Correct `grid.bounds` and the cell size in the city's YAML to those of the teacher's training."
    nll = f"{loss:.3f} nats per token"
    if alignment["misplaced"]:
        message = (
            f"The teacher's negative log-likelihood is lower with its grid {alignment['best_cells_north']:g} cells "
            f"further north and {alignment['best_cells_east']:g} cells further east. {fix}"
        )
        return False, message, metrics
    if not loss < uniform:
        message = (
            f"The teacher's negative log-likelihood on the trips is {nll}, that of the uniform baseline {uniform:.3f}: "
            f"the teacher was trained on other cells. {fix}"
        )
        return False, message, metrics
    if alignment["is_conclusive"]:
        message = (
            f"The teacher's negative log-likelihood is {nll}, and at least {shifted:.3f} with the grid shifted by half "
            "a cell."
        )
        return True, message, metrics
    message = (
        f"The alignment cannot be determined: the teacher's negative log-likelihood of {nll} (uniform baseline: "
        f"{uniform:.3f}) barely changes with the grid's position, because the teacher fits these trips poorly. Verify "
        "`grid.bounds` yourself."
    )
    return True, message, metrics


def _tokens_in_vocabulary(artifact: Artifact, inputs: Mapping[str, Any]) -> Verdict:
    config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
    vocab_size = int(artifact.summary["vocab_size"])
    labels = int(inputs["grid_token_table"].summary["num_labels"])
    passed = labels <= vocab_size - 3
    message = (
        f"The grid has {labels} tokens; the teacher's vocabulary has {vocab_size}, including three special tokens."
    )
    if not passed:
        message += " The grid does not belong to this teacher: correct `grid` in the city's YAML."
    elif unused := vocab_size - 3 - labels:
        message += f" {unused} tokens are unused (the published preprocessing adds a row of cells and one token)."
    return passed, message, {"labels": labels, "vocab_size": vocab_size, "layers": int(config.get("n_layer", 0) or 0)}


def _beats_uniform_baseline(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    loss, uniform = float(artifact.summary["val_loss"]), math.log(int(artifact.summary["vocab_size"]) - 2)
    passed = loss < uniform
    message = f"The teacher's validation loss is {loss:.4f} nats per token, that of the uniform baseline {uniform:.4f}."
    if artifact.summary.get("val_sequences_scored") == 0:
        message = (
            f"No validation trip fits the teacher's context of {artifact.summary.get('block_size')} tokens, so its "
            "loss is unknown. Use a teacher with a longer context."
        )
    elif not passed:
        message += (
            " The teacher is not better than the baseline on these trips: train longer, or use the training grid of "
            "an imported teacher."
        )
    return passed, message, {"val_loss": loss, "uniform_baseline_loss": round(uniform, 4)}


def _labels_on_graph(artifact: Artifact, inputs: Mapping[str, Any]) -> Verdict:
    import numpy as np

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories
    from hoser_kd.teacher.soft_labels import SoftLabels

    network = RoadNetwork.load(inputs["road_network"].path)
    online = artifact.summary.get("labels") == "online"
    wrong = steps = 0
    for split, trips_file in check_evidence.labeled_trips(artifact, inputs).items():
        trips = Trajectories.load(trips_file)
        offsets = None if online else SoftLabels.load(artifact.path / f"{split}.arrow").offsets
        before, missing = steps, 0 if offsets is None else abs(len(offsets) - 1 - trips.num_steps)
        wrong += missing
        for part in trips.chunks():
            at, _ = part.step_positions()
            if offsets is not None and not missing:
                rows = np.diff(offsets[steps - before : steps - before + len(at) + 1])
                wrong += int((rows != network.successors.degrees[part.road_ids[at]]).sum())
            wrong += int((network.candidate_index(part.road_ids[at], part.road_ids[at + 1]) < 0).sum())
            steps += len(at)
    message = f"{wrong} of {steps} {'' if online else 'labeled '}steps do not match the candidates of the road graph."
    if wrong:
        message += " Trips, roads and labels have different versions: materialize teacher_soft_labels again."
    return wrong == 0, message, {"steps": steps, "wrong": wrong}


_SCORES_AT_ONCE = 1 << 22


def _labels_finite(artifact: Artifact, inputs: Mapping[str, Any]) -> Verdict:
    import numpy as np

    from hoser_kd.teacher.soft_labels import SoftLabels

    if artifact.summary.get("labels") == "online":
        return True, "Not applicable: no labels are stored. Training stops at a score that is not finite.", {}
    bad = 0
    for split in check_evidence.labeled_trips(artifact, inputs):
        scores = SoftLabels.load(artifact.path / f"{split}.arrow").scores
        for start in range(0, len(scores), _SCORES_AT_ONCE):
            bad += int((~np.isfinite(scores[start : start + _SCORES_AT_ONCE])).sum())
    message = f"{bad} of the stored scores are not finite."
    if bad:
        message += (
            " The teacher's weights are damaged, or overflow in half precision: set `distill.teacher_fp16: false`."
        )
    return bad == 0, message, {"not_finite": bad}


_MIN_ENDED_SHARE = 0.5
"""Below this share of attempts that end, the teacher has not learned where trips end."""


def _synthetic_trips_end(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    summary = artifact.summary
    if summary.get("enabled") is False:
        return True, "Not applicable: no recipe in the city's YAML reads sampled trips.", {}
    share, trips, requested = float(summary["ended_share"]), int(summary["trips"]), int(summary["requested"])
    passed = share >= _MIN_ENDED_SHARE and trips == requested
    message = f"{share:.1%} of {summary['attempts']} sampled trips end; {trips} of {requested} requested ones are kept."
    if not passed:
        message += (
            f" {summary['too_long']} have no end within the maximum number of roads, {summary['too_short']} end on "
            "their first road. Train the teacher longer, raise `synthetic_trips.max_steps`, or lower "
            "`synthetic_trips.temperature`."
        )
    return passed, message, {"ended_share": share, "trips": trips}


_MIN_SIGNAL_SHARE = 0.5
"""Below this share of states with a target, most destinations cannot be reached from where the student goes."""


def _off_path_states_have_targets(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    summary = artifact.summary
    if summary.get("enabled") is False:
        return True, "Not applicable: `distill.off_path.labels` in the city's YAML is not `stored`, or unused.", {}
    states, share, arrived = int(summary["states"]), float(summary["signal_share"]), float(summary["arrived_share"])
    passed = states > 0 and share >= _MIN_SIGNAL_SHARE
    message = (
        f"{share:.1%} of the {states} states have a target, {float(summary['off_trip_share']):.1%} are off the real "
        f"trip; {arrived:.1%} of the trips reach their destination."
    )
    if not passed:
        message += (
            " From the other states no road leads to the destination: check the connections of the road network, or "
            "lower `distill.off_path.temperatures`, so that the student does not leave for dead ends."
        )
    return passed, message, {"states": states, "signal_share": share, "arrived_share": arrived}


def _beats_frequency_baseline(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    if artifact.summary.get("enabled") is False:
        return True, "Not applicable: distillation is disabled in the city's YAML.", {}
    nll, baseline = float(artifact.summary["val_nll"]), float(artifact.summary["frequency_nll"])
    passed = nll < baseline
    message = f"The validation NLL is {nll:.4f}, that of the frequency baseline {baseline:.4f}."
    if not passed:
        message += (
            " The student is not better than the baseline: inspect the training curves, train longer, or use more "
            "training trips."
        )
    return passed, message, {"val_nll": nll, "frequency_nll": baseline}


def _trained_to_optimum(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    warnings = artifact.summary.get("training_warnings")
    if artifact.summary.get("enabled") is False:
        return True, "Not applicable: distillation is disabled in the city's YAML.", {}
    if warnings is None:
        return True, "Unknown: the student was trained by a version without training warnings.", {}
    best, epochs = int(artifact.summary["best_epoch"]), len(artifact.summary["epochs"])
    metrics = {"best_epoch": best, "epochs": epochs, "num_warnings": len(warnings)}
    if warnings:
        return False, " ".join(warning["message"] for warning in warnings), metrics
    return True, f"Epoch {best} of {epochs} is the best: it lies after the warm-up and before the last epoch.", metrics


_STUDENT = (
    Check(
        "beats_frequency_baseline",
        "The student's validation NLL is below that of the most frequent next road in the training trips.",
        _beats_frequency_baseline,
        check_evidence.student_curves,
    ),
    Check(
        "trained_to_optimum",
        "The best epoch lies after the warm-up of the learning rate and before the last epoch, and an epoch has at "
        "least 10 optimizer steps.",
        _trained_to_optimum,
        check_evidence.student_curves,
        blocking=False,
    ),
)


def _seeds_comparable(artifact: Artifact, _: Mapping[str, Any]) -> Verdict:
    left_out = artifact.summary["left_out"]
    message = f"The report covers the seeds {artifact.summary['seeds']}, which have the same settings and inputs."
    if left_out:
        reasons = "; ".join(f"seed {row['seed']}: {row['reason']}" for row in left_out)
        message += (
            f" Left out: {reasons}. To include them, launch the jobs `distill` and `evaluate` for these seeds, then "
            "`report`."
        )
    return not left_out, message, {"num_seeds": int(artifact.summary["num_seeds"]), "num_left_out": len(left_out)}


CHECKS: dict[str, tuple[Check, ...]] = {
    **NETWORK_CHECKS,
    "gps_points": (
        Check(
            "most_points_kept",
            f"At least {matching_checks.MIN_POINTS_KEPT:.0%} of the GPS points are kept.",
            matching_checks.points_kept,
            matching_checks.points_left_out,
            blocking=False,
        ),
    ),
    "matched_trips": (
        Check(
            "points_on_roads",
            f"At least {matching_checks.MIN_POINTS_MATCHED:.0%} of the points are matched, and consecutive roads are "
            "connected.",
            matching_checks.points_on_roads,
            matching_checks.worst_matches,
        ),
        Check(
            "trips_whole",
            f"At least {matching_checks.MIN_TRIPS_MATCHED:.0%} of the GPS trips are matched, in "
            f"{matching_checks.MAX_PIECES_PER_TRIP:g} pieces or fewer on average.",
            matching_checks.trips_whole,
            matching_checks.worst_matches,
            blocking=False,
        ),
        Check(
            "points_near_roads",
            f"Points are at most {matching_checks.MAX_DISTANCE_M:g} m from their roads in the median, and "
            f"{matching_checks.MAX_DISTANCE_P95_M:g} m at the 95th percentile.",
            matching_checks.points_near_roads,
            matching_checks.worst_matches,
            blocking=False,
        ),
        Check(
            "paths_plausible",
            f"The speed is at most {matching_checks.MAX_SPEED_P99_M_S:g} m/s at the 99th percentile, and paths are at "
            f"most {matching_checks.MAX_DETOUR:g} times as long as the straight line in the median.",
            matching_checks.paths_plausible,
            matching_checks.match_quality,
            blocking=False,
        ),
    ),
    "grid_token_table": (
        Check(
            "roads_inside_grid",
            "Nearly all roads lie inside the teacher's grid: the share is at least `grid.min_share_inside`.",
            _roads_inside_grid,
            check_evidence.roads_outside,
        ),
        Check(
            "grid_resolution_sufficient",
            f"The candidates lie in more than one cell at {_MIN_DISTINGUISHABLE_SHARE:.0%} of the choices or more, so "
            "that the teacher provides a signal.",
            _grid_resolution,
            check_evidence.crowded_cells,
        ),
        Check(
            "grid_alignment",
            "The negative log-likelihood of an imported teacher is lower with the configured grid than with shifted "
            "grids.",
            _grid_alignment,
            check_evidence.nll_of_shifts,
        ),
    ),
    "teacher": (
        Check(
            "tokens_in_vocabulary",
            "The teacher's vocabulary contains the token of every road.",
            _tokens_in_vocabulary,
            check_evidence.tokens_beyond,
        ),
        Check(
            "beats_uniform_baseline",
            "The teacher's validation loss is below that of a uniform distribution over all tokens.",
            _beats_uniform_baseline,
            check_evidence.teacher_curves,
        ),
    ),
    "teacher_soft_labels": (
        Check(
            "labels_on_road_graph",
            "Every labeled step is a step of the road graph, with one score per candidate.",
            _labels_on_graph,
            check_evidence.steps_off_graph,
        ),
        Check(
            "labels_finite", "Every stored score is a finite number.", _labels_finite, check_evidence.scores_not_finite
        ),
    ),
    "synthetic_trips": (
        Check(
            "synthetic_trips_end",
            f"At least {_MIN_ENDED_SHARE:.0%} of the trips sampled from the teacher end, and the requested number of "
            "trips is reached.",
            _synthetic_trips_end,
            check_evidence.attempts_without_end,
        ),
    ),
    "vanilla_student": _STUDENT,
    "off_path_labels": (
        Check(
            "off_path_states_have_targets",
            f"At least {_MIN_SIGNAL_SHARE:.0%} of the states off any real trip have a target.",
            _off_path_states_have_targets,
            check_evidence.states_without_target,
        ),
    ),
    "distilled_student": _STUDENT,
    "distillation_report": (
        Check(
            "seeds_comparable",
            "All seeds have the same settings, labels and code, and are included in the report.",
            _seeds_comparable,
            check_evidence.seeds_left_out,
            blocking=False,
        ),
    ),
}
"""Checks by stage."""
