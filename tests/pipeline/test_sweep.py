"""Sweeps: a study on a tiny town end to end, several processes, resumption, and studies that cannot work."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from hoser_kd.cli import main
from hoser_kd.common.errors import ConfigError, TrainingError
from hoser_kd.config.loading import load_config, with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.study import StudyConfig, find_study, load_study, patch_of
from hoser_kd.pipeline import sweep as module
from hoser_kd.pipeline.stages import student
from hoser_kd.pipeline.store import Store
from hoser_kd.pipeline.sweep import Sweep
from hoser_kd.pipeline.sweep_checks import STUDENT_METRICS, check_sweep
from hoser_kd.pipeline.sweep_results import results_of

TOWN = """
source: {kind: synthetic, synthetic: {blocks: [5, 5], num_trips: 50}}
zones: {count: 4}
grid: {bounds: roads, cell_size_m: 80}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: 1, batch_size: 16}
"""
STUDY = """
stage: vanilla_student
trials: 2
search:
  student.learning_rate: {low: 0.0001, high: 0.01, log: true}
  student.batch_size: [8, 16]
"""


def config(**changes) -> CityConfig:
    return with_changes(CityConfig(city="town", source={"kind": "synthetic"}), changes)


def study(**values) -> StudyConfig:
    return StudyConfig(**{"search": {"distill.lambda_kl": {"low": 0.0, "high": 1.0}}, "trials": 4, **values})


@pytest.fixture
def computed(monkeypatch):
    """Replace the training: the metric is a function of the settings, so that its optimum is known."""
    calls = []

    def make(stage, settings, store, *, seed, **_):
        calls.append((settings, seed))
        if settings.distill.temperature > 9:
            raise TrainingError("diverged")
        value = (settings.distill.lambda_kl - 0.3) ** 2 + 0.01 * seed
        return SimpleNamespace(stage=stage, version=f"v{len(calls)}", summary={"val_nll": value, "note": "text"})

    monkeypatch.setattr(module, "make_with_inputs", make)
    return calls


def test_a_study_by_the_command_writes_the_best_settings(tmp_path, capsys):
    """With real trainings. A second call finds all trials finished."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "town.yaml").write_text(TOWN)
    (tmp_path / "studies" / "rates.yaml").write_text(STUDY)
    command = ["sweep", "--config", str(tmp_path / "town.yaml"), "--store", str(tmp_path / "store"), "--study", "rates"]
    assert main(command) == 0
    output = capsys.readouterr()
    assert "2 of 2 trials finished, 0 failed" in output.out
    assert output.err.count("town: vanilla_student\n") == 2
    [folder] = (tmp_path / "store" / "town" / "sweep" / "rates").iterdir()
    patch = yaml.safe_load((folder / "best.yaml").read_text())
    rows = yaml.safe_load((folder / "results.json").read_text())["trials"]
    assert [row["val_nll"] for row in rows] == sorted(row["val_nll"] for row in rows)
    best = {
        "student.learning_rate": rows[0]["student.learning_rate"],
        "student.batch_size": rows[0]["student.batch_size"],
    }
    assert patch == yaml.safe_load(patch_of(best))
    for name in ("parallel_coordinates.png", "importances.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    # the winner is a valid city
    (tmp_path / "town.yaml").write_text(yaml.safe_dump({**yaml.safe_load(TOWN), **patch}))
    assert load_config(tmp_path / "town.yaml").student.batch_size in (8, 16)
    (tmp_path / "town.yaml").write_text(TOWN)
    assert main(command) == 0
    assert "town: vanilla_student" not in capsys.readouterr().err


def test_trials_approach_the_optimum_and_repeat(tmp_path, computed):
    results = []
    for name in ("a", "b"):
        sweep = Sweep("lambda", study(trials=16), config(), Store(tmp_path / name))
        assert sweep.work() == 16
        results.append(results_of(sweep))
    assert results[0].rows[0]["distill.lambda_kl"] == results[1].rows[0]["distill.lambda_kl"]
    assert results[0].best["distill.lambda_kl"] == pytest.approx(0.3, abs=0.1)
    assert results[0].importances == {"distill.lambda_kl": pytest.approx(1.0)}


def test_more_trials_continue_a_study(tmp_path, computed):
    assert [Sweep("x", study(trials=count), config(), Store(tmp_path)).work() for count in (2, 3, 3)] == [2, 1, 0]


def test_a_trial_is_judged_by_the_mean_of_its_seeds_with_the_fixed_settings(tmp_path, computed):
    fixed = study(trials=1, seeds=[100, 102], settings={"student.train_fraction": 0.5})
    sweep = Sweep("means", fixed, config(), Store(tmp_path))
    sweep.work()
    [trial] = sweep.trials.trials
    assert trial.value == pytest.approx((trial.params["distill.lambda_kl"] - 0.3) ** 2 + 1.01)
    assert {(settings.student.train_fraction, seed) for settings, seed in computed} == {(0.5, 100), (0.5, 102)}


def test_a_grid_has_every_combination_once(tmp_path, computed):
    grid = study(sampler="grid", search={"distill.recipe": [["kl"], ["kl", "off_path"]], "distill.lambda_kl": [0, 0.5]})
    sweep = Sweep("grid", grid, config(), Store(tmp_path))
    assert sweep.work() == 4
    assert {(settings.distill.recipe, settings.distill.lambda_kl) for settings, _ in computed} == {
        (recipe, weight) for recipe in (("kl",), ("kl", "off_path")) for weight in (0, 0.5)
    }
    assert yaml.safe_load(patch_of(results_of(sweep).best))["distill"]["recipe"] in (["kl"], ["kl", "off_path"])


def test_a_failed_trial_is_kept_and_the_others_run(tmp_path, computed):
    grid = study(sampler="grid", search={"distill.temperature": [1, 10, 2]})
    sweep = Sweep("grid", grid, config(), Store(tmp_path))
    assert sweep.work() == 3
    result = results_of(sweep)
    assert (len(result.rows), result.num_failed, result.is_finished) == (3, 1, True)
    assert result.rows[-1]["error"] == "diverged"


def test_workers_share_the_trials_of_a_study(tmp_path, computed):
    """Each trial is run once, by one of three workers, each with its own connection to the journal."""
    counts = []

    def work():
        counts.append(Sweep("x", study(trials=12), config(), Store(tmp_path)).work())

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sum(counts) == len(computed) == 12
    trials = Sweep("x", study(trials=12), config(), Store(tmp_path)).trials.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12


def test_the_trial_of_a_killed_process_is_taken_over(tmp_path, computed, monkeypatch):
    """Its settings are run again; a trial whose process still runs is left alone."""
    fixed, store = study(trials=2), Store(tmp_path)
    running, killed = Sweep("x", fixed, config(), store), Sweep("x", fixed, config(), store)
    _, held = running._next_trial()

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_with_inputs", kill)
        with pytest.raises(KeyboardInterrupt):
            killed.work()
    wanted = killed.trials.trials[1].params
    assert Sweep("x", fixed, config(), store).work() == 1
    trials = running.trials.trials
    assert [trial.state for trial in trials] == [TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE]
    assert trials[2].params == wanted
    held.release()


def test_changed_settings_are_another_study(tmp_path, computed):
    store = Store(tmp_path)
    folders = {
        Sweep("x", each, city, store).folder
        for each, city in (
            (study(), config()),
            (study(trials=9, description="more"), config()),
            (study(seeds=[7]), config()),
            (study(), config(**{"student.max_epochs": 3})),
        )
    }
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"distill.lambda": [1]}}, "distill.lambda is no setting. Did you mean `distill.lambda_kl`"),
        ({"settings": {"students.train_fraction": 1}}, "students.train_fraction is no setting"),
        ({"stage": "teacher"}, "stage teacher has no artifact per seed"),
        ({"metric": "val_nlll"}, "distilled_student has no number `val_nlll`. Did you mean `val_nll`"),
        ({"metric": "val_generation_score"}, "generate none. Add `student.select_num_ods: 200`"),
        ({"seeds": [100, 3]}, "seed 3 is one of the compared seeds, 0 to 4.* Use seeds from 100"),
        ({"stage": "vanilla_student"}, "distill.lambda_kl has no effect on vanilla_student.*read by distilled_student"),
        ({"settings": {"distill.recipe": ["sequence"]}}, "lambda_kl has no effect.*: `distill.recipe` has no kl"),
        (
            {"search": {"distill.off_path.jsd_beta": [0.2, 0.5]}, "settings": {"distill.recipe": ["off_path"]}},
            "jsd_beta has no effect.*`distill.off_path.divergence` is forward_kl, not jsd",
        ),
        (
            {"search": {"generation.max_steps": [100, 200]}},
            "generation.max_steps has no effect on distilled_student.*read by generated_trajectories",
        ),
        (
            {"search": {"distill.lambda_kl": [0.1, 1], "generation.prior.markov_weight": [0.1, 0.5]}},
            "generation.prior.markov_weight has no effect on distilled_student",
        ),
        ({"search": {"student.num_processes": [1, 2]}}, "student.num_processes has no effect.*No stage reads it"),
    ],
)
def test_studies_that_do_not_fit_are_refused(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        Sweep("x", study(**values), config(), Store(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {}}, "search"),
        ({"search": {"distill.lambda_kl": []}}, "has no values"),
        (
            {"search": {"distill.lambda_kl": {"low": 1, "high": 0}}},
            r"^StudyConfig: `search`: distill.lambda_kl: low \(1\) must be below high \(0\)\.$",
        ),
        (
            {"search": {"distill.lambda_kl": {"low": 0, "high": 1, "log": True}}},
            r"^StudyConfig: `search`: distill.lambda_kl: log needs a low above 0, not 0\.$",
        ),
        ({"search": {"distill.lambda_kl": {"low": 0, "hihg": 1}}}, r"^StudyConfig: `search`: .*Did you mean `high`"),
        ({"search": {"distill.lambda_kl": 0.3}}, r"distill.lambda_kl is 0.3: write a list of values, or a range"),
        ({"sampler": "grid"}, "sampler grid needs lists"),
        ({"settings": {"distill.lambda_kl": 1}}, "both settings and search"),
        ({"serch": 1}, "Did you mean `search`"),
    ],
)
def test_studies_that_cannot_work_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        study(**values)


def test_a_key_that_matters_in_one_combination_is_searched(tmp_path):
    search = {"distill.recipe": [["sequence"], ["kl"]], "distill.lambda_kl": [0.1, 1]}
    assert Sweep("x", study(search=search), config(), Store(tmp_path)).num_trials == 4


def test_the_known_metrics_are_those_of_a_student():
    assert {f"val_{name}" for name in student._SHOWN} <= set(STUDENT_METRICS)


def test_an_unknown_metric_fails_the_trial_with_the_known_ones(tmp_path, computed):
    sweep = Sweep("x", study(stage="trajectory_metrics", metric="val_nl", trials=1), config(), Store(tmp_path))
    sweep.work()
    assert "Known: val_nll." in results_of(sweep).rows[0]["error"]


def test_an_unknown_study_names_the_closest(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "lambda.yaml").write_text(STUDY)
    with pytest.raises(ConfigError, match="Did you mean `lambda`"):
        find_study("lamda", tmp_path)
    (tmp_path / "bad.yaml").write_text("search: {a: [1]}\ntrails: 3\n")
    with pytest.raises(ConfigError, match=r"bad.yaml, line 2: `trails` is not a known setting. Did you mean `trials`"):
        load_study(tmp_path / "bad.yaml")


def test_the_studies_of_the_project_fit_every_city():
    folder = Path(__file__).resolve().parents[2] / "config"
    files = sorted((folder / "studies").glob("*.yaml"))
    assert {file.stem for file in files} >= {"lambda", "temperature", "recipe"}
    for file in files:
        one = load_study(file)
        assert one.description
        check_sweep(file.stem, one, load_config(folder / "demo.yaml"))
        for key, values in one.search.items():
            for value in values if isinstance(values, tuple) else (values.low, values.high):
                with_changes(load_config(folder / "demo.yaml"), {**one.settings, key: value})


@settings(max_examples=20)
@given(
    st.dictionaries(st.sampled_from(["distill.lambda_kl", "distill.temperature", "student.dropout"]), st.floats(0, 1))
)
def test_a_patch_holds_the_settings(changes):
    tree = yaml.safe_load(patch_of(changes)) or {}
    assert {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()} == changes
