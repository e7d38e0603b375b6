"""Comparison of runs: groups, settings that differ, intervals and differences, and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_city import grid_network, random_trips

from assets.run_table import run_table
from hoser_kd.cli import main
from hoser_kd.common.errors import StoreError
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.trip_values import (
    PER_TRIP_METRICS,
    REQUEST_VALUES,
    STEP_SUMS,
    TripValues,
    stored_trip_values,
    values_by_test_trip,
    write_request_values,
)
from hoser_kd.pipeline.run_records import run_records
from hoser_kd.report.run_verdicts import group_verdicts
from hoser_kd.report.runs import RunRecord, compare_runs, value_of
from hoser_kd.report.runs_page import render_runs

VANILLA = {"student.learning_rate": "0.001", "grid.cell_size_m": "50"}


def run(seed, nll, *, city="town", student="vanilla", settings=None, version="", **other) -> RunRecord:
    settings = {**VANILLA, **(settings or {})}
    origin = {"code version of student": "2", "version of trajectories": f"{city}-1"}
    return RunRecord(
        city, student, seed, version or f"{student}{seed}{nll}", f"2026-01-0{seed + 1}", settings,
        other.pop("origin", origin), {"val.nll": nll, "paired.edr": 2 * nll}, [{"epoch": 1.0, "nll": nll}], **other,
    )  # fmt: skip


def distilled(seed, nll, weight="0.1", **other) -> RunRecord:
    return run(seed, nll, student="distilled", settings={"distill.lambda_kl": weight}, **other)


def test_runs_that_differ_by_the_seed_alone_are_a_group_with_a_t_interval():
    comparison = compare_runs([run(0, 0.40), run(1, 0.44), run(2, 0.42)])
    [group] = comparison.groups
    assert [each.seed for each in group.runs] == [0, 1, 2]
    low, high = stats.t.interval(0.95, 2, 0.42, stats.sem([0.40, 0.44, 0.42]))
    np.testing.assert_allclose(group.intervals["val.nll"], (0.42, low, high))
    assert comparison.columns == ()


def test_groups_are_compared_with_the_vanilla_students_of_their_city_paired_by_seed():
    runs = [run(0, 0.40), run(1, 0.44), distilled(0, 0.30), distilled(1, 0.36), distilled(3, 9.0)]
    other_city = [run(0, 5.0, city="village"), distilled(0, 4.0, city="village")]
    comparison = compare_runs([*runs, *other_city])
    reference, group, _, village = comparison.groups
    assert reference.is_reference
    assert reference.differences == {}
    difference = group.differences["val.nll"]
    assert difference.mean == pytest.approx(-0.09)
    assert (difference.low, difference.high) == pytest.approx(stats.t.interval(0.95, 1, -0.09, stats.sem([0.10, 0.08])))
    assert village.differences["val.nll"].mean == pytest.approx(-1.0)


def test_another_reference_can_be_named():
    comparison = compare_runs([run(0, 0.4), distilled(0, 0.3, version="abc123")], "abc")
    assert [group.is_reference for group in comparison.groups] == [True, False]
    assert comparison.groups[0].first.version == "abc123"


def test_columns_are_the_settings_that_differ_within_a_city():
    runs = [run(0, 0.4), distilled(0, 0.3), distilled(0, 0.2, weight="1.0")]
    village = replace(run(0, 0.5, city="village"), settings={**VANILLA, "grid.cell_size_m": "80"})
    comparison = compare_runs([*runs, village])
    assert comparison.columns == ("distill.lambda_kl",)
    assert comparison.between_cities == ("grid.cell_size_m",)
    assert [value_of(group, "distill.lambda_kl") for group in comparison.groups] == ["–", "0.1", "1.0", "–"]


def test_versions_are_columns_where_settings_do_not_distinguish_the_groups():
    other = run(0, 0.5, origin={"code version of student": "2", "version of trajectories": "town-2"})
    assert compare_runs([run(0, 0.4), other]).columns == ("version of trajectories",)


def test_the_page_is_self_contained_and_escapes_texts():
    hostile = distilled(0, 0.3, weight="</script><script>alert(1)</script>")
    comparison = compare_runs([run(0, 0.40), run(1, 0.44), hostile, distilled(0, 0.2)])
    page = render_runs(comparison, ["data"])
    assert "alert(1)</script>" not in page
    assert not re.search(r"(?:src|href)=", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["groups"][0]["intervals"]["val.nll"][0] == pytest.approx(0.42)
    assert data["groups"][0]["runs"][1]["history"]["nll"] == [0.44]
    assert data["groups"][1]["intervals"]["val.nll"][1] is None


TRIPS = np.random.default_rng(0).random(60)
NOISE = np.random.default_rng(1).normal(0, 1, 60)
TESTED = {"next_step.nll", "paired.edr"}
STEP_COLUMNS = (
    "steps", "decision", "correct", "decision_correct", "in_top_3", "nll", "error_s", "relative_error", "log_error",
)  # fmt: skip


def measured(make, seed, nll, *, noise=0.0, names=TESTED, split="town-1"):
    """Return a run with test metrics and, for `names`, values of trips that all have its difference, plus `noise`."""
    values = {name: TripValues(TRIPS - TRIPS.mean() + nll + noise, np.ones(60)) for name in names}
    made = make(seed, nll)
    metrics = {**made.metrics, "next_step.nll": nll, "paired.edr": nll}
    return replace(made, metrics=metrics, test_split=split, trip_values=lambda: values)


def verdict_of(references, runs, name="next_step.nll"):
    """Return the verdict, and the class and text of the difference on the page."""
    comparison = compare_runs([*references, *runs])
    group = comparison.groups[1]
    page = render_runs(comparison)
    place = [metric.name for metric in comparison.metrics].index(name)
    row = page.partition('data-group="1"')[2].partition("</tr>")[0]
    cell = re.findall(r"<td.*?</td>", row)[place + 1]
    return group_verdicts(group, comparison.reference_of(group))[name], re.search(r"<small.*</small>", cell)[0]


class TestVerdicts:
    """A color is the verdict of the report: over the seeds and over the test trips."""

    BEFORE = (measured(run, 0, 0.40), measured(run, 1, 0.41))

    def test_better_needs_seeds_and_trips(self):
        after = [measured(distilled, 0, 0.30), measured(distilled, 1, 0.311)]
        verdict, cell = verdict_of(self.BEFORE, after)
        assert verdict == "better"
        assert cell.startswith('<small class="better">-0.0995')
        assert cell.endswith(", better</small>")

    def test_an_interval_over_seeds_is_not_enough(self):
        noise = NOISE - NOISE.mean()
        after = [measured(distilled, seed, 0.30 + seed / 90, noise=noise) for seed in (0, 1)]
        verdict, cell = verdict_of(self.BEFORE, after)
        assert verdict == "leans better"
        assert cell.startswith("<small>-0.0")

    @pytest.mark.parametrize("missing", [{"names": ()}, {"split": "town-2"}])
    def test_without_values_per_trip_there_is_no_color(self, missing):
        """An artifact of an older release, or students of other test trips."""
        after = [measured(distilled, 0, 0.30, **missing), measured(distilled, 1, 0.311, **missing)]
        for name in TESTED:
            verdict, cell = verdict_of(self.BEFORE, after, name)
            assert verdict == "leans better"
            assert "class" not in cell

    def test_one_seed_has_no_color_without_the_test_trips(self):
        verdict, cell = verdict_of(self.BEFORE[:1], [measured(distilled, 0, 0.2, names=())])
        assert verdict == "leans better"
        assert "class" not in cell
        verdict, cell = verdict_of(self.BEFORE[:1], [measured(distilled, 0, 0.2)])
        assert verdict == "better, one seed"
        assert 'class="better-one-seed"' in cell

    def test_the_legend_says_what_a_color_means(self):
        page = re.sub(r"\s+", " ", render_runs(compare_runs(self.BEFORE)))
        assert "excludes 0, so does that over the test trips" in page
        assert "the same over the test trips alone, which shows nothing of another training" in page


def test_values_of_the_requests_are_read_for_all_test_trips(tmp_path):
    network = grid_network(5)
    test, generated = random_trips(network, 9, 0), random_trips(network, 4, 1)
    rows = np.array([7, 2, 7, 4])
    used, values = values_by_test_trip(test, generated, rows, network, EvaluationConfig())
    write_request_values(tmp_path / REQUEST_VALUES.format(kind="vanilla"), used, values)
    pq.write_table(pa.table({name: np.ones(9) for name in STEP_COLUMNS}), tmp_path / STEP_SUMS.format(kind="vanilla"))
    read = stored_trip_values(tmp_path, "vanilla")
    assert read.keys() == PER_TRIP_METRICS
    edr = read["paired.edr"]
    assert edr.counts.tolist() == [0, 0, 1, 0, 1, 0, 0, 2, 0]
    assert edr.mean == pytest.approx(evaluate(test.take(rows), generated, network, paired=True)["paired"]["edr"])
    assert stored_trip_values(tmp_path, "distilled") == {}


def write(store, stage, seed, version, *, settings=None, inputs=None, summary=None, files=()):
    name = stage if seed is None else f"{stage}/seed-{seed}"
    folder = store / "town" / name / version
    folder.mkdir(parents=True)
    record = {
        "stage": stage, "city": "town", "seed": seed, "version": version, "code_version": "1", "inputs": inputs or {},
        "settings": settings or {}, "created_at": "2026-01-01T00:00:00Z", "seconds": 1.0, "summary": summary or {},
    }  # fmt: skip
    (folder / "artifact.json").write_text(json.dumps(record))
    for file, value in dict(files).items():
        (folder / file).write_text(json.dumps(value))


@pytest.fixture
def store(tmp_path):
    """A store with a vanilla student, a distilled one that is evaluated, and one of an older release."""
    folder = tmp_path / "store"
    epochs = {"epochs": [{"epoch": 1.0, "nll": 0.5}], "val_nll": 0.4, "steps": 10, "training_warnings": []}
    student = {"student": {"learning_rate": 0.003}}
    distillation = {"distillation": {"lambda_kl": 0.5}}
    write(folder, "teacher", None, "t1", settings={"teacher": {"max_epochs": 7}})
    write(folder, "teacher_soft_labels", None, "l1", inputs={"teacher": "t1"})
    labels = {"teacher_soft_labels": "l1"}
    write(folder, "vanilla_student", 0, "v0", settings=student, summary=epochs)
    write(folder, "distilled_student", 0, "d0", settings=student | distillation, inputs=labels, summary=epochs)
    newer = {"distillation": {"lambda_kl": 0.5, "recipe": ["kl"]}}
    write(folder, "distilled_student", 1, "d1", settings=student | newer, inputs=labels, summary=epochs)
    write(folder, "distilled_student", 2, "none", summary={"enabled": False})
    students = {"vanilla_student/seed-0": "v0", "distilled_student/seed-0": "d0"}
    write(folder, "generated_trajectories", 0, "g0", settings={"generation": {"num_trips": 9}}, inputs=students)
    results = {
        kind: {"next_step": {"nll": nll}, "trips": {"paired": {"edr": 0.2}}}
        for kind, nll in (("vanilla", 0.5), ("distilled", 0.4))
    }
    write(
        folder, "trajectory_metrics", 0, "m0", files={"metrics.json": results},
        inputs={"generated_trajectories/seed-0": "g0", "distilled_student/seed-0": "d0"},
    )  # fmt: skip
    return folder


def test_records_of_a_store_hold_settings_of_the_lineage_and_metrics_of_the_evaluation(store):
    runs = {run.version: run for run in run_records(store)}
    assert set(runs) == {"v0", "d0", "d1"}
    assert runs["v0"].metrics["next_step.nll"] == 0.5
    assert runs["d0"].metrics | {"paired.edr": 0.2, "val.nll": 0.4, "cost.steps": 10.0} == runs["d0"].metrics
    assert runs["d0"].settings["teacher.max_epochs"] == "7"
    assert "teacher.max_epochs" not in runs["v0"].settings
    assert runs["d0"].settings["generation.num_trips"] == "9"
    assert runs["d1"].settings["distill.recipe"] == runs["d0"].settings["distill.recipe"] == "kl"
    assert "next_step.nll" not in runs["d1"].metrics


def test_the_metadata_of_a_report_has_a_row_per_group(store):
    rows = run_table(store, "town")
    assert [row["student"] for row in rows] == ["vanilla (reference)", "distilled", "distilled"]
    assert rows[0]["val.nll"] == "0.4"
    (store / "town" / "teacher" / "t1" / "artifact.json").write_text("{")
    assert run_table(store, "town") == []


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="nowhere: no such folder"):
        run_records(tmp_path / "nowhere")


def test_compare_writes_page_and_csv_and_prints_a_table(store, tmp_path, capsys):
    page, table = tmp_path / "page.html", tmp_path / "runs.csv"
    assert main(["compare", str(store), "--out", str(page), "--csv", str(table)]) == 0
    screen = capsys.readouterr().out
    assert "vanilla *" in screen
    assert f"written: {page}" in screen
    assert "distilled" in page.read_text()
    assert len(table.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "student.learning_rat=0.003"], "Did you mean `student.learning_rate`?"),
        (["--where", "nonsense"], "write KEY=VALUE"),
        (["--where", "student.learning_rate=7"], "no trained student matches"),
        (["--dataset", "village"], "no trained student matches"),
        (["--reference", "ffff"], "no run has a version that begins so"),
    ],
)
def test_wrong_conditions_are_explained(store, tmp_path, capsys, arguments, message):
    assert main(["compare", str(store), "--out", str(tmp_path / "page.html"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_conditions_compare_numbers(store, tmp_path, capsys):
    arguments = ["--where", "student.learning_rate=3e-3", "--student", "vanilla"]
    assert main(["compare", str(store), "--out", str(tmp_path / "page.html"), *arguments]) == 0
    assert "distilled" not in capsys.readouterr().out
