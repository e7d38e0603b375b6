"""Every check passes on valid artifacts and fails, with a hint, on the errors that it detects.

A failure has a table of places, and a figure where there is one, also in Dagster's metadata.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from small_city import grid_network, random_trips

from assets.showing import asset_check_result, show_check
from hoser_kd.common.arrays import offsets_of
from hoser_kd.grid.spec import GridSpec
from hoser_kd.network.trajectories import SPLITS, Trajectories, concatenate
from hoser_kd.pipeline.check import CheckResult
from hoser_kd.pipeline.checks import CHECKS, run_checks
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.store import Artifact
from hoser_kd.student.off_path import OffPathStates, StepScores
from hoser_kd.student.off_path_labels import save_states
from hoser_kd.teacher.soft_labels import SoftLabels


def artifact(stage, path=None, settings=None, **summary):
    return Artifact(stage, "town", None, "v1", path, settings=settings or {}, summary=summary)


def run(name, subject, **inputs):
    return next(result for result in run_checks(subject, inputs) if result.name == name)


def verdict(name, subject, **inputs):
    """Whether a check passes, and its message; the metrics must be JSON, and a failure must have evidence."""
    result = run(name, subject, **inputs)
    assert result.message.endswith(".")
    json.dumps(dict(result.metrics))
    shown = show_check(result)
    assert ("where" in shown) is not result.passed
    assert not any(isinstance(value, float) and not np.isfinite(value) for value in shown.values())
    if not result.passed:
        assert isinstance(shown["where"], dg.TableMetadataValue)
        assert shown["where"].records
    return result.passed, result.message


def where(name, subject, **inputs):
    """The rows of the evidence of a failed check, and whether it has a figure."""
    shown = show_check(run(name, subject, **inputs))
    figure = "picture" in shown and shown["picture"].value.startswith(f"![{name.replace('_', ' ')}](data:image/png")
    return [dict(row.data) for row in shown["where"].records], figure


# roads and trips


def test_lengths_match_lines(tmp_path):
    network = grid_network()
    network.save(tmp_path)
    subject = artifact("road_network", tmp_path)
    assert verdict("lengths_match_lines", subject)[0]
    replace(network, length_m=network.length_m / 1000).save(tmp_path)
    passed, message = verdict("lengths_match_lines", subject)
    assert not passed
    assert "probably in kilometers" in message
    assert where("lengths_match_lines", subject)[0][0]["ratio"] == pytest.approx(0.001, rel=0.01)


def test_connections_meet(tmp_path):
    network = grid_network()
    network.save(tmp_path)
    subject = artifact("road_network", tmp_path)
    assert verdict("connections_meet", subject)[0]
    lines = network.coords.reshape(-1, 2, 2)
    replace(network, coords=np.roll(lines, 7, axis=0).reshape(-1, 2)).save(tmp_path)
    passed, message = verdict("connections_meet", subject)
    assert not passed
    assert "by the same mapping" in message
    assert where("connections_meet", subject)[0][0]["gap_m"] > 50


@pytest.fixture
def splits(tmp_path):
    """Return a function that writes the splits of a `trajectories` artifact and returns the artifact."""

    def written(train, val, test):
        for split, trips in zip(SPLITS, (train, val, test), strict=True):
            trips.save(tmp_path / f"{split}.arrow")
        return artifact("trajectories", tmp_path)

    return written


def walks(count, seed):
    return random_trips(grid_network(), count, seed)


def test_splits_differ(splits):
    train = walks(20, 0)
    assert verdict("splits_differ", splits(train, walks(6, 1), walks(6, 2)))[0]
    passed, message = verdict("splits_differ", splits(train, train, train))
    assert not passed
    assert "20 of 20 test trips are training trips" in message
    assert "three different sets" in message


def test_splits_disjoint(splits):
    train, test = walks(20, 0), walks(6, 2)
    assert verdict("splits_disjoint", splits(train, walks(6, 1), test))[0]
    subject = splits(train, walks(6, 1), concatenate([test, train.take(np.arange(3))]))
    passed, message = verdict("splits_disjoint", subject)
    assert not passed
    assert "3 of 9 test trips are training trips" in message
    assert [row["row"] for row in where("splits_disjoint", subject)[0]] == [6, 7, 8]
    # the same roads at another time are another trip
    later = Trajectories(train.offsets, train.road_ids, train.times + 1)
    assert verdict("splits_disjoint", splits(train, walks(6, 1), later))[0]


def test_times_informative(splits):
    train = walks(20, 0)
    assert verdict("times_informative", splits(train, walks(6, 1), walks(6, 2)))[0]
    starts = np.repeat(train.start_times, train.lengths)
    for times, words in (
        (starts, "There is no time information in the train trips"),
        (
            starts + np.arange(len(starts)) - np.repeat(train.offsets[:-1], train.lengths),
            "intervals between roads are 1",
        ),
        (train.times - starts + 86_400, "start at the same time of day, 00:00"),
    ):
        subject = splits(Trajectories(train.offsets, train.road_ids, times), walks(6, 1), walks(6, 2))
        passed, message = verdict("times_informative", subject)
        assert not passed
        assert words in message


# the grid

COVERAGE = {
    "roads": 200,
    "share_inside": 1.0,
    "clamped": 0,
    "visits_inside": 1.0,
    "roads_per_cell_median": 2.0,
    "roads_per_cell_p99": 7.0,
    "roads_per_cell_max": 8,
}
RESOLUTION = {"choices": 900, "distinguishable_share": 0.8}
ALIGNED = {
    "loss": 2.3,
    "uniform_loss": 4.6,
    "min_loss_half_cell": 3.1,
    "misplaced": False,
    "is_conclusive": True,
    "trips": 40,
    "best_cells_north": 0.0,
    "best_cells_east": 0.0,
    "shifts_tried": 25,
}


def stored_grid(folder, spec, network):
    """Write the files of a grid as its stage does; returns the table of tokens."""
    from hoser_kd import plots
    from hoser_kd.grid import token_table as grid_roads
    from hoser_kd.pipeline.stages.grid import describe_grid

    table = grid_roads.token_table(spec, network)
    table.to_parquet(folder / "grid_token_table.parquet")
    grid_roads.cells_frame(spec, table["token"].to_numpy()).to_parquet(folder / "grid_cells.parquet")
    (folder / "grid.json").write_text(json.dumps(describe_grid(spec)))
    crowd = np.bincount(table["token"], minlength=spec.num_labels).reshape(spec.shape)
    figure = plots.grid_map(network, spec.lat_edges, spec.lng_edges, crowd)
    (folder / "cells.png").write_bytes(plots.png(figure, dpi=30))
    return table


@pytest.fixture
def grid(tmp_path):
    """A grid artifact with given metrics; its files are those of a grid that ends in the middle of the city."""
    network = grid_network()
    (south, west), (north, east) = network.centroids.min(0), network.centroids.max(0)
    stored_grid(tmp_path, GridSpec(south, (south + north) / 2, west, east, 0.001, 0.001), network)

    def subject(coverage=None, resolution=None, alignment=None, settings=None):
        return artifact(
            "grid_token_table",
            tmp_path,
            settings=settings,
            coverage={**COVERAGE, **(coverage or {})},
            resolution={**RESOLUTION, **(resolution or {})},
            **({} if alignment is None else {"alignment": {**ALIGNED, **alignment}}),
        )

    return subject


def test_roads_inside_grid(grid):
    assert verdict("roads_inside_grid", grid())[0]
    outside = grid({"share_inside": 0.89, "clamped": 22, "visits_inside": 0.97})
    passed, message = verdict("roads_inside_grid", outside)
    assert not passed
    assert "22 are clamped" in message
    assert "97.0% of the training trips' points" in message
    assert "`grid.bounds`" in message
    rows, figure = where("roads_inside_grid", outside)
    assert figure
    assert [row["side"] for row in rows if row["roads_beyond"]] == ["north"]
    assert rows[1]["grid_ends_deg"] < rows[1]["roads_end_deg"]
    knowing = grid({"share_inside": 0.72}, settings={"grid": {"min_share_inside": 0.7}})
    assert verdict("roads_inside_grid", knowing)[0]


def test_grid_resolution_sufficient(grid):
    assert verdict("grid_resolution_sufficient", grid())[0]
    assert verdict("grid_resolution_sufficient", grid(resolution={"choices": 0, "distinguishable_share": 1.0}))[0]
    crowded = grid({"roads_per_cell_max": 198}, {"distinguishable_share": 0.01})
    passed, message = verdict("grid_resolution_sufficient", crowded)
    assert not passed
    assert "maximum 198" in message
    assert "`grid.cell_size_m`" in message
    rows, figure = where("grid_resolution_sufficient", crowded)
    assert figure
    assert [row["roads"] for row in rows] == sorted((row["roads"] for row in rows), reverse=True)


def test_grid_alignment(grid):
    assert verdict("grid_alignment", grid())[0]
    assert verdict("grid_alignment", grid(alignment={}))[0]
    tried = [
        {"cells_north": 0.0, "cells_east": 0.0, "loss": 2.9, "gain": 0.0},
        {"cells_north": -0.5, "cells_east": 0.0, "loss": 2.3, "gain": 0.6},
    ]
    off = grid(alignment={"misplaced": True, "best_cells_north": -0.5, "tried": tried})
    passed, message = verdict("grid_alignment", off)
    assert not passed
    assert "-0.5 cells further north" in message
    assert where("grid_alignment", off) == (tried[::-1], True)
    for loss in (4.7, float("nan")):
        passed, message = verdict("grid_alignment", grid(alignment={"loss": loss, "is_conclusive": False}))
        assert not passed
        assert "uniform baseline" in message
    passed, message = verdict("grid_alignment", grid(alignment={"loss": 4.5, "is_conclusive": False}))
    assert passed
    assert "cannot be determined" in message


def test_the_grid_checks_read_the_metrics_of_the_stage(tmp_path):
    """A grid that is far too coarse and one beside the city fail, with the metrics that the stage computes."""
    from hoser_kd.grid import token_table as grid_roads

    network, trips = grid_network(), random_trips(grid_network(), 30)

    def measured(spec):
        table = stored_grid(tmp_path, spec, network)
        return artifact(
            "grid_token_table",
            tmp_path,
            coverage=grid_roads.coverage(spec, table),
            resolution=grid_roads.resolution(table["token"].to_numpy(), network, trips),
        )

    (south, west), (north, east) = network.centroids.min(0), network.centroids.max(0)
    fine = measured(GridSpec(south, north, west, east, 0.001, 0.001))
    assert all(result.passed for result in run_checks(fine, {}))
    coarse = measured(GridSpec(south - 1, north + 1, west - 1, east + 1, 1.9, 1.9))
    assert not verdict("grid_resolution_sufficient", coarse)[0]
    assert where("grid_resolution_sufficient", coarse)[0][0]["roads"] == network.num_roads
    beside = measured(GridSpec(south + 0.004, north + 0.004, west, east, 0.001, 0.001))
    assert not verdict("roads_inside_grid", beside)[0]


def test_roads_in_the_remainder_of_merged_cells_are_inside(tmp_path):
    """The check recounts, since summaries of earlier versions count these roads as outside."""
    network = grid_network()
    (south, west), (north, east) = network.centroids.min(0), network.centroids.max(0)
    spec = GridSpec(south, north, west, east, (north - south) / 6.5, (east - west) / 6.5, 4)
    stored_grid(tmp_path, spec, network)
    before = {**COVERAGE, "share_inside": 0.4, "clamped": 70}
    subject = artifact("grid_token_table", tmp_path, coverage=before, resolution=RESOLUTION)
    passed, message = verdict("roads_inside_grid", subject)
    assert passed
    assert "100.0% of the roads lie inside the grid; 0 are clamped" in message
    assert "roads inside lie beyond the last complete row or column of merged cells" in message


# the teacher


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 2}))
    return tmp_path


def test_tokens_in_vocabulary(folder):
    teacher = artifact("teacher", folder, vocab_size=103, val_loss=2.0)
    assert verdict("tokens_in_vocabulary", teacher, grid_token_table=artifact("g", num_labels=100))[0]
    passed, message = verdict("tokens_in_vocabulary", teacher, grid_token_table=artifact("g", num_labels=89))
    assert passed
    assert "11 tokens are unused" in message
    (folder / "cells.png").write_bytes(b"map")
    larger = artifact("g", folder, num_labels=101, rows=101, columns=1)
    passed, message = verdict("tokens_in_vocabulary", teacher, grid_token_table=larger)
    assert not passed
    assert "correct `grid`" in message
    rows, figure = where("tokens_in_vocabulary", teacher, grid_token_table=larger)
    assert figure
    assert [row["tokens"] for row in rows] == [101, 1, 101, 3, 104, 103]


def test_beats_uniform_baseline(folder):
    inputs = {"grid_token_table": artifact("g", num_labels=100)}
    assert verdict("beats_uniform_baseline", artifact("teacher", folder, vocab_size=103, val_loss=4.6), **inputs)[0]
    for loss in (4.62, float("inf"), float("nan")):
        teacher = artifact("teacher", folder, vocab_size=103, val_loss=loss)
        passed, message = verdict("beats_uniform_baseline", teacher, **inputs)
        assert not passed
        assert "is not better than the baseline" in message
    (folder / "curves.png").write_bytes(b"curves")
    epochs = [{"epoch": 1, "step": 9, "train_loss": 4.9, "val_loss": 4.8}]
    rows, figure = where(
        "beats_uniform_baseline", artifact("teacher", folder, vocab_size=103, val_loss=4.8, epochs=epochs), **inputs
    )
    assert figure
    assert rows == [{"epoch": 1, "train_loss": 4.9, "val_loss": 4.8, "uniform_baseline_loss": 4.6151}]
    unread = artifact("teacher", folder, vocab_size=103, val_loss=float("nan"), block_size=8, val_sequences_scored=0)
    passed, message = verdict("beats_uniform_baseline", unread, **inputs)
    assert not passed
    assert "No validation trip fits the teacher's context of 8 tokens" in message


# the labels


@pytest.fixture
def labeled(tmp_path):
    """A network, trips and labels in files as the stages write them; `written` replaces the labels of a split."""
    network = grid_network()
    network.save(tmp_path)
    trips = {split: random_trips(network, 6, seed) for seed, split in enumerate(SPLITS)}
    labels = {}
    for split, some in trips.items():
        at, _ = some.step_positions()
        offsets = offsets_of(network.successors.degrees[some.road_ids[at]])
        labels[split] = SoftLabels(offsets, np.linspace(-3, 3, offsets[-1], dtype=np.float32))
    (tmp_path / "trips").mkdir()
    (tmp_path / "labels").mkdir()
    inputs = {"road_network": artifact("road_network", tmp_path), "trajectories": artifact("t", tmp_path / "trips")}
    subject = artifact("teacher_soft_labels", tmp_path / "labels")

    def written(trips_of=trips, **changed):
        for split in SPLITS:
            trips_of[split].save(tmp_path / "trips" / f"{split}.arrow")
            changed.get(split, labels[split]).save(tmp_path / "labels" / f"{split}.arrow")
        return subject, inputs

    return network, trips, labels, written


def test_labels_on_road_graph(labeled):
    network, trips, labels, written = labeled
    subject, inputs = written()
    assert verdict("labels_on_road_graph", subject, **inputs)[0]

    short = SoftLabels(labels["val"].offsets[:-1], labels["val"].scores[: labels["val"].offsets[-2]])
    moved = labels["test"].offsets.copy()
    moved[1] += 1
    for changed in ({"val": short}, {"test": SoftLabels(moved, labels["test"].scores)}):
        subject, inputs = written(**changed)
        passed, message = verdict("labels_on_road_graph", subject, **inputs)
        assert not passed
        (row, *_), _ = where("labels_on_road_graph", subject, **inputs)
        assert row["split"] == next(iter(changed))
        assert "materialize teacher_soft_labels again" in message

    # a trip with a step to a road that is not a candidate, at the right number of candidates
    roads = trips["train"].road_ids.copy()
    roads[1] = next(
        road
        for road in range(network.num_roads)
        if road not in network.successors.row(int(roads[0]))
        and network.successors.degrees[road] == network.successors.degrees[roads[1]]
    )
    jumping = Trajectories(trips["train"].offsets, roads, trips["train"].times)
    subject, inputs = written({**trips, "train": jumping})
    assert not verdict("labels_on_road_graph", subject, **inputs)[0]
    rows, _ = where("labels_on_road_graph", subject, **inputs)
    first = rows[0]
    assert (first["split"], first["trip"], first["road"], first["next_road"]) == ("train", 0, roads[0], roads[1])
    assert first["wrong"] == "next road is not a candidate"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", SPLITS)
def test_labels_finite(labeled, value, split):
    _, _, labels, written = labeled
    subject, inputs = written()
    assert verdict("labels_finite", subject, **inputs)[0]
    scores = labels[split].scores.copy()
    scores[3] = value
    subject, inputs = written(**{split: replace(labels[split], scores=scores)})
    passed, message = verdict("labels_finite", subject, **inputs)
    assert not passed
    assert "1 of the stored scores" in message
    ((row,), _) = where("labels_finite", subject, **inputs)
    assert row["split"] == split
    assert row["scores"].split(", ").count(f"{value:g}") == 1


@pytest.mark.parametrize("change", [None, "nan", "short"])
def test_labels_of_synthetic_trips_are_checked_too(labeled, tmp_path, change):
    _, trips, labels, written = labeled
    subject, inputs = written()
    inputs = {**inputs, "synthetic_trips": artifact("synthetic_trips", tmp_path / "sampled")}
    (tmp_path / "sampled").mkdir()
    trips["val"].save(tmp_path / "sampled" / "synthetic.arrow")
    offsets, scores = labels["val"].offsets, labels["val"].scores.copy()
    if change == "nan":
        scores[2] = np.nan
    if change == "short":
        offsets, scores = offsets[:-1], scores[: offsets[-2]]
    SoftLabels(offsets, scores).save(tmp_path / "labels" / "synthetic.arrow")
    assert verdict("labels_finite", subject, **inputs)[0] == (change != "nan")
    assert verdict("labels_on_road_graph", subject, **inputs)[0] == (change != "short")
    for name, failing in (("labels_finite", "nan"), ("labels_on_road_graph", "short")):
        if change == failing:
            assert where(name, subject, **inputs)[0][0]["split"] == "synthetic"


# the students


@pytest.mark.parametrize(
    ("summary", "passed", "words"),
    [
        ({"enabled": False}, True, "no recipe"),
        ({"ended_share": 0.98, "trips": 100}, True, "98.0% of 120"),
        ({"ended_share": 0.3, "trips": 100}, False, "Train the teacher longer"),
        ({"ended_share": 0.9, "trips": 60}, False, "60 of 100 requested"),
    ],
)
def test_synthetic_trips_end(summary, passed, words, tmp_path):
    counts = {"requested": 100, "attempts": 120, "too_long": 11, "too_short": 9, "rejected_by_length": 0}
    subject = artifact("synthetic_trips", tmp_path, **{**counts, **summary})
    result, message = verdict("synthetic_trips_end", subject)
    assert (result, words in message) == (passed, True)
    if not passed:
        rows, figure = where("synthetic_trips_end", subject)
        assert {row["attempts"]: row["number"] for row in rows}["too_long"] == 11
        assert not figure


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_off_path_states_have_targets(share, tmp_path):
    """Two trips of two steps with two candidates each; the targets of the last steps are missing."""
    trips = Trajectories(np.array([0, 3, 6]), np.arange(6), np.zeros(6, np.int64))
    scores = np.zeros(8, np.float32)
    scores[int(8 * share) :] = -np.inf
    save_states(OffPathStates(trips, np.array([7, 9]), StepScores(np.arange(0, 9, 2), scores)), tmp_path)
    shares = {"signal_share": share, "arrived_share": 1.0, "off_trip_share": 0.5}
    subject = artifact("off_path_labels", tmp_path, states=4, **shares)
    assert verdict("off_path_states_have_targets", subject)[0] == (share >= 0.5)
    if share < 0.5:
        rows, _ = where("off_path_states_have_targets", subject)
        assert [row["destination"] for row in rows] == [9, 7]
        assert [row["without_target"] for row in rows] == [2, 1]


@pytest.mark.parametrize("stage", ["vanilla_student", "distilled_student"])
def test_beats_frequency_baseline(stage, tmp_path):
    assert verdict("beats_frequency_baseline", artifact(stage, tmp_path, val_nll=0.5, frequency_nll=0.6))[0]
    for nll in (0.6, 0.7, float("nan")):
        passed, message = verdict("beats_frequency_baseline", artifact(stage, tmp_path, val_nll=nll, frequency_nll=0.6))
        assert not passed
        assert "not better than the baseline" in message
    (tmp_path / "curves.png").write_bytes(b"curves")
    epochs = [{"epoch": 1.0, "nll": 0.9, "lr": 1.0}, {"epoch": 2.0, "nll": 0.7, "lr": 1.0}]
    rows, figure = where(
        "beats_frequency_baseline", artifact(stage, tmp_path, val_nll=0.7, frequency_nll=0.6, epochs=epochs)
    )
    assert figure
    assert rows == [
        {"epoch": 1.0, "nll": 0.9, "frequency_baseline_nll": 0.6},
        {"epoch": 2.0, "nll": 0.7, "frequency_baseline_nll": 0.6},
    ]
    assert verdict("beats_frequency_baseline", artifact("distilled_student", enabled=False))[0]


@pytest.mark.parametrize("stage", ["vanilla_student", "distilled_student"])
def test_trained_to_optimum(stage, tmp_path):
    epochs = [{"epoch": float(epoch), "nll": 0.5} for epoch in (1, 2, 3)]
    trained = {"best_epoch": 2, "val_nll": 0.5, "frequency_nll": 0.6, "epochs": epochs}
    passed, message = verdict("trained_to_optimum", artifact(stage, tmp_path, training_warnings=[], **trained))
    assert passed
    assert "Epoch 2 of 3" in message
    warnings = [{"kind": "a", "message": "Too few steps."}, {"kind": "b", "message": "Raise `student.max_epochs`."}]
    subject = artifact(stage, tmp_path, training_warnings=warnings, **trained)
    assert verdict("trained_to_optimum", subject) == (False, "Too few steps. Raise `student.max_epochs`.")
    assert [row["epoch"] for row in where("trained_to_optimum", subject)[0]] == [1.0, 2.0, 3.0]
    older = artifact(stage, tmp_path, **trained)
    assert verdict("trained_to_optimum", older)[0]
    assert verdict("trained_to_optimum", artifact("distilled_student", enabled=False))[0]


def test_seeds_comparable():
    assert verdict("seeds_comparable", artifact("distillation_report", seeds="0, 1", num_seeds=2, left_out=[]))[0]
    left_out = [{"seed": 2, "reason": "distillation.lambda_kl is 0.7, not 0.1"}]
    subject = artifact("distillation_report", seeds="0, 1", num_seeds=2, left_out=left_out)
    passed, message = verdict("seeds_comparable", subject)
    assert not passed
    assert "seed 2: distillation.lambda_kl is 0.7, not 0.1" in message
    assert where("seeds_comparable", subject) == (left_out, False)


def test_checks_belong_to_stages_and_block_those_with_downstream_stages():
    assert set(CHECKS) <= set(STAGES)
    for stage, checks in CHECKS.items():
        followed = any(stage in other.inputs for other in STAGES.values())
        # an under-trained student is a valid artifact; a few repeated trips or missing times are the user's choice
        warnings = {"trained_to_optimum", "splits_disjoint", "times_informative"}
        # what a matching is good enough for, the user decides
        warnings |= {"most_points_kept", "trips_whole", "points_near_roads", "paths_plausible"}
        assert all(check.blocking is (followed and check.name not in warnings) for check in checks)
        assert len({check.name for check in checks}) == len(checks)


def test_every_check_has_a_test_here():
    names = {check.name for checks in CHECKS.values() for check in checks}
    assert {f"test_{name}" for name in names} <= set(globals())


def gps_points(**changes):
    summary = {"points_kept_share": 0.9, "points_read": 10, "trips": 2, "cleaning": {"points_in_jumps": 1}}
    return artifact("gps_points", **summary | changes)


def matched_trips(**changes):
    summary = {
        "matched_points_share": 0.9,
        "unconnected_steps": 0,
        "matched_trips_share": 0.9,
        "gps_trips": 10,
        "pieces_per_trip": 1.2,
        "splits_at_gaps": 1,
        "splits_without_path": 1,
        "distance_m_median": 3.0,
        "distance_m_p95": 20.0,
        "speed_m_s_p99": 30.0,
        "detour_median": 1.3,
        "worst": [{"trip_id": "a", "distance_m": 50.0}],
    }
    return artifact("matched_trips", Path(), **summary | changes)


def test_most_points_kept():
    assert verdict("most_points_kept", gps_points())[0]
    passed, message = verdict("most_points_kept", gps_points(points_kept_share=0.4))
    assert not passed
    assert "40.0% of 10 points are kept" in message


@pytest.mark.parametrize("changes", [{"matched_points_share": 0.4}, {"unconnected_steps": 1}])
def test_points_on_roads(changes):
    assert verdict("points_on_roads", matched_trips())[0]
    assert not verdict("points_on_roads", matched_trips(**changes))[0]


@pytest.mark.parametrize("changes", [{"matched_trips_share": 0.7}, {"pieces_per_trip": 1.6}])
def test_trips_whole(changes):
    assert verdict("trips_whole", matched_trips())[0]
    assert not verdict("trips_whole", matched_trips(**changes))[0]


@pytest.mark.parametrize("changes", [{"distance_m_median": 16.0}, {"distance_m_p95": 51.0}])
def test_points_near_roads(changes):
    assert verdict("points_near_roads", matched_trips())[0]
    assert not verdict("points_near_roads", matched_trips(**changes))[0]


@pytest.mark.parametrize("changes", [{"speed_m_s_p99": 46.0}, {"detour_median": 2.1}])
def test_paths_plausible(changes):
    assert verdict("paths_plausible", matched_trips())[0]
    assert not verdict("paths_plausible", matched_trips(**changes))[0]


@pytest.mark.parametrize("check", [each for checks in CHECKS.values() for each in checks], ids=lambda check: check.name)
@pytest.mark.parametrize(("seed", "place"), [(None, "town: "), (3, "town, seed 3: ")])
def test_every_result_begins_with_its_city(check, seed, place):
    """Dagster's check page mixes the cities; its partitioned checks are a preview."""
    metrics = {"share": 0.5, "unit": "km", "by_class": {"primary": 1}}
    shown = asset_check_result(check, CheckResult(check.name, False, "It failed.", metrics), "town", seed)
    assert shown.description == f"{place}It failed."
    first = ["city"] if seed is None else ["city", "seed"]
    assert list(shown.metadata) == [*first, *(f"{place}{name}" for name in metrics)]
    assert shown.metadata["city"].value == "town"


def test_partitioned_checks_are_still_a_preview_of_dagster():
    """Where this fails, they are stable: give `AssetCheckSpec` the partitions of its asset."""
    with pytest.warns(dg.PreviewWarning):
        dg.AssetCheckSpec("one", asset="a", partitions_def=dg.StaticPartitionsDefinition(["town"]))


def test_a_stage_without_checks_has_no_results():
    assert run_checks(artifact("source_files"), {}) == []
