"""The report: the page is complete, loads nothing, escapes everything and agrees with the numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from small_city import grid_network, random_trips

from hoser_kd import plots
from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.comparison import compare, headline_rows
from hoser_kd.evaluation.evidence import difference_over_trips, gather_evidence
from hoser_kd.evaluation.failures import Failure
from hoser_kd.evaluation.metric_registry import METRICS, Metric, register
from hoser_kd.evaluation.metrics import evaluate, flatten
from hoser_kd.evaluation.sampling_floor import Floor
from hoser_kd.evaluation.statistics import holm, paired_t_test
from hoser_kd.evaluation.trip_values import TripValues, request_values
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.report import Baselines, ReportData, StudentResult, render, write_report
from hoser_kd.report.baselines import baseline_sentences
from hoser_kd.report.data import CeilingResults, FileLink, Latency
from hoser_kd.report.figures import difference_figures
from hoser_kd.report.judgment import judge, judged_rows, repeated_metrics
from hoser_kd.report.labels import describe_values
from hoser_kd.report.page import SCENARIO_METRICS, _untested, _without_empty_columns, verdict
from hoser_kd.report.primary_metrics import ceiling_note
from hoser_kd.report.table import Beside, Group, Line, format_row, short_label, table_of
from hoser_kd.report.text import secondary_sentences

NETWORK = grid_network()
REAL = random_trips(NETWORK, 20, seed=0, lengths=(4, 16))
TRAINING = random_trips(NETWORK, 30, seed=9)
SEEDS = tuple(
    {
        seed: {"paired.edr": edr + seed / 100, "paired.jaccard": jaccard + seed / 100, "paired.own": 1.0}
        for seed in range(3)
    }
    for edr, jaccard in ((0.5, 0.5), (0.4, 0.3))
)
"""Metrics by seed of two students; the second is better in one, worse in one, and one has no direction."""
VOID = {"meta", "img", "br", "link", "hr", "input"}


def text_of(data: ReportData) -> Page:
    return Page(render(data, with_figures=False))


def answers(seed: int) -> Trajectories:
    """Return trips with the real origins: each real trip truncated at random."""
    rng = np.random.default_rng(seed)
    keep = rng.integers(2, REAL.lengths + 1)
    at = np.concatenate([np.arange(start, start + count) for start, count in zip(REAL.offsets[:-1], keep, strict=True)])
    return Trajectories(np.concatenate([[0], np.cumsum(keep)]), REAL.road_ids[at], REAL.times[at] + 1)


def student(seed: int, accuracy: float, nll: float = 0.4) -> StudentResult:
    generated = answers(seed)
    history = [{"epoch": e + 1, "train_next_step": 1 / (e + 1), "nll": 1.1 / (e + 1)} for e in range(3)]
    reached = generated.destinations == REAL.destinations
    whole = evaluate(REAL, generated, NETWORK, paired=True, training=TRAINING)
    hours = {f"{hour:02d}": {"steps": 10.0, "decision_accuracy": accuracy} for hour in range(3)}
    return StudentResult(
        history,
        {"accuracy": accuracy, "nll": nll},
        whole,
        generated,
        reached,
        failures=[Failure(int(row), "no path", 1.5) for row in np.flatnonzero(~reached)],
        scenarios={"weekday": whole},
        next_step_by={"hour": hours, "scenario": {"weekday": {"steps": 9.0, "decision_accuracy": accuracy - 0.5}}},
    )


@pytest.fixture(scope="module")
def data() -> ReportData:
    return ReportData(
        city="porto",
        network=NETWORK,
        real=REAL,
        students={
            "vanilla": {seed: student(seed, 0.80 + 0.001 * seed, 0.40) for seed in range(3)},
            "distilled": {seed: student(seed + 10, 0.85 + 0.001 * seed, 0.45) for seed in range(3)},
        },
        teacher={
            "history": [{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 1.0}],
            "teacher_evaluation": {"test_perplexity": 3.25, "by_hour": {"noon": 2.5}},
            "teacher_soft_labels": {"sample_candidate_top_is_true": 0.75, "splits": [{"split": "val"}]},
            "label_values": {"entropy (nat)": np.linspace(0, 1, 40)},
        },
        settings_yaml="city: porto\nstudent:\n  hidden_dim: 128\n",
        versions=[{"asset": "teacher", "version": "abc123", "created_at": "2025-01-01", "inputs": "teacher_corpus 9f"}],
        seconds={"teacher": 65.0, "vanilla_student": 10.0},
        sizes={"training_trips": 30},
        figures={"Roads that share a cell.": plots.png(plots.network_map(NETWORK), dpi=40)},
    )


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data, map_file="map.html")


class Page(HTMLParser):
    """Tags with attributes, text, table rows, and the tags that are open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"} and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.text.append(text)
        if "tr" in self.open and self.rows and self.rows[-1]:
            self.rows[-1][-1] = (self.rows[-1][-1] + " " + text.strip()).strip()

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def row(self, label: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(label) and len(row) > 3)


class TestPage:
    def test_parses_with_every_tag_closed(self, page):
        parsed = Page(page)
        assert parsed.open == []
        assert page.startswith("<!DOCTYPE html>")

    def test_loads_nothing(self, page):
        assert "<script" not in page
        assert "@import" not in page
        assert "url(" not in page
        for tag, attributes in Page(page).tags:
            assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
            for name, value in attributes.items():
                assert not name.startswith("on")
                if name in {"src", "srcset", "href", "action", "data"}:
                    assert value.startswith("data:image/png;base64,") or (tag, name) == ("a", "href"), value[:60]
                if (tag, name) == ("a", "href"):
                    assert not re.match(r"\w+:|//", value), value
        assert "default-src 'none'" in page

    def test_the_sections_are_folded_below_the_first_screen(self, page):
        before, _, after = page.partition("<details")
        assert before.count("<img") == 2  # requests and primary metrics
        assert "<table" not in before
        assert all("</details>" in part for part in after.split("<details")[:-1])
        assert " open" not in "".join(re.findall(r"<details[^>]*>", page))

    def test_has_every_part(self, page):
        parsed = Page(page)
        headings = [
            "Primary metrics",
            "What the differences mean",
            "Next-step prediction",
            "Generated trips",
            "Real and generated trips",
            "Arrival and route",
            "Training and run time",
            "Teacher",
            "Data and files",
            "Settings",
            "Versions",
            "Definitions",
        ]
        assert all(heading in parsed.words for heading in headings)
        images = [attributes for tag, attributes in parsed.tags if tag == "img"]
        # primary metrics, requests, by group, differences, 3 of trips, curves, 2 of the teacher, network, one handed in
        assert len(images) == 12
        assert all(image["alt"] for image in images)
        assert "Scenarios" in parsed.words
        assert "30.10" in parsed.words.partition("The same metrics for parts of the test trips")[2]
        assert "trips that start from Monday to Friday: 20" in parsed.words
        assert parsed.row("no path")[1:3] != ["0.00", "0.00"]
        assert parsed.row("step limit")[1:3] == ["0.00", "0.00"]
        for text in ("hidden_dim: 128", "abc123", "1 min 5 s", "training trips", "test perplexity", "by hour: noon"):
            assert text in parsed.words

    def test_both_themes_and_print(self, page):
        assert "prefers-color-scheme: dark" in page
        assert "@media print" in page
        assert 'content="width=device-width' in page

    def test_every_metric_shown_is_defined(self, page, data):
        words = Page(page).words
        rows = compare({0: {"next_step.accuracy": 1.0}}, {})
        assert rows[0].metric.text in words
        for name in ("similarity.dtw", "distance.generated_mean", "paired.jaccard", "training.memorized_share"):
            assert METRICS[name].text in words

    def test_the_same_data_give_the_same_file(self, page, data, tmp_path):
        write_report(tmp_path / "report.html", data)
        written = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert 'href="map.html"' in written
        assert written == page
        assert (tmp_path / "map.html").is_file()

    def test_foreign_text_is_escaped(self, data):
        evil = "<script>alert('x')</script>&\"'"
        hostile = replace(
            data,
            city=evil,
            settings_yaml=evil,
            teacher={evil: {evil: evil}},
            sizes={evil: evil},
            versions=[dict.fromkeys(("asset", "version", "created_at", "inputs"), evil)],
            seconds={evil: 1.0},
            figures={evil: data.figures["Roads that share a cell."]},
        )
        page = render(hostile)
        assert "<script" not in page
        parsed = Page(page)
        assert parsed.open == []
        assert parsed.words.count("<script>alert('x')</script>&\"'") >= 8


class TestVerdict:
    def test_primary_metrics_come_first_and_say_who_is_better(self, page):
        words = Page(page).words
        assert "Next road: vanilla is better. Trips: " in words
        assert "the distilled student has a test NLL of 0.4500 nat, the vanilla one 0.4000 nat" in words
        assert "0.0500 nat higher (95 % interval +0.0500 to +0.0500 over 3 seeds)" in words
        assert "Primary metrics, chosen before the results" in words

    def test_secondary_metrics_are_named_if_clear_after_correction(self, page):
        words = Page(page).words
        better = words.split("The distilled student is clearly better:")[1].split(".")[0]
        assert "accuracy (next step)" in better
        assert "negative log-likelihood" not in better  # a primary metric is not counted again
        assert "none of these is a clear difference" in words

    def test_baselines_and_ceiling_are_part_of_the_verdict(self, data):
        shared = {"next_step.nll": 0.42, "paired.edr": 0.01}
        both = Baselines(trips={"Chain": shared}, next_step={"Count": shared})
        pool = {"name": "student_teacher", "kind": "log_linear", "nll": 0.3, "nll_trips": [0.2, 0.4], "nll_seeds": None}
        pool |= {"accuracy": 0.9, "decision_accuracy": 0.8, "calibration_error": 0.1}
        shown = {"label": "pool", "weights": {}, "nll_minus_student": -0.1, "num_fits": 3}
        gap = {"student_teacher": {"share": 0.25}}
        ceilings = CeilingResults([pool | shown], gap)
        parsed = text_of(replace(data, baselines=both, ceilings=ceilings))
        assert (
            "the best baseline (Count, 0.4200 nat) has a higher mean than the vanilla student and has a lower mean "
            "than the distilled student (only the means are known)."
        ) in parsed.words
        assert "the best baseline (Chain, 0.0100) has a lower mean than both students (only the" in parsed.words
        assert "behind the baseline Chain in the mean" in parsed.words
        assert "In the mean, the distilled student closes 25 % of the gap in NLL" in parsed.words
        assert "0.3000 nat (no interval over seeds)." in parsed.words
        row = parsed.row("negative log-likelihood")
        assert row[2] == "0.3000"  # the ceiling beside the students

    @pytest.mark.parametrize(("ends", "shown"), [((-1.76, 1.99), ", which includes 0"), ((0.69, 1.14), "")])
    def test_a_share_of_the_gap_has_its_interval(self, data, ends, shown):
        pool = {"name": "student_teacher", "kind": "log_linear", "nll": 0.3}
        gap = {"student_teacher": {"share": 0.25, "seeds": ends}}
        note = ceiling_note(replace(data, ceilings=CeilingResults([pool], gap))).replace("\N{NO-BREAK SPACE}", " ")
        low, high = (f"{100 * end:.0f}".replace("-", "−") for end in ends)
        assert note.endswith(f"0.3000 nat (95 % interval of the share {low} to {high} % over seeds{shown}).")

    def test_a_filled_difference_has_the_verdict_of_its_row(self):
        """Clear over the seeds is not enough."""
        seeds = [{s: {"paired.dtw": mean + s / 100} for s in range(3)} for mean in (2.0, 1.0)]
        rng = np.random.default_rng(0)
        values = [{"paired.dtw": TripValues(rng.random(60), np.ones(60))} for _ in range(2)]
        noise = {"vanilla": values[0], "distilled": values[1]}
        for trips, face in (({}, plots.COLORS["distilled"]), (noise, "white")):
            [(figure, _)] = difference_figures(judge(compare(*seeds), trips))
            [mark] = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
            assert mark.get_markerfacecolor() == face

    def test_tables_give_means_differences_and_intervals(self, page):
        row = Page(page).row("negative log-likelihood")
        expected = ["nat", "0.4000 ± 0.0000", "0.4500 ± 0.0000", "+0.0500", "+0.0500 to +0.0500", "< 0.001*", "worse"]
        assert row[1:] == expected
        assert "Negative log-likelihood of the true next road, mean over steps." in row[0]

    def test_one_seed_has_no_interval_and_a_caveat(self, data):
        one = replace(data, students={kind: {0: runs[0]} for kind, runs in data.students.items()})
        words = text_of(one).words
        assert words.count("There is one seed, so no interval over seeds") == 1
        assert "Clearly" not in words.replace("“Clearly”", "")
        assert "Next road: no clear difference (one seed). Trips: " in words
        row = text_of(one).row("accuracy")
        assert row[2:] == ["80.00", "85.00", "+5.00", "leans better"]

    def test_students_that_did_not_reach_their_optimum_are_named(self, data):
        assert "optimum" not in text_of(data).words
        warned = replace(data.students["vanilla"][0], training_warnings=[{"kind": "last_epoch_is_best"}])
        students = {**data.students, "vanilla": {**data.students["vanilla"], 0: warned}}
        assert "the last epoch is the best (vanilla 0)" in text_of(replace(data, students=students)).words

    def test_without_distillation(self, data):
        plain = replace(data, students={"vanilla": data.students["vanilla"]}, teacher={})
        parsed = text_of(plain)
        assert "Distillation is disabled" in parsed.words
        assert "No teacher was used." in parsed.words
        assert "distilled is" not in parsed.words
        assert parsed.open == []

    def test_before_anything_was_generated(self, data):
        bare = {
            kind: {seed: StudentResult(run.history, run.test) for seed, run in runs.items()}
            for kind, runs in data.students.items()
        }
        words = text_of(replace(data, students=bare)).words
        assert "No trips have been generated." in words

    def test_students_without_a_common_seed_are_not_compared(self, data):
        apart = {"vanilla": {0: data.students["vanilla"][0]}, "distilled": {1: data.students["distilled"][1]}}
        words = text_of(replace(data, students=apart)).words
        assert "The students share no seed" in words


class TestCompare:
    def test_direction_decides_who_is_better(self):
        rows = {
            row.name: row
            for row in compare(
                {0: {"similarity.dtw": 2.0, "next_step.accuracy": 0.5}},
                {0: {"similarity.dtw": 1.0, "next_step.accuracy": 0.25}},
            )
        }
        assert rows["similarity.dtw"].verdict == "leans better"
        assert rows["next_step.accuracy"].verdict == "leans worse"
        assert rows["similarity.dtw"].relative.mean == -50

    def test_closer_to_real_is_better_whatever_the_sign(self):
        real = {"distance.real_mean": 10.0}
        runs = [{s: {**real, "distance.generated_mean": base + s / 100} for s in range(3)} for base in (8.0, 11.0)]
        (row,) = compare(*runs)
        assert row.real == 10.0
        assert row.difference.mean == pytest.approx(3)
        assert row.verdict == "better"

    def test_an_interval_without_zero_is_clear(self):
        vanilla = {seed: {"similarity.edr": 0.5 + seed / 1000} for seed in range(4)}
        distilled = {seed: {"similarity.edr": 0.4 + seed / 500} for seed in range(4)}
        assert compare(vanilla, distilled)[0].verdict == "better"
        assert compare(distilled, vanilla)[0].verdict == "worse"
        assert compare(vanilla, vanilla)[0].verdict == "same"

    def test_only_common_seeds_are_paired(self):
        (row,) = compare({0: {"similarity.edr": 0.5}, 1: {"similarity.edr": 9.0}}, {0: {"similarity.edr": 0.4}})
        assert row.difference.mean == pytest.approx(-0.1)
        assert row.vanilla == (0.5, 9.0)

    def test_a_target_is_named(self):
        rows = compare(
            {0: {"paired.detour_ratio": 1.2, "privacy.membership_auc": 0.7, "trip_length.generated_mean": 2}}, {}
        )
        directions = {row.name: format_row(row).direction for row in rows}
        assert directions == {
            "paired.detour_ratio": "→ 1",
            "privacy.membership_auc": "→ 0.5",
            "trip_length.generated_mean": "→ real",
        }

    def test_digits_of_a_row(self):
        def line(*values: tuple[float, ...]) -> tuple[str, ...]:
            vanilla, distilled = ({seed: {"paired.edr": value} for seed, value in enumerate(v)} for v in values)
            (row,) = compare(vanilla, distilled)
            return format_row(row)[4:8]

        assert line((0.09,), (0.1,)) == ("0.0900", "0.1000", "+0.0100", "")
        assert line((0.009,), (0.01,)) == ("0.00900", "0.01000", "+0.00100", "")
        assert line((12.3456,), (12.3,)) == ("12.35", "12.30", "−0.046", "")
        *_, difference, interval = line((0.4, 0.4, 0.4), (0.42, 0.4, 0.38003))
        assert difference == "+0.000010"  # a small difference has more digits, a wide interval has not
        assert interval == "−0.0496 to +0.0497"

    def test_definitions_name_the_source(self, data):
        assert "Source: full black-box attack of GAN-Leaks (Chen et al., CCS 2020)." in " ".join(text_of(data).text)

    def test_a_metric_without_a_record_has_no_direction(self):
        """Its name is no evidence: `odd_loss` may be something to maximize."""
        (row,) = compare({0: {"next_step.odd_loss": 2.0}}, {0: {"next_step.odd_loss": 1.0}})
        assert row.metric.label == "odd loss"
        assert row.difference.mean == -1
        assert row.verdict is None

    def test_the_short_comparison_has_the_headline_metrics_of_all_students(self):
        plain = {"next_step.nll": 1.0, "next_step.top_3": 0.5, "similarity.dtw": 3.0}
        rows = headline_rows({"vanilla": plain, "distilled": {**plain, "next_step.accuracy": 0.5}})
        assert [row["metric"] for row in rows] == ["next_step.nll", "similarity.dtw"]
        assert rows[0] == {"metric": "next_step.nll", "vanilla": 1.0, "distilled": 1.0}


class TestBaselines:
    """Baselines beside the students, and the sentence on the primary metric."""

    EDR = np.random.default_rng(3).random(60)

    def sentence(self, students, baselines, metric="paired.edr", noise=None):
        """Sentences where each trip has the mean of its model, but for one model with `noise` in addition."""
        vanilla, distilled = ({seed: {metric: value} for seed, value in enumerate(values)} for values in students)
        rows = compare(vanilla, distilled)
        means = {"vanilla": students[0], "distilled": students[1], **baselines}
        values = {
            name: {metric: TripValues(self.EDR + np.mean(mean) - self.EDR.mean(), np.ones(60))}
            for name, mean in means.items()
            if np.size(mean)
        }
        for name, added in (noise or {}).items():
            values[name] = {metric: TripValues(values[name][metric].totals + added, np.ones(60))}
        known = {name: {metric: value} for name, value in baselines.items()}
        return list(baseline_sentences(known, rows, values))

    def test_baselines_are_better_or_worse_by_paired_differences(self):
        sentences = self.sentence(([0.41, 0.40], [0.21, 0.20]), {"C": 0.3, "A": 0.1, "B": 0.15})
        vanilla, distilled, rule = (each.replace("\N{NO-BREAK SPACE}", " ") for each in sentences)
        assert vanilla.startswith(
            "Baselines beside the vanilla student (0.4050) on the primary metric of generated trips"
        )
        assert (
            "EDR (same request), lower is better. Better: A 0.1000 (difference −0.3050, 95 % interval −0.3685"
            in vanilla
        )
        assert "over 2 seeds, −0.3050 to −0.3050 over the test trips); B" in vanilla
        assert "Better: A 0.1000" in distilled
        assert "Worse: C 0.3000 (difference +0.0950, " in distilled
        assert "all intervals exclude 0" in rule

    def test_an_interval_with_zero_shows_no_difference(self):
        wide_seeds, _, _ = self.sentence(([0.3, 0.5], [0.2]), {"A": 0.35})
        assert "Not shown to differ: A 0.3500 (difference −0.0500" in wide_seeds
        noise = np.random.default_rng(0).normal(0, 1, 60)
        wide_trips, _, _ = self.sentence(([0.40, 0.41], [0.2]), {"A": 0.35}, noise={"A": noise - noise.mean()})
        assert "Not shown to differ: A 0.3500 (difference −0.0550" in wide_trips
        assert "Better" not in wide_seeds + wide_trips
        [same, _] = self.sentence(([0.1 + 0.2], []), {"A": 0.3})
        assert "Not shown to differ: A 0.3000" in same

    def test_one_seed_shows_nothing_of_another_training(self):
        [text, _] = self.sentence(([0.4], []), {"A": 0.3})
        assert "Better on these trips (one seed, so not shown for another training): A 0.3000 (" in text
        assert "seeds" not in text

    def test_without_values_per_trip_only_means_are_known(self):
        rows = compare({0: {"paired.edr": 0.4}, 1: {"paired.edr": 0.4}}, {})
        text, _ = baseline_sentences({"A": {"paired.edr": 0.3}}, rows, {})
        assert text.endswith("Only the means are known, because values per trip are missing: A 0.3000.")
        assert "Better" not in text

    def test_without_the_primary_metric_there_is_no_sentence(self):
        assert not self.sentence(([0.4], [0.5]), {"A": 0.3}, "similarity.edr")
        assert not self.sentence(([0.4], [0.5]), {})

    def test_the_first_screen_claims_no_more_than_the_intervals(self, data):
        """Beside equal means, one with a wide interval: better in the mean is not behind."""
        edr = {
            kind: float(np.mean([run.metrics["paired"]["edr"] for run in runs.values()]))
            for kind, runs in data.students.items()
        }
        low = min(edr.values()) / 2
        noise = np.random.default_rng(0).normal(0, 2, 60)

        def first_screen(shift):
            values = {
                name: {"paired.edr": TripValues(self.EDR + value - self.EDR.mean(), np.ones(60))}
                for name, value in {**edr, "Chain": low}.items()
            }
            chain = values["Chain"]["paired.edr"]
            values["Chain"] = {"paired.edr": chain._replace(totals=chain.totals + shift)}
            baselines = Baselines({"Chain": {"paired.edr": low}})
            # one seed: the interval over the trips decides
            students = {kind: {0: runs[0]} for kind, runs in data.students.items()}
            return verdict(replace(data, students=students, trip_values=values, baselines=baselines))

        clear, unclear = " ".join(first_screen(0)), " ".join(first_screen(noise - noise.mean()))
        assert "behind the baseline Chain" in clear
        assert "is better than both students (on these trips, one seed)" in clear
        assert "behind" not in unclear
        assert "is not shown to differ from both students" in unclear

    def test_they_are_columns_beside_the_students_without_an_interval(self, data):
        metrics = flatten(evaluate(REAL, REAL, NETWORK, paired=True, training=TRAINING))
        baselines = Baselines(
            {"Chain": metrics, "<other>": {"distance.generated_mean": 0.25}},
            {"Chain": {"weekday": metrics}},
            {"Frequency": {"next_step.nll": 0.75}},
        )
        parsed = text_of(replace(data, baselines=baselines))
        head, *rows = _tables_of(parsed.rows)[1]
        place = head.index("distilled")
        assert head[place + 1 : place + 3] == ["Chain", "<other>"]
        by_label = {row[0].partition(" ↑")[0]: row for row in rows}
        assert by_label["identical to the real trip"][place + 1 : place + 3] == ["100.00", ""]
        assert parsed.row("negative log-likelihood")[4] == "0.7500"
        scenarios = _tables_of(parsed.rows)[2]
        assert "Chain" in scenarios[0]
        assert "Only the means are known, because values per trip are missing: Chain 0.0000." in parsed.words

    def test_a_note_says_why_there_are_none(self, data):
        note = "The baselines answer other requests."
        parsed = text_of(replace(data, baselines=Baselines(note=note)))
        assert note in parsed.words
        assert "primary metric of generated trips" not in parsed.words


class TestCounting:
    """What the verdict counts."""

    def rows(self, similarity: float, paired: float):
        vanilla = {"similarity.dtw": 2.0, "paired.dtw": 2.0, "similarity.edr": 0.5, "similarity.edr_published": 0.25}
        distilled = {**vanilla, "similarity.dtw": similarity, "paired.dtw": paired, "similarity.edr": 0.25}
        return compare({0: vanilla}, {0: distilled})

    def test_the_same_pairs_count_once(self):
        rows = self.rows(1.0, 1.0 + 1e-15)
        assert repeated_metrics(rows) == {"similarity.dtw"}
        assert [row.name for row in judged_rows(rows)] == ["similarity.edr", "paired.dtw"]

    def test_other_pairs_count_each(self):
        rows = self.rows(1.0, 1.5)
        assert repeated_metrics(rows) == set()
        assert [row.name for row in judged_rows(rows)] == ["similarity.dtw", "similarity.edr", "paired.dtw"]

    def test_the_page_says_so_once_and_shows_one_section(self, data):
        trips = evaluate(REAL, REAL, NETWORK, paired=True)
        same = {"similarity": {"dtw": 2.0}, "paired": {"dtw": 2.0, "jaccard": 0.5}}
        runs = {kind: {0: replace(runs[0], metrics={**trips, **same})} for kind, runs in data.students.items()}
        words = text_of(replace(data, students=runs)).words
        assert words.count("are the same trips here, so both sections have the same values") == 1
        assert METRICS["paired.dtw"].text in words
        assert METRICS["similarity.dtw"].text not in words
        assert "are the same trips here" not in text_of(data).words

    def test_divergences_of_few_trips_are_left_out(self, data):
        words = text_of(data).words
        assert "Divergences (JSD) are left out: they need 200 trips, and there are 20." in words
        assert METRICS["distance.jsd"].text not in words
        assert METRICS["distance.generated_mean"].text in words

    def test_a_floor_is_marked_and_decides_no_verdict(self):
        rows = compare({0: {"distance.jsd": 0.02}}, {0: {"distance.jsd": 0.01}})
        within = judge(rows, floors={"distance.jsd": Floor(0.02, 0.03, 300, disjoint=True)})
        beyond = judge(rows, floors={"distance.jsd": Floor(0.005, 0.015, 300, disjoint=True)})
        assert [each.verdict(rows[0]) for each in (within, beyond)] == ["leans better", "leans better"]
        assert [each.is_below_floor(rows[0]) for each in (within, beyond)] == [True, False]
        assert "that does not show that they are equal" in " ".join(secondary_sentences(within))
        assert "floor" not in " ".join(secondary_sentences(beyond))
        assert format_row(rows[0], Beside(floors=beyond.floors)).floor == "0.0050 (0.0150)"
        marked = format_row(rows[0], Beside(floors=within.floors, below_floor={"distance.jsd"}))
        assert marked.floor == "0.0200 (0.0300)†"


class TestEvidence:
    """Intervals over test trips and Holm's correction beside the metrics."""

    def values(self, shift: float, seed: int = 0) -> TripValues:
        return TripValues(np.random.default_rng(seed).random(60) + shift, np.ones(60))

    def test_one_seed_has_an_interval_over_trips(self, data):
        values = {
            "vanilla": {"next_step.accuracy": self.values(0.1), "next_step.nll": self.values(0.3)},
            "distilled": {"next_step.accuracy": self.values(0.2), "next_step.nll": self.values(0.1)},
        }
        one = {kind: {0: runs[0]} for kind, runs in data.students.items()}
        parsed = text_of(replace(data, students=one, trip_values=values))
        row = parsed.row("accuracy")
        assert row[2:] == ["80.00", "85.00", "+5.00", "+10.00 to +10.00", "< 0.001", "better, one seed"]
        assert "is better over the test trips (one seed, so not shown for another training): accuracy" in parsed.words

    def test_the_headline_of_one_seed_claims_no_more_than_its_row(self, data):
        values = {"vanilla": {"next_step.nll": self.values(0.1)}, "distilled": {"next_step.nll": self.values(0.2)}}
        one = replace(data, students={kind: {0: runs[0]} for kind, runs in data.students.items()}, trip_values=values)
        first, *more = verdict(one)
        limit = "one seed, so not shown for another training"
        assert f"Next road: vanilla has the lower test NLL on these trips; {limit}. Trips: " in first
        assert "is better" not in first
        assert limit in more[0]
        assert text_of(one).row("negative log-likelihood")[-1] == "worse, one seed"

    def test_the_sentences_on_secondary_metrics_count_as_the_table_does(self):
        names = ("next_step.time_mape", "next_step.top_3", "next_step.calibration_error", "next_step.accuracy")
        rows = compare({0: dict.fromkeys(names, 0.5)}, {0: dict(zip(names, (0.7, 0.4, 0.9, 0.5), strict=True))})
        base = self.values(0.0)
        trips = {
            "vanilla": {"next_step.time_mape": base, "next_step.top_3": self.values(0, 1)},
            "distilled": {"next_step.time_mape": self.values(0.2), "next_step.top_3": self.values(0, 2)},
        }
        judgment = judge(rows, trips)
        assert [judgment.verdict(row) for row in rows] == ["worse, one seed", "leans worse", "leans worse", "same"]
        clear, unclear, untested = secondary_sentences(judgment)
        assert (
            clear
            == "The distilled student is worse over the test trips (one seed, so not shown for another training): "
            + short_label(rows[0])
            + "."
        )
        assert unclear.startswith("Of the other 3 secondary metrics, 0 lean toward the distilled student, 2 toward")
        assert untested.startswith("1 of these has no interval and no test")
        assert untested.endswith(f"Worse among them: {short_label(rows[2])}.")

    def test_one_seed_shows_nothing_of_a_metric_with_a_target(self):
        metric = METRICS["paired.detour_ratio"]
        rows = compare({0: {metric.name: 1.2}}, {0: {metric.name: 1.1}})
        trips = {"vanilla": {metric.name: self.values(0.1)}, "distilled": {metric.name: self.values(0.0)}}
        assert metric.target == 1.0
        assert judge(rows, trips).verdict(rows[0]) == "leans better"

    def test_secondary_metrics_are_adjusted_together_and_primary_ones_are_not(self):
        rng = np.random.default_rng(1)
        names = ["next_step.nll", "next_step.accuracy", "next_step.top_3", "paired.dtw"]
        base = {name: TripValues(rng.random(40), np.ones(40)) for name in names}
        other = {name: TripValues(v.totals + rng.normal(0.05, 0.2, 40), v.counts) for name, v in base.items()}
        rows = compare(
            {0: {name: v.mean for name, v in base.items()}}, {0: {name: v.mean for name, v in other.items()}}
        )
        evidence = gather_evidence(rows, base, other)
        assert evidence["next_step.nll"].adjusted is None
        family = [name for name in names if name != "next_step.nll"]
        expected = holm([evidence[name].p_value for name in family])
        assert [evidence[name].adjusted for name in family] == pytest.approx(expected)
        assert all(evidence[name].adjusted >= evidence[name].p_value for name in family)

    def test_clear_over_seeds_is_not_enough_if_the_trips_do_not_agree(self):
        rows = compare({s: {"paired.dtw": 2.0 + s / 100} for s in range(3)}, {s: {"paired.dtw": 1.0} for s in range(3)})
        noise = self.values(0.0, seed=1), self.values(0.0, seed=2)
        judgment = judge(rows, {"vanilla": {"paired.dtw": noise[0]}, "distilled": {"paired.dtw": noise[1]}})
        assert rows[0].verdict == "better"
        assert judgment.verdict(rows[0]) == "leans better"
        assert judge(rows).verdict(rows[0]) == "better"

    def test_a_variant_leans_at_most(self):
        """Nothing tests or adjusts it."""
        name = "paired.edr_published"
        rows = compare({s: {name: 2.0 + s / 100} for s in range(3)}, {s: {name: 1.0} for s in range(3)})
        assert METRICS[name].variant
        assert rows[0].verdict == "better"
        assert judge(rows).verdict(rows[0]) == "leans better"

    def test_p_value_over_seeds_agrees_with_the_interval(self):
        differences = [0.4, 0.1, 0.3, -0.05]
        assert paired_t_test(differences) == pytest.approx(ttest_1samp(differences, 0).pvalue)
        assert paired_t_test([0.1]) is None
        assert paired_t_test([0.5, 0.5]) == 0

    def test_values_per_trip_add_up_to_the_metrics(self):
        generated = answers(3)
        whole = flatten(evaluate(REAL, generated, NETWORK, paired=True))
        values = request_values(REAL, generated, NETWORK, EvaluationConfig())
        for name, each in values.items():
            if each.counts.sum():
                assert each.mean == pytest.approx(whole[name]), name
        assert {"paired.edr", "paired.hausdorff", "requests.reached_share"} <= values.keys()

    def test_a_difference_with_other_counts_resamples_both(self):
        a, b = TripValues(np.array([1.0, 0.0, 2.0]), np.array([1.0, 0.0, 1.0])), TripValues(np.ones(3), np.ones(3))
        interval = difference_over_trips(a, b)
        assert interval.value == 0.5
        assert interval.low <= 0.5 <= interval.high


class TestBesideTheMetrics:
    def test_latency_and_files(self, data):
        more = replace(
            data,
            latency=[Latency("vanilla student, search", 12.5, 0.25)],
            files=[FileLink("real <trips>", "real_lines.parquet")],
        )
        parsed = text_of(more)
        assert ["vanilla student, search", "12.5", "0.250"] in parsed.rows
        assert "part of no version" in parsed.words
        assert ("a", {"href": "real_lines.parquet"}) in parsed.tags
        assert "QGIS" in parsed.words
        assert "real <trips>" in parsed.words
        assert "Latency" not in text_of(data).words

    def test_other_routes_are_no_wrong_turns(self, data):
        turned = replace(data.students["vanilla"][0], failures=[Failure(2, "another route", 0.4)])
        parsed = text_of(replace(data, students={"vanilla": {0: turned}}))
        assert "“Another route” is no failure to arrive" in parsed.words
        assert "wrong turn" not in parsed.words
        page = render(replace(data, students={"vanilla": {0: turned}}), with_figures=False, map_file="map.html")
        assert 'href="map.html#2"' in page


class TestScenarios:
    """Parts of the test trips: metrics that need no floor, verdicts without a test, no keys of the settings."""

    def table(self, data, scenario="peak") -> str:
        runs = {
            kind: {seed: replace(run, scenarios={scenario: run.scenarios["weekday"]}) for seed, run in seeds.items()}
            for kind, seeds in data.students.items()
        }
        return text_of(replace(data, students=runs)).words.partition("with the number of generated trips per seed")[2]

    def test_headings_have_no_keys_of_the_settings(self, data):
        assert "Peak trips that start in the peak hours: 20" in self.table(data)
        assert "trips that start or end in the center: 20" in self.table(data, "center")

    def test_pairs_are_those_of_the_request_and_divergences_are_left_out(self, data):
        assert "EDR (same request)" in self.table(data)
        assert not any(name.startswith("similarity.") or name.endswith("jsd") for name in SCENARIO_METRICS)

    def test_a_difference_leans_at_most(self):
        verdicts = [_untested(row) for row in compare(*SEEDS)]
        assert verdicts == ["leans better", "leans worse", ""]


def test_columns_of_dashes_are_left_out():
    rows = [{"model": "a", "over seeds": "–", "weights": "–"}, {"model": "b", "over seeds": "–", "weights": "b 1"}]
    assert _without_empty_columns(rows) == [{"model": "a", "weights": "–"}, {"model": "b", "weights": "b 1"}]
    assert _without_empty_columns([]) == []


class TestLabels:
    def test_stored_names_become_labels_with_an_explanation(self, page):
        parsed = Page(page)
        (row,) = [row for row in parsed.rows if row[0] == "accuracy among the candidates' cells"]
        assert row[1] == "0.75"
        assert "most probable of the candidates' cells is the true one" in row[2]
        assert "candidate top is true" not in parsed.words

    def test_nested_names_and_unknown_ones_stay_readable(self):
        values = {"alignment": {"is_conclusive": True, "tried": [1]}, "odd_key": 12345, "share": 0.123456, "lost": None}
        assert [tuple(value)[:2] for value in describe_values(values)] == [
            ("alignment: conclusive", "yes"),
            ("odd key", "12,345"),
            ("share", "0.1235"),
        ]


class TestColumns:
    def test_one_seed_has_no_empty_columns(self, data):
        one = replace(data, students={kind: {0: runs[0]} for kind, runs in data.students.items()})
        heads = [row for row in text_of(one).rows if row[0] == "metric" and "vanilla" in row]
        assert heads
        for head in heads:
            assert not {"95 % over seeds", "95 % over trips", "p (Holm)"} & {
                cell.replace("\N{NO-BREAK SPACE}", " ") for cell in head
            }

    def test_intervals_and_floors_wrap_between_their_ends(self):
        line = Line("m", "", "", "", "1", "2", "1", "", "same", floor="0.1 (0.2)†", trips="−1 to +2", p_value="< 0.001")
        parts = {column.key: column.parts(line) for column in table_of([Group("", [line])]).columns}
        assert (parts["floor"], parts["trips"], parts["p_value"]) == (["0.1", "(0.2)†"], ["−1 to", "+2"], ["< 0.001"])

    def test_the_middle_of_a_wide_table_scrolls_in_a_box(self, data):
        many = Baselines({name: {"paired.edr": 0.5} for name in "ABCD"})
        page = render(replace(data, baselines=many), with_figures=False)
        assert page.count('class="wide box"') == page.count("The table scrolls in its box") == 1
        assert 'class="wide box"' not in render(replace(data, students={"vanilla": {}}), with_figures=False)

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_every_column_has_content_and_every_row_has_every_column(self, data, seeds):
        some = {kind: {seed: runs[seed] for seed in range(seeds)} for kind, runs in data.students.items()}
        tables = _tables_of(text_of(replace(data, students=some)).rows)
        assert len(tables) == 3
        for head, *rows in tables:
            assert {len(row) for row in rows if len(row) > 1} == {len(head)}
            assert all(any(row[column] for row in rows if len(row) > 1) for column in range(len(head)))


def _tables_of(rows: list[list[str]]) -> list[list[list[str]]]:
    """Return the rows of each table of metrics; a row with other headings ends it."""
    tables: list[list[list[str]]] = []
    inside = False
    for row in rows:
        if row[0] in {"metric", "cause", "artifact"}:
            inside = row[0] == "metric" and "vanilla" in row
            tables += [[]] if inside else []
        inside = inside and not (len(row) in {2, 3} and row[0] != "metric")
        if inside:
            tables[-1].append(row)
    return tables


def test_trips_without_times_have_no_metrics_of_times(data):
    assert "no time information" not in render(data, with_figures=False)
    still = replace(REAL, times=np.repeat(REAL.start_times, REAL.lengths))
    page = render(replace(data, real=still), with_figures=False)
    assert page.count("There is no time information in the real trips") == 1
    assert "time to the next road" in render(data, with_figures=False).lower()
    assert "time to the next road" not in page.lower()


@pytest.mark.parametrize(
    ("imported", "others"),
    [
        (False, "; LM-TAD and the baselines have all of them."),
        (True, "; the baselines have all of them."),
        (None, "; the baselines have all of them."),
    ],
)
def test_students_with_a_share_of_the_trips_are_said_to_have_fewer(data, imported, others):
    teacher = {} if imported is None else {"teacher": {"imported": imported}}
    baselines = Baselines(trips={"markov": {"paired.edr": 0.1}})
    few = replace(data, student_trips=(210, 2100), teacher=teacher, baselines=baselines)
    assert f"A student has 210 of the 2,100 training trips (10\N{NO-BREAK SPACE}%){others}" in verdict(few)[-1]
    assert "training trips" not in " ".join(verdict(data))


def test_only_the_teacher_has_all_trips_without_baselines(data):
    few = replace(data, student_trips=(1, 4), teacher={"teacher": {"imported": False}})
    share = "A student has 1 of the 4 training trips (25\N{NO-BREAK SPACE}%)"
    assert verdict(few)[-1].endswith(f"{share}; LM-TAD has all of them.")


def test_a_registered_metric_reaches_the_page(data):
    metric = Metric("training.wiggle", label="wiggliness", text="How much <trips> wiggle.", unit="rad", better="lower")
    register(metric)
    try:
        runs = {
            kind: {
                seed: replace(run, metrics={**run.metrics, "training": {"wiggle": number / (1 + seed)}})
                for seed, run in seeds.items()
            }
            for (kind, seeds), number in zip(data.students.items(), (2.0, 1.0), strict=True)
        }
        parsed = text_of(replace(data, students=runs))
    finally:
        METRICS.unregister(metric.name)
    assert parsed.row("wiggliness ↓")[1] == "rad"
    assert metric.text in parsed.words


def test_a_failed_write_keeps_the_previous_report(data, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(b"the previous report")
    with pytest.raises(UnicodeEncodeError):
        write_report(path, replace(data, city="\ud800"))  # fails in the middle of writing
    assert path.read_bytes() == b"the previous report"
    assert list(tmp_path.iterdir()) == [path]
