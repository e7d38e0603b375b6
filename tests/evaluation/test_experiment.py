"""The experiment of docs/results.md: rows, differences and verdicts from measurements, and the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
    row = rows.row_of({seed: measured(rows, seed, 1.0) for seed in range(3)}, city)
    nll = row["metrics"]["next_step.nll"]
    assert nll["seeds"][0] < nll["mean"] < nll["seeds"][1]
    assert nll["trips"][0] < nll["mean"] < nll["trips"][1]
    assert row["metrics"]["distance.jsd"]["trips"] is None
    assert rows.row_of({0: measured(rows, 0, 1.0)}, city)["metrics"]["next_step.nll"]["seeds"] is None


def test_differences_are_paired_by_seed_and_secondary_metrics_adjusted(rows, city):
    vanilla = {seed: measured(rows, seed, 1.0) for seed in range(3)}
    better = {seed: measured(rows, seed, 2.0, edr_shift=-0.2) for seed in (1, 2, 5)}
    difference = rows.difference_of(better, vanilla, city)
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


def test_a_baseline_stands_beside_every_seed(rows, city):
    runs = {seed: measured(rows, seed, 1.0, edr_shift=0.3) for seed in range(3)}
    baseline = rows.Measured({"paired.edr": 0.0}, {"paired.edr": np.zeros(len(TEST))}, {})
    difference = rows.difference_of(runs, {0: baseline}, city, baseline=True)
    assert difference["seeds"] == [0, 1, 2]
    assert list(difference["metrics"]) == ["paired.edr"]


def test_the_gap_is_measured_to_the_log_linear_pool(rows, city):
    vanilla = {seed: measured(rows, seed, 1.0) for seed in (0, 1)}
    members = {"teacher": splits(10, 2.0), "markov": splits(11, 1.0)}
    ceilings = rows.ceilings_of(vanilla, members, city)
    pooled = ceilings["nll_by_seed"]["student_teacher"]
    assert rows.gap_of(vanilla, vanilla, ceilings)["student_teacher"]["share"] == 0
    plain = [each.metrics["next_step.nll"] for each in vanilla.values()]
    runs = {seed: measured(rows, seed, 1.6) for seed in vanilla}
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
