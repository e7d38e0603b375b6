"""The report: the page is complete, loads nothing, escapes everything and agrees with the numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from small_city import grid_network, random_trips

from hoser_kd import plots
from hoser_kd.evaluation.comparison import compare, headline_rows
from hoser_kd.evaluation.failures import Failure
from hoser_kd.evaluation.metric_registry import METRICS, Metric, register
from hoser_kd.evaluation.metrics import evaluate, flatten
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.report import Baselines, ReportData, StudentResult, render, write_report
from hoser_kd.report.baselines import baseline_sentences
from hoser_kd.report.labels import describe_values
from hoser_kd.report.table import format_row
from hoser_kd.report.text import judged_rows, repeated_metrics

NETWORK = grid_network()
REAL = random_trips(NETWORK, 20, seed=0, lengths=(4, 16))
TRAINING = random_trips(NETWORK, 30, seed=9)
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
    return render(data)


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
                    assert value.startswith(("data:image/png;base64,", "#")), value[:60]
        assert "default-src 'none'" in page

    def test_links_have_targets(self, page):
        tags = Page(page).tags
        targets = {attributes["id"] for _, attributes in tags if "id" in attributes}
        assert {attributes["href"][1:] for tag, attributes in tags if tag == "a"} <= targets

    def test_has_every_part(self, page):
        parsed = Page(page)
        headings = [
            "Next-step prediction",
            "Generated trips",
            "Real and generated trips",
            "Training",
            "Teacher",
            "Data",
            "Settings",
            "Versions",
            "Definitions",
        ]
        assert all(heading in parsed.words for heading in headings)
        images = [attributes for tag, attributes in parsed.tags if tag == "img"]
        # by group, differences, 4 of trips, a failure, curves, 2 of the teacher, network, the one handed in
        assert len(images) == 12
        assert all(image["alt"] for image in images)
        assert "Scenarios" in parsed.words
        assert "30.10" in parsed.words.partition("Scenarios The same metrics")[2]
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
        for name in ("similarity.dtw", "distance.jsd", "paired.jaccard", "training.memorized_share"):
            assert METRICS[name].text in words

    def test_the_same_data_give_the_same_file(self, page, data, tmp_path):
        write_report(tmp_path / "report.html", data)
        assert (tmp_path / "report.html").read_text(encoding="utf-8") == page

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
    def test_names_what_is_clearly_better_and_worse(self, page):
        words = Page(page).words
        assert "A mixed result" in words
        better, worse = words.split("Clearly worse with the teacher:")[0], words.split("Clearly worse")[1]
        assert "accuracy (next step)" in better.split("Clearly better with the teacher:")[1]
        assert "negative log-likelihood (next step)" in worse
        assert "predicts the next road in 85.10 % of the steps, the vanilla one in 80.10 %" in words
        assert "+5.00 points, 95 % interval +5.00 to +5.00" in words
        assert "Nothing here claims statistical significance" in words

    def test_tables_give_means_differences_and_intervals(self, page):
        row = Page(page).row("negative log-likelihood")
        assert row[1:] == ["nat", "0.4000 ± 0.0000", "0.4500 ± 0.0000", "+0.0500", "+0.0500 to +0.0500", "worse"]

    def test_one_seed_has_no_interval_and_a_caveat(self, data):
        one = replace(data, students={kind: {0: runs[0]} for kind, runs in data.students.items()})
        words = text_of(one).words
        assert words.count("One seed gives no interval") == 1
        assert "Clearly" not in words.replace("“Clearly”", "")
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

    def sentence(self, students, baselines, metric="paired.edr"):
        vanilla, distilled = ({seed: {metric: value} for seed, value in enumerate(values)} for values in students)
        rows = compare(vanilla, distilled)
        return " ".join(baseline_sentences({name: {metric: value} for name, value in baselines.items()}, rows))

    def test_each_baseline_is_named_with_the_students_that_it_beats(self):
        text = self.sentence(([0.3, 0.5], [0.2]), {"C": 0.3, "A": 0.1, "D": 0.45, "B": 0.15, "E": 0.4})
        assert "EDR (same request), lower is better, vanilla 0.4000, distilled 0.2000: " in text
        assert "A (0.1000) and B (0.1500) beat both students" in text
        assert "C (0.3000) beats the vanilla student only" in text
        assert "E (0.4000) and D (0.4500) beat neither student" in text

    def test_the_sentence_follows_the_numbers(self):
        assert "A (0.3000) beats the distilled student only" in self.sentence(([0.2], [0.4]), {"A": 0.3})
        assert "A (0.1000) beats both students" in self.sentence(([0.2], [0.4]), {"A": 0.1})
        assert "A (0.3000) beats neither" in self.sentence(([0.1 + 0.2], [0.3]), {"A": 0.3})

    def test_without_a_distilled_student(self):
        assert "A (0.3000) beats the vanilla student." in self.sentence(([0.4], []), {"A": 0.3})
        assert "A (0.5000) does not beat the vanilla student." in self.sentence(([0.4], []), {"A": 0.5})

    def test_without_the_primary_metric_there_is_no_sentence(self):
        assert not self.sentence(([0.4], [0.5]), {"A": 0.3}, "similarity.edr")
        assert not self.sentence(([0.4], [0.5]), {})

    def test_they_are_columns_beside_the_students_without_an_interval(self, data):
        metrics = flatten(evaluate(REAL, REAL, NETWORK, paired=True, training=TRAINING))
        baselines = Baselines(
            {"Chain": metrics, "<other>": {"distance.jsd": 0.25}},
            {"Chain": {"weekday": metrics}},
            {"Frequency": {"next_step.nll": 0.75}},
        )
        parsed = text_of(replace(data, baselines=baselines))
        head, *rows = _tables_of(parsed.rows)[1]
        place = head.index("distilled")
        assert head[place + 1 : place + 3] == ["Chain", "<other>"]
        by_label = {row[0]: row for row in rows}
        assert by_label["identical to the real trip ↑"][place + 1 : place + 3] == ["100.00", ""]
        assert parsed.row("negative log-likelihood")[4] == "0.7500"
        scenarios = _tables_of(parsed.rows)[2]
        assert "Chain" in scenarios[0]
        assert "Chain (0.0000) beats both students" in parsed.words

    def test_a_note_says_why_there_are_none(self, data):
        note = "The baselines answer other requests."
        parsed = text_of(replace(data, baselines=Baselines(note=note)))
        assert note in parsed.words
        assert "Primary metric" not in parsed.words


class TestCounting:
    """What the verdict counts."""

    def rows(self, similarity: float, paired: float):
        vanilla = {"similarity.dtw": 2.0, "paired.dtw": 2.0, "similarity.edr": 0.5, "similarity.edr_published": 0.25}
        distilled = {**vanilla, "similarity.dtw": similarity, "paired.dtw": paired, "similarity.edr": 0.25}
        return compare({0: vanilla}, {0: distilled})

    def test_the_same_pairs_count_once(self):
        rows = self.rows(1.0, 1.0 + 1e-15)
        assert repeated_metrics(rows) == {"paired.dtw"}
        assert [row.name for row in judged_rows(rows)] == ["similarity.dtw", "similarity.edr"]

    def test_other_pairs_count_each(self):
        rows = self.rows(1.0, 1.5)
        assert repeated_metrics(rows) == set()
        assert [row.name for row in judged_rows(rows)] == ["similarity.dtw", "similarity.edr", "paired.dtw"]

    def test_the_page_says_so(self, data):
        trips = evaluate(REAL, REAL, NETWORK, paired=True)
        same = {"similarity": {"dtw": 2.0}, "paired": {"dtw": 2.0, "jaccard": 0.5}}
        runs = {kind: {0: replace(runs[0], metrics={**trips, **same})} for kind, runs in data.students.items()}
        words = text_of(replace(data, students=runs)).words
        assert "pair the same trips here, so the metrics that both have are equal and count once" in words
        assert "pair the same trips here" not in text_of(data).words


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
            assert not {"95 % interval", "effect"} & {cell.replace("\N{NO-BREAK SPACE}", " ") for cell in head}

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
