"""`evaluate --trips` and the report: another generator's trips and the baselines beside trained students."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from hoser_kd.cli import main
from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation.metrics import flatten
from hoser_kd.evaluation.trip_values import PER_TRIP_METRICS, stored_trip_values
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.run import make_all
from hoser_kd.pipeline.run_records import run_records
from hoser_kd.pipeline.store import Store, read_artifact

TOWN = {
    "source": {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 150}},
    "zones": {"count": 6},
    "grid": {"bounds": "roads", "cell_size_m": 80},
    "teacher": {"preset": "tiny", "n_embd": 16, "max_epochs": 1},
    "student": {"hidden_dim": 16, "road_id_dim": 8, "attribute_dim": 2, "max_epochs": 2, "batch_size": 32},
    "generation": {"max_steps": 300},
}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Config file, store, and artifacts of a town whose report is written."""
    folder = tmp_path_factory.mktemp("town")
    (folder / "town.yaml").write_text(yaml.safe_dump(TOWN))
    config = CityConfig.model_validate({"city": "town", **TOWN})
    store = folder / "store"
    made = make_all(["distillation_report"], config, Store(store), device="cpu", stop_at_checks=False)
    return folder / "town.yaml", store, made


def evaluate(town, *arguments, file="town.yaml"):
    path, store, _ = town
    return main(["evaluate", "--config", str(path), "--store", str(store), *map(str, arguments)])


def test_the_values_of_each_test_trip_are_stored_beside_the_metrics(town):
    artifact = town[2]["trajectory_metrics"]
    results = json.loads((artifact.path / "metrics.json").read_text())
    for kind in ("vanilla", "distilled"):
        means = flatten(results[kind]["trips"]) | {
            f"next_step.{name}": value for name, value in results[kind]["next_step"].items()
        }
        for name, values in stored_trip_values(artifact.path, kind).items():
            assert name in PER_TRIP_METRICS
            assert values.mean == pytest.approx(means[name], rel=1e-5), name
        assert {"paired.edr", "next_step.nll"} <= stored_trip_values(artifact.path, kind).keys()
    [run] = [run for run in run_records(town[1]) if run.student == "vanilla"]
    assert run.trip_values().keys() == stored_trip_values(artifact.path, "vanilla").keys()
    assert run.test_split == town[2]["trajectories"].version


def test_a_student_s_own_trips_get_the_metrics_of_that_student(town, tmp_path, capsys):
    generated, metrics = (town[2][name].path for name in ("generated_trajectories", "trajectory_metrics"))
    expected = json.loads((metrics / "metrics.json").read_text())["distilled"]["trips"]
    for suffix in ("parquet", "csv"):
        out = tmp_path / f"{suffix}.json"
        assert evaluate(town, "--trips", generated / f"distilled.{suffix}", "--name", "mine", "--out", out) == 0
        written = json.loads(out.read_text())
        assert written["metrics"] == expected
        assert (written["city"], written["name"], written["paired"]) == ("town", "mine", True)
        assert written["beside"]["distilled"] == {
            f"{section}.{key}": value for section, values in expected.items() for key, value in values.items()
        }
    head = next(line for line in capsys.readouterr().out.splitlines() if "metric on test trips" in line)
    assert re.split(r" {2,}", head.strip()) == [
        "metric on test trips",
        "vanilla",
        "distilled",
        "Markov chain",
        "Shortest path",
        "Fastest path",
        "Nearest training trip",
        "mine",
    ]


def test_real_trips_are_perfect_and_a_report_shows_them(town, tmp_path, capsys):
    test = Trajectories.load(town[2]["trajectories"].path / "test.arrow")
    test.to_hoser_csv(tmp_path / "real.csv")
    page = tmp_path / "page.html"
    assert evaluate(town, "--trips", tmp_path / "real.csv", "--name", "<Real>", "--report", page) == 0
    out = capsys.readouterr().out
    assert re.search(r"paired\.identical_share .* 1\.0000$", out, re.MULTILINE)
    assert re.search(r"paired\.edr .* 0\.0000$", out, re.MULTILINE)
    text = page.read_text()
    assert "&lt;Real&gt;" in text
    assert "<Real>" not in text
    assert re.search(r"Better on these trips[^:]*:[^.]*&lt;Real&gt; 0\.0000 \(difference −\S+, 95\s% interval −", text)
    assert "Only the means are known" not in text
    test.take(np.arange(len(test) // 2)).to_hoser_csv(tmp_path / "half.csv")
    assert evaluate(town, "--trips", tmp_path / "half.csv", "--report", page) == 0
    assert "Only the means are known, because values per trip are missing: half (" in page.read_text()


def test_the_report_shows_the_baselines_and_how_they_compare_with_each_student(town):
    record = read_artifact(town[2]["distillation_report"].path)
    row = record.summary["baselines"][0]
    assert row["metric"] == "paired.edr"
    page = (record.path / "report.html").read_text()
    for kind in ("vanilla", "distilled"):
        sentence = re.search(rf"Baselines beside the {kind} student \({row[kind]:.4f}\) [^<]*", page)[0]
        for name in ("Markov chain", "Shortest path", "Fastest path", "Nearest training trip"):
            assert re.search(
                rf"{name} {row[name]:.4f} \(difference \S+, 95\s% interval [^;)]* over the test trips\)", sentence
            )
            assert f">{name}</th>" in page
        assert "Only the means are known" not in sentence
    assert {"Frequency", "Markov chain, order 2"} <= set(record.summary["next_step_baselines"][0])
    assert ">Markov chain, order 2</th>" in page
    # those of the next step are compared trip by trip too
    assert "only the means are known" not in page
    assert re.search(
        r"On the next road, the best baseline \([^)]*\) (is (better|worse) than|is not shown to differ)", page
    )


def test_trips_of_other_ods_are_not_paired(town, tmp_path, capsys):
    train = Trajectories.load(town[2]["trajectories"].path / "train.arrow")
    train.to_published_csv(tmp_path / "train.csv")
    assert evaluate(town, "--trips", tmp_path / "train.csv", "--out", tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    assert f"of {len(train)} trips match the origin and destination of a test trip" in out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["name"] == "train"
    assert not written["paired"]
    assert not {"paired", "requests"} & set(written["metrics"])
    assert written["metrics"]["training"]["memorized_share"] == 1
    line = next(line for line in out.splitlines() if line.strip().startswith("paired.edr "))
    assert line.endswith("–")


def test_some_of_the_test_trips_are_compared_with_a_caution(town, tmp_path, capsys):
    test = Trajectories.load(town[2]["trajectories"].path / "test.arrow")
    test.take(range(3)).to_published_csv(tmp_path / "some.csv")
    assert evaluate(town, "--trips", tmp_path / "some.csv") == 0
    out = capsys.readouterr().out
    assert f"All 3 trips are paired with test trips by the first and the last road; they cover 3 of {len(test)}" in out
    assert f"some is compared with 3 test trips, the other columns with {len(test)}" in out
    assert f"some answers 3 of {len(test)} test trips" in out
    head = next(line for line in out.splitlines() if "metric on test trips" in line)
    assert head.endswith(f"some (3 of {len(test)} trips)")
    row = next(line for line in out.splitlines() if line.strip().startswith("distance.jsd "))
    assert row.endswith("–")


def test_students_that_are_not_evaluated_are_left_out_and_nothing_is_trained(town, tmp_path, capsys):
    test = Trajectories.load(town[2]["trajectories"].path / "test.arrow")
    test.to_hoser_csv(tmp_path / "real.csv")
    page = tmp_path / "page.html"
    assert evaluate(town, "--trips", tmp_path / "real.csv", "--seed", "5") == 0
    out = capsys.readouterr().out
    assert "The students of seed 5 are not evaluated with the current settings" in out
    assert "vanilla " not in next(line for line in out.splitlines() if "metric on test trips" in line)
    assert not (town[1] / "town" / "vanilla_student" / "seed-5").exists()
    assert evaluate(town, "--trips", tmp_path / "real.csv", "--seed", "5", "--report", page) == 2
    assert "is not materialized. Run `hoser-kd report --dataset town --seed 5` first." in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trips", "none.csv"], "none.csv: no such file."),
        (["--trips", __file__, "--name", "vanilla"], "--name vanilla: this is the name of a student or baseline."),
        (["--trips", __file__], "no column with trips"),
        (["--name", "mine"], "--name: only valid with --trips."),
        (["--out", "x.json"], "--out: only valid with --trips."),
    ],
)
def test_an_error_of_the_user_is_one_message(town, capsys, arguments, message):
    assert evaluate(town, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("x.json").exists()
