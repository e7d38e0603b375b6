"""The experiment of docs/results.md: rows, differences and verdicts from measurements, and the page."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd.common.errors import ConfigError
from hoser_kd.evaluation.ceilings import Splits
from hoser_kd.evaluation.statistics import holm
from hoser_kd.student.pools import StepProbabilities, temperature_scaled_nll

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORK = grid_network(5)
VAL, TEST = random_trips(NETWORK, 60, 0), random_trips(NETWORK, 80, 1)


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_the_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def rows():
    import experiment_rows

    return experiment_rows


@pytest.mark.parametrize(("recipe", "share"), [("vanilla", 1.0), ("kll", 0.1)])
def test_a_row_that_is_not_stored_names_the_recipes_by_share(rows, tmp_path, recipe, share):
    file = tmp_path / "town.json"
    file.write_text(json.dumps({"shares": {"0.1": {"rows": {"vanilla": {"seeds": [0]}, "kl": {}}}}}))
    assert rows.stored_row(file, "vanilla", 0.1) == {"seeds": [0]}
    with pytest.raises(ConfigError, match=rf"no recipe {recipe} at share {share:g}. .* share: 0.1: vanilla, kl\."):
        rows.stored_row(file, recipe, share)


@pytest.fixture(scope="module")
def city(rows):
    return rows.City(NETWORK, VAL, TEST)


def splits(seed, informed):
    """Random scores whose true road is `informed` higher in half of the steps."""
    parts = []
    for split, trips in enumerate((VAL, TEST)):
        at, _ = trips.step_positions()
        offsets = np.concatenate([[0], np.cumsum(NETWORK.successors.degrees[trips.road_ids[at]])])
        rng = np.random.default_rng([seed, split])
        scores = rng.normal(0, 1, offsets[-1])
        taken = offsets[:-1] + NETWORK.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])
        scores[taken] += informed * (rng.random(len(at)) < 0.5)
        parts.append(StepProbabilities.of(scores, trips, NETWORK))
    return Splits(*parts)


def measured(rows, seed, informed, edr_shift=0.0):
    """A student with these probabilities, whose trips have an EDR shifted by this much."""
    val, test = splits(seed, informed)
    edr = np.random.default_rng([7, seed]).random(len(TEST)) + edr_shift
    scaled = temperature_scaled_nll(val, test)
    metrics = {f"next_step.{name}": value for name, value in test.metrics().items()}
    metrics |= {"next_step.nll_scaled": scaled.nll, "next_step.temperature": scaled.temperature}
    metrics |= {"paired.edr": float(edr.mean()), "distance.jsd": 0.1 + 0.01 * seed + 0.001 * informed * (seed + 1)}
    return rows.Measured(metrics, {"paired.edr": edr}, {"val": val.log_p, "test": test.log_p})


def runs_of(rows, city, informed, seeds, **options):
    """Runs of students with these seeds."""
    return {seed: rows.run_of(measured(rows, seed, informed, **options), city) for seed in seeds}


def test_values_of_trips_add_up_to_the_metrics(rows, city):
    student = measured(rows, 0, 1.0)
    values = rows.trip_values(student, city)
    for name in ("next_step.nll", "next_step.nll_scaled", "next_step.decision_accuracy", "paired.edr"):
        assert values[name].totals.sum() / values[name].counts.sum() == pytest.approx(student.metrics[name], abs=1e-12)


def test_measurements_are_stored_and_read(rows, tmp_path):
    student = measured(rows, 0, 1.0)
    student.save(tmp_path / "a.npz")
    again = rows.Measured.load(tmp_path / "a.npz")
    assert again.metrics == student.metrics
    assert np.array_equal(again.trips["paired.edr"], student.trips["paired.edr"])
    assert np.array_equal(again.log_p["test"], student.log_p["test"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_row_has_both_intervals_and_one_seed_has_none_over_seeds(rows, city):
    row = rows.row_of(runs_of(rows, city, 1.0, range(3)))
    nll = row["metrics"]["next_step.nll"]
    assert nll["seeds"][0] < nll["mean"] < nll["seeds"][1]
    assert nll["trips"][0] < nll["mean"] < nll["trips"][1]
    assert row["metrics"]["distance.jsd"]["trips"] is None
    assert rows.row_of(runs_of(rows, city, 1.0, [0]))["metrics"]["next_step.nll"]["seeds"] is None


def test_differences_are_paired_by_seed_and_secondary_metrics_adjusted(rows, city):
    vanilla = runs_of(rows, city, 1.0, range(3))
    better = runs_of(rows, city, 2.0, (1, 2, 5), edr_shift=-0.2)
    difference = rows.difference_of(better, vanilla)
    assert difference["seeds"] == [1, 2]
    of = difference["metrics"]
    assert of["paired.edr"]["mean"] == pytest.approx(-0.2)
    assert of["next_step.nll"]["trips"][1] < 0
    assert "p_holm" not in of["next_step.nll"]
    assert "p_holm" not in of["paired.edr"]
    secondary = [row for row in of.values() if "p_holm" in row]
    assert len(secondary) == 4
    assert [row["p_holm"] for row in secondary] == holm([row["p"] for row in secondary]).tolist()
    assert of["distance.jsd"]["p_over"] == "seeds"


def baseline_run(rows, city):
    return rows.run_of(rows.Measured({"paired.edr": 0.0}, {"paired.edr": np.zeros(len(TEST))}, {}), city)


def test_a_baseline_stands_beside_every_seed(rows, city):
    runs = runs_of(rows, city, 1.0, range(3), edr_shift=0.3)
    difference = rows.difference_of(runs, {0: baseline_run(rows, city)}, baseline=True)
    assert difference["seeds"] == [0, 1, 2]
    assert list(difference["metrics"]) == ["paired.edr"]


def test_the_gap_is_measured_to_the_log_linear_pool(rows, city):
    members = {"teacher": splits(10, 2.0), "markov": splits(11, 1.0)}
    ceilings = rows.ceilings_of({seed: measured(rows, seed, 1.0) for seed in (0, 1)}, members, city)
    vanilla = runs_of(rows, city, 1.0, (0, 1))
    pooled = ceilings["nll_by_seed"]["student_teacher"]
    assert rows.gap_of(vanilla, vanilla, ceilings)["student_teacher"]["share"] == 0
    plain = [each.metrics["next_step.nll"] for each in vanilla.values()]
    runs = runs_of(rows, city, 1.6, vanilla)
    gain = np.subtract(plain, [each.metrics["next_step.nll"] for each in runs.values()]).mean()
    share = rows.gap_of(runs, vanilla, ceilings)["student_teacher"]["share"]
    assert share == pytest.approx(gain / np.subtract(plain, list(pooled.values())).mean())
    assert {(row["name"], row["kind"]) for row in ceilings["rows"]} >= {("student_student", "log_linear")}


@pytest.mark.parametrize(
    ("metric", "mean", "seeds", "trips", "expected"),
    [
        ("next_step.nll", -0.1, [-0.2, -0.05], [-0.2, -0.05], "better"),
        ("next_step.nll", 0.1, [0.05, 0.2], [0.05, 0.2], "worse"),
        ("next_step.nll", -0.1, [-0.3, 0.1], [-0.2, -0.05], "not clear"),
        ("next_step.nll", -0.1, [-0.2, -0.05], [-0.3, 0.1], "not clear"),
        ("next_step.nll", -0.1, None, [-0.2, -0.05], "better, one seed"),
        ("next_step.nll", -0.1, None, None, "not clear"),
        ("requests.reached_share", 0.1, [0.05, 0.2], [0.05, 0.2], "better"),
    ],
)
def test_a_verdict_needs_every_interval(metric, mean, seeds, trips, expected):
    from results_page import verdict

    assert verdict(metric, {"mean": mean, "seeds": seeds, "trips": trips}) == expected


def test_an_adjusted_p_value_above_the_level_is_no_verdict():
    from results_page import verdict

    row = {"mean": -0.1, "seeds": [-0.2, -0.05], "trips": [-0.2, -0.05], "p": 0.01}
    assert verdict("paired.dtw", {**row, "p_holm": 0.04}) == "better"
    assert verdict("paired.dtw", {**row, "p_holm": 0.06}) == "not clear"


def test_the_stored_page_is_the_page_of_the_stored_results():
    from results_page import DOCS, RESULTS, page, plot_name, stored_cities

    texts = ((RESULTS / f"{name}.md").read_text(encoding="utf-8").strip() for name in ("reading", "method"))
    cities = stored_cities()
    assert cities
    assert (DOCS / "results.md").read_text() == page(cities, *texts), "run: python benchmarks/results_page.py"
    for results in cities:
        assert (DOCS / "figures" / plot_name(results)).is_file()


def test_the_figure_names_every_model_at_the_axis():
    from results_page import stored_cities
    from results_plot import primary_plot

    for results in stored_cities():
        figure = primary_plot(results)
        shares = sorted(results["shares"], key=float, reverse=True)
        assert len(figure.axes) == 2 * len(shares)
        assert all(axes.get_legend() is None for axes in figure.axes)
        for share, axes in zip(shares, figure.axes[1::2], strict=True):
            named = {label.get_text() for label in axes.get_yticklabels()}
            assert {*results["shares"][share]["rows"], "Shortest path"} <= named
            assert f"{float(share):.0%} of the trips" in axes.get_title(loc="left")


def test_negative_findings_come_first():
    from results_page import GROUPS, page, stored_cities

    text = page(stored_cities(), "reading", "method")
    places = [text.find(f"\n{title}:\n") for title in GROUPS]
    shown = [place for place in places if place >= 0]
    assert shown
    assert shown == sorted(shown)
    assert shown[-1] < text.index("## demo")


def test_recipes_have_equally_many_tries_and_valid_settings():
    import yaml

    from hoser_kd.config.loading import load_config, with_changes

    settings = yaml.safe_load((BENCHMARKS / "experiment.yaml").read_text(encoding="utf-8"))
    for city in ("demo", "porto"):
        own = settings[city]
        base = with_changes(load_config(BENCHMARKS.parent / own["config"]), own["settings"])
        for share in own["tries"]["vanilla"]:
            counts = {name: len(tries.get(share, tries.get("any", []))) for name, tries in own["tries"].items()}
            assert len({count for count in counts.values() if count}) == 1, (city, share, counts)
        for tries in own["tries"].values():
            for changes in (each for of_share in tries.values() for each in of_share):
                with_changes(base, {key: value for key, value in changes.items() if key != "seed"})


def test_tries_that_are_stored_are_read_by_recipe_and_share(rows, tmp_path):
    file = tmp_path / "town.json"
    assert rows.stored_tries(file, "vanilla", 1.0) == []
    tries = [{"seed": 100, "settings": {"student.min_steps": 30}, "val_nll": 0.5}]
    file.write_text(json.dumps({"shares": {"0.3": {"tried": {"vanilla": tries}}}}))
    assert rows.stored_tries(file, "vanilla", 0.3) == tries
    assert rows.stored_tries(file, "kl", 0.3) == rows.stored_tries(file, "vanilla", 1.0) == []


# The table of runs, and rows that are merged with stored ones.


@pytest.fixture(scope="module")
def tables():
    import experiment_runs

    return experiment_runs


@pytest.fixture(scope="module")
def results():
    import experiment_results

    return experiment_results


def test_runs_are_committed_and_read(rows, tables, city, tmp_path):
    written = tables.RecipeRuns({"student.min_steps": 30}, runs_of(rows, city, 1.0, (0, 12)))
    files = tables.RunFiles(tmp_path)
    files.write("0.1", {"kl": written})
    files.write(tables.BASELINES, {"markov": tables.RecipeRuns({}, {0: baseline_run(rows, city)})})
    assert files.shares() == ["0.1"]
    read = files.read("0.1")["kl"]
    assert read.settings == written.settings
    assert list(read.runs) == [0, 12]
    for seed, run in written.runs.items():
        assert read.runs[seed].metrics == run.metrics
        assert list(read.runs[seed].trips) == list(run.trips)
        for name, values in run.trips.items():
            assert np.array_equal(read.runs[seed].trips[name], values), name


def test_a_row_of_committed_runs_equals_that_of_the_store(rows, tables, city, tmp_path):
    vanilla, runs = runs_of(rows, city, 1.0, range(3)), runs_of(rows, city, 1.5, range(3))
    for name, each in {"vanilla": vanilla, "kl": runs}.items():
        tables.RecipeRuns({}, each).save(tmp_path / f"{name}.parquet")
    again = [tables.RecipeRuns.load(tmp_path / f"{name}.parquet").runs for name in ("vanilla", "kl")]
    assert rows.row_of(again[1]) == rows.row_of(runs)
    assert rows.difference_of(again[1], again[0]) == rows.difference_of(runs, vanilla)


def test_rounding_changes_intervals_by_less_than_1e_6(rows, city):
    from hoser_kd.evaluation.statistics import bootstrap_over_trips

    student = measured(rows, 0, 1.0)
    exact, row = rows.trip_values(student, city), rows.row_of({0: rows.run_of(student, city)})["metrics"]
    for name, values in exact.items():
        interval = bootstrap_over_trips(*values)
        assert row[name]["trips"] == pytest.approx([interval.low, interval.high], abs=1e-6, rel=0), name
    assert np.array_equal(rows.run_of(student, city).trips["paired.edr"], exact["paired.edr"])


def test_an_interval_follows_from_the_columns_of_the_table(rows, tables, city, tmp_path):
    import pandas as pd

    from hoser_kd.evaluation.statistics import bootstrap_over_trips

    runs = runs_of(rows, city, 1.0, range(3))
    tables.RecipeRuns({}, runs).save(tmp_path / "kl.parquet")
    means = pd.read_parquet(tmp_path / "kl.parquet").groupby("trip").mean()
    interval = bootstrap_over_trips(means["next_step.nll:totals"], means["next_step.nll:counts"])
    expected = rows.row_of(runs)["metrics"]["next_step.nll"]
    assert [interval.low, interval.high] == pytest.approx(expected["trips"], abs=1e-6, rel=0)


def test_a_run_has_values_of_all_trips_where_the_last_ones_have_no_step(rows, city):
    trips = TEST.take(np.arange(len(TEST)))
    short = trips.road_ids[trips.offsets[-2]]
    ends = type(trips)(
        ids=trips.ids,
        offsets=np.concatenate([trips.offsets[:-1], [trips.offsets[-2] + 1]]),
        road_ids=np.concatenate([trips.road_ids[: trips.offsets[-2]], [short]]),
        times=trips.times[: trips.offsets[-2] + 1],
    )
    student = measured(rows, 0, 1.0)
    kept = NETWORK.successors.degrees[ends.road_ids[ends.step_positions()[0]]].sum()
    student.log_p["test"] = student.log_p["test"][:kept]
    values = rows.run_of(student, city._replace(test=ends)).trips
    assert {len(each.totals) for each in values.values()} == {len(TEST)}
    assert values["next_step.nll"].counts[-1] == values["next_step.decision_accuracy"].counts[-1] == 0


def test_a_process_killed_while_writing_runs_leaves_the_old_ones(rows, tables, city, tmp_path):
    file = tmp_path / "kl.parquet"
    tables.RecipeRuns({"a": 1}, runs_of(rows, city, 1.0, [0])).save(file)
    old = file.read_bytes()
    code = f"""
import os, pathlib, signal
from experiment_runs import RecipeRuns
file = pathlib.Path({str(file)!r})
runs = RecipeRuns.load(file).runs
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
RecipeRuns({{"a": 2}}, runs).save(file)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert file.read_bytes() == old


def test_results_that_cannot_be_written_leave_the_old_ones(results, tmp_path, monkeypatch):
    file = tmp_path / "town.json"
    results.write_file(file, {"shares": {}})

    def full(_handle):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        results.write_file(file, {"shares": {"1": {}}})
    assert file.read_text(encoding="utf-8") == '{\n "shares": {}\n}\n'


def test_runs_that_are_equal_are_not_written_again(rows, tables, city, tmp_path):
    each = tables.RecipeRuns({"a": 1}, runs_of(rows, city, 1.0, (0, 1)))
    file = tmp_path / "kl.parquet"
    each.save(file)
    before = file.stat().st_ino
    tables.RecipeRuns.load(file).save(file)
    assert file.stat().st_ino == before
    tables.RecipeRuns({"a": 2}, each.runs).save(file)
    assert tables.RecipeRuns.load(file).settings == {"a": 2}


def test_newer_runs_replace_those_of_the_same_seed_and_all_of_other_settings(rows, tables, city):
    old, new = runs_of(rows, city, 1.0, (0, 1)), runs_of(rows, city, 2.0, (1, 2))
    committed = {"kl": tables.RecipeRuns({"a": 1}, old), "pooled": tables.RecipeRuns({}, old)}
    merged = tables.merge_runs(committed, {"kl": tables.RecipeRuns({"a": 1}, new), "off_path": committed["pooled"]})
    assert list(merged) == ["kl", "pooled", "off_path"]
    assert list(merged["kl"].runs) == [0, 1, 2]
    assert merged["kl"].runs[0] is old[0]
    assert merged["kl"].runs[1] is new[1]
    assert merged["pooled"] is committed["pooled"]
    changed = tables.merge_runs(committed, {"kl": tables.RecipeRuns({"a": 2}, new)})["kl"]
    assert changed == tables.RecipeRuns({"a": 2}, new)


def test_the_store_gives_its_runs_and_tries_by_recipe(rows, city, tmp_path):
    from experiment_manifest import Manifest, Recipe

    tried = [{"settings": {"student.min_steps": 30}, "val_nll": 0.5}]
    for seed in (0, 2, 10):
        file = tmp_path / f"{seed}.npz"
        measured(rows, seed, 1.0).save(file)
        Manifest(tmp_path).add(0.1, Recipe("off_path", "s", {"a": 1}, "vanilla"), tried, {seed: file})
    manifest = Manifest(tmp_path)
    runs = manifest.runs("0.1", city)["off_path"]
    assert runs.settings == {"student.min_steps": 30, "a": 1}
    assert rows.row_of(runs.runs) == rows.row_of(runs_of(rows, city, 1.0, (0, 2, 10)))
    assert manifest.tried("0.1") == {"vanilla": tried}
    assert manifest.students("0.1", "vanilla") == manifest.runs("1", city) == manifest.tried("1") == {}


@pytest.fixture(scope="module")
def share(rows, tables, results, city):
    """Makes the measurements of a share with these seeds of vanilla and kl, and ceilings of vanilla's."""

    def measured_share(vanilla=(), kl=(), *, settings=1, ceilings=True, informed=1.0):
        recipes = {"vanilla": (vanilla, informed), "kl": (kl, 1.5)}
        runs = {
            name: tables.RecipeRuns({"a": settings}, runs_of(rows, city, value, seeds))
            for name, (seeds, value) in recipes.items()
            if seeds
        }
        pooled = {"nll_by_seed": {"student_teacher": {str(seed): 0.1 * seed - 1 for seed in vanilla}}}
        fitted = {"seeds": list(vanilla), **pooled} if ceilings and vanilla else None
        own = runs_of(rows, city, 1.0, sorted({*vanilla, *kl}))
        return results.ShareRuns("0.1", runs, own, {"vanilla": [{"val_nll": settings}]} if vanilla else {}, fitted)

    return measured_share


def merged(results, rows, city, stored, new, date="2026-02-02"):
    """The results of a share as they are read from the file."""
    return json.loads(json.dumps(results.share_results(stored, new, {"markov": baseline_run(rows, city)}, date)))


@pytest.fixture(scope="module")
def stored(share, results, rows, city):
    """Results with three seeds of vanilla and kl, whose runs are lost."""
    return merged(results, rows, city, {}, share((0, 1, 2), (0, 1, 2)), "2026-01-01")


def test_rows_of_all_runs_are_dated_and_compared(stored):
    row = stored["rows"]["kl"]
    assert row["date"] == "2026-01-01"
    assert list(row["minus_baselines"]) == ["markov", "own_markov"]
    assert row["minus_vanilla"]["seeds"] == [0, 1, 2]
    assert len(row["gap_closed"]["student_teacher"]["by_seed"]) == 3
    assert "minus_vanilla" not in stored["rows"]["vanilla"]


def test_without_runs_everything_is_kept(share, results, rows, city, stored):
    assert merged(results, rows, city, stored, share()) == stored


def test_equal_rows_keep_their_date(share, results, rows, city, stored):
    again = merged(results, rows, city, stored, share((0, 1, 2), (0, 1, 2)))
    assert again == stored


def test_rows_of_fewer_seeds_are_kept_and_others_added(share, results, rows, tables, city, stored):
    new = share((0, 1), (3, 4))
    new = new._replace(recipes={**new.recipes, "pooled": tables.RecipeRuns({}, runs_of(rows, city, 2.0, (0, 1)))})
    result = merged(results, rows, city, stored, new)
    assert {name: row["seeds"] for name, row in result["rows"].items()} == {
        "vanilla": [0, 1, 2],
        "kl": [0, 1, 2],
        "pooled": [0, 1],
    }
    assert [result["rows"][name] for name in ("vanilla", "kl")] == [stored["rows"][name] for name in ("vanilla", "kl")]
    assert result["rows"]["pooled"]["minus_vanilla"]["seeds"] == [0, 1]
    assert result["own_markov"]["seeds"] == [0, 1, 3, 4]


def test_rows_of_as_many_seeds_replace_stored_ones_and_kept_ones_stay_compared(share, results, rows, city, stored):
    result = merged(results, rows, city, stored, share((3, 4, 5), (0, 1)))
    assert result["rows"]["vanilla"]["seeds"] == [3, 4, 5]
    assert result["rows"]["vanilla"]["date"] == "2026-02-02"
    assert result["rows"]["kl"] == stored["rows"]["kl"]


def test_a_row_is_kept_while_fewer_of_its_seeds_have_a_vanilla_student(share, results, rows, city, stored):
    assert merged(results, rows, city, stored, share((0, 1), (0, 1, 2)))["rows"]["kl"] == stored["rows"]["kl"]
    replaced = merged(results, rows, city, stored, share((0, 1, 2), (0, 1, 2, 3)))["rows"]["kl"]
    assert replaced["seeds"] == [0, 1, 2, 3]
    assert replaced["minus_vanilla"]["seeds"] == [0, 1, 2]


def test_a_row_of_other_settings_is_replaced_and_vanillas_ceilings_dropped(share, results, rows, city, stored):
    result = merged(results, rows, city, stored, share((0,), (), settings=2))
    assert result["rows"]["vanilla"]["seeds"] == [0]
    assert result["rows"]["vanilla"]["settings"] == {"a": 2}
    assert result["ceilings"]["seeds"] == [0]
    assert list(result["ceilings"]["nll_by_seed"]["student_teacher"]) == ["0"]
    assert result["tried"] == {"vanilla": [{"val_nll": 2}]}
    assert result["rows"]["kl"] == stored["rows"]["kl"]


def test_ceilings_are_those_of_more_seeds_with_the_pools_of_all(share, results, rows, city, stored):
    fewer = merged(results, rows, city, stored, share((2, 3), (2, 3)))["ceilings"]
    assert fewer["seeds"] == [0, 1, 2]
    assert list(fewer["nll_by_seed"]["student_teacher"]) == ["0", "1", "2", "3"]
    assert merged(results, rows, city, stored, share((3, 4, 5)))["ceilings"]["seeds"] == [3, 4, 5]
    new = {"seeds": [2], "nll_by_seed": {"student_teacher": {"2": -7.0}}}
    kept = merged(results, rows, city, stored, share()._replace(ceilings=new))["ceilings"]
    assert kept["nll_by_seed"]["student_teacher"] == {"0": -1.0, "1": -0.9, "2": -7.0}


def test_own_chains_and_tries_are_kept_where_the_store_has_fewer(share, results, rows, city, stored):
    result = merged(results, rows, city, {**stored, "tried": {"kl": [1]}}, share((0, 1), (0,)))
    assert result["own_markov"] == stored["own_markov"]
    assert result["tried"] == {"kl": [1], "vanilla": [{"val_nll": 1}]}


def test_a_share_without_vanilla_is_an_error(share, results, rows, city):
    with pytest.raises(ConfigError, match=r"share 0\.1: no vanilla student .* --recipes"):
        merged(results, rows, city, {}, share((), (0,)))


def test_a_second_store_adds_a_seed_to_the_results_of_the_first(rows, city, tmp_path, monkeypatch):
    import experiment
    from experiment_manifest import Manifest, Recipe

    class Town(experiment.Experiment):
        """Measurements without stages."""

        def __init__(self, store):
            self.city, self.folder, self.network, self.steps, self.base = "town", tmp_path / store, NETWORK, city, None
            self.own = {"settings": {"student.hidden_dim": 8}, "search_seed": 100}
            self.trips = {"train": random_trips(NETWORK, 60, 2), "val": VAL, "test": TEST}
            self.pool_members = {"teacher": splits(10, 2.0), "markov": splits(11, 1.0)}
            self.folder.mkdir()

        def make(self, stage, config, seed=0):
            return SimpleNamespace(version="1")

        def baselines(self):
            return {"markov": baseline_run(rows, city)}, {"markov_1": {"nll": 1.0}}

        def own_markov(self, share, seed):
            return runs_of(rows, city, 1.0, [seed])[seed]

        def add(self, share, name, seeds, informed):
            for seed in seeds:
                file = self.folder / f"{share}-{name}-{seed}.npz"
                measured(rows, seed, informed).save(file)
                recipe, tried = Recipe(name, "s", {}, name), [{"settings": {"a": 1}}]
                Manifest(self.folder).add(share, recipe, tried, {seed: file})

    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "results")
    first, second = Town("first"), Town("second")
    for share, seeds in ((0.1, (0, 1)), (0.3, (0,))):
        first.add(share, "vanilla", seeds, 1.0)
        first.add(share, "kl", seeds, 1.5)
    experiment.write_results(first)
    file = tmp_path / "results" / "town.json"
    before = json.loads(file.read_text())
    second.add(0.1, "vanilla", (2,), 1.0)
    second.add(0.1, "kl", (2,), 1.5)
    experiment.write_results(second)
    after = json.loads(file.read_text())
    assert after["shares"]["0.3"] == before["shares"]["0.3"]
    part = after["shares"]["0.1"]
    assert part["rows"]["kl"]["seeds"] == part["rows"]["kl"]["minus_vanilla"]["seeds"] == [0, 1, 2]
    assert len(part["rows"]["kl"]["gap_closed"]["student_teacher"]["by_seed"]) == 3
    assert part["own_markov"]["seeds"] == [0, 1, 2]
    assert part["ceilings"]["seeds"] == before["shares"]["0.1"]["ceilings"]["seeds"] == [0, 1]
    written = {path.relative_to(tmp_path / "results/runs/town").as_posix() for path in tmp_path.rglob("*.parquet")}
    shares = {f"{share}/{name}.parquet" for share in ("0.1", "0.3") for name in ("vanilla", "kl")}
    assert written == shares | {"baselines/markov.parquet", "own_markov/0.1.parquet", "own_markov/0.3.parquet"}


@pytest.mark.parametrize("key", ["trips", "test_steps", "base_settings"])
def test_stored_results_of_other_trips_or_settings_are_not_merged(results, tmp_path, key):
    file, about = tmp_path / "town.json", {"trips": {"test": 3}, "test_steps": 30, "base_settings": {"a": 1}}
    assert results.stored_results(file, about) == {"shares": {}}
    results.write_file(file, {**about, "shares": {"1": {}}})
    assert results.stored_results(file, about)["shares"] == {"1": {}}
    with pytest.raises(ConfigError, match=rf"have {key} .* Delete the file and runs/town"):
        results.stored_results(file, {**about, key: {"test": 4}})


def test_the_stored_results_belong_to_the_settings_of_the_experiment():
    import yaml
    from results_page import stored_cities

    settings = yaml.safe_load((BENCHMARKS / "experiment.yaml").read_text(encoding="utf-8"))
    for results in stored_cities():
        assert results["base_settings"] == settings[results["city"]]["settings"]
