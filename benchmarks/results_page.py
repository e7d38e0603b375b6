"""Write docs/results.md and its plots from docs/results/<city>.json, which benchmarks/experiment.py writes.

    python benchmarks/results_page.py

All sentences with numbers of the tables are generated. docs/results/reading.md (the interpretation) and method.md are
written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_plot import CEILING, COUNTING, VANILLA, primary_plot, students

from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.plots import png

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "results"
NEXT_STEP = {
    "next_step.nll": "NLL, nats",
    "next_step.nll_scaled": "NLL, temperature scaled",
    "next_step.decision_accuracy": "accuracy at decisions",
    "next_step.calibration_error": "calibration error",
}
TRIPS = {
    "paired.edr": "EDR",
    "paired.hausdorff": "Hausdorff, km",
    "paired.dtw": "DTW, km",
    "paired.identical_share": "identical trips",
    "distance.jsd": "distance JSD",
    "duration.jsd": "duration JSD",
    "requests.reached_share": "arrived",
}
LABELS = {**NEXT_STEP, **TRIPS}
HIGHER_IS_BETTER = {"next_step.decision_accuracy", "paired.identical_share", "requests.reached_share"}
DIGITS = {"paired.dtw": 2, "paired.edr": 3, "paired.hausdorff": 3}
SHARES = {"paired.identical_share", "requests.reached_share"}
POOLS = ("student_student", "student_markov", "student_teacher", "student_teacher_markov")
ONE_SEED = "with one seed, which does not describe the randomness of training"
GROUPS = {
    "Worse": "worse",
    f"Worse over the test trips, {ONE_SEED}": "worse, one seed",
    "Not clear: an interval of the difference contains 0": "not clear",
    f"Better over the test trips, {ONE_SEED}": "better, one seed",
    "Better over seeds and over test trips": "better",
}
"""Titles of the findings by their verdicts, the negative ones first."""
BASELINE_LETTERS = {"markov": "M", "own_markov": "O", "shortest": "S", "fastest": "F", "retrieval": "N"}
BASELINES_LEGEND = (
    "The same against each baseline, by the rule of the verdicts: M the Markov chain of all trips, O that of the "
    "student's own trips, S the shortest and F the fastest path, N the nearest training trip."
)
AGAINST_BASELINES = ("paired.edr", "paired.hausdorff", "paired.dtw", "paired.identical_share", "duration.jsd")
Row = Mapping[str, Any]


def number(name: str, value: float, *, sign: bool = False) -> str:
    """Return a value of a metric as text."""
    plus = "+" if sign else ""
    if name in SHARES:
        return f"{100 * value:{plus}.1f}" + (" points" if sign else " %")
    return f"{value:{plus}.{DIGITS.get(name, 4)}f}"


def ends(name: str, interval: Sequence[float] | None) -> str:
    """Return an interval as text, a dash where there is none."""
    if interval is None:
        return "–"
    return f"{number(name, interval[0], sign=True)} to {number(name, interval[1], sign=True)}"


def cell(name: str, row: Row) -> str:
    """Return a value with the half widths of its intervals, over seeds and over test trips."""
    halves = [(row[kind][1] - row[kind][0]) / 2 if row[kind] else None for kind in ("seeds", "trips")]
    texts = ["–" if half is None else number(name, half).removesuffix(" %") for half in halves]
    return number(name, row["mean"]) + ("" if halves == [None, None] else f" ± {texts[0]} / {texts[1]}")


def verdict(name: str, row: Row) -> str:
    """Return better, worse or not clear, and that there is one seed.

    Clear: every interval excludes 0 and, for a metric that is not primary, the adjusted p-value is at most 0.05.
    """
    intervals = [row[kind] for kind in ("seeds", "trips") if row[kind]]
    if not intervals or row.get("p_holm", 0.0) > 0.05 or any(low <= 0 <= high for low, high in intervals):
        return "not clear"
    word = "better" if (row["mean"] > 0) == (name in HIGHER_IS_BETTER) else "worse"
    return word if row["seeds"] else f"{word}, one seed"


def seeds_text(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def percent(share: float | str) -> str:
    return f"{float(share):.0%}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table and an empty line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(each) + " |" for each in lines] + [""]


def next_step_table(results: Row, part: Row) -> list[str]:
    """Return the rows of next-step prediction: counting models, students, pools."""
    rows = []
    for name, label in COUNTING.items():
        values = {f"next_step.{key}": value for key, value in results["next_step_baselines"][name].items()}
        cells = [number(key, values[key]) if key in values else "–" for key in NEXT_STEP]
        rows.append([f"*{label}*", "–", *cells, "–"])
    for name in students(part):
        row = part["rows"][name]
        gap = row.get("gap_closed", {}).get(CEILING)
        rows.append(
            [
                f"**{name}**",
                seeds_text(row["seeds"]),
                *(cell(key, row["metrics"][key]) for key in NEXT_STEP),
                gap_text(gap) if gap else "0 %" if name == VANILLA else "–",
            ]
        )
    rows += [pool_row(row) for row in part["ceilings"]["rows"] if row["name"] in POOLS]
    return table(["model", "seeds", *NEXT_STEP.values(), "gap closed"], rows)


def beyond_markov(row: Row) -> str:
    """Return a sentence on what the teacher adds to the pool of vanilla and Markov chain."""
    name = "next_step.nll"
    intervals = [
        f"{label} {ends(name, row[kind])}" for kind, label in (("seeds", "over seeds"), ("trips", "over test trips"))
    ]
    return (
        "Teacher beyond counting: added to the log-linear pool of vanilla and Markov chain, it changes the NLL by "
        f"{number(name, row['nll'], sign=True)} ({', '.join(intervals)})."
    )


def pool_row(row: Row) -> list[str]:
    nll = {"mean": row["nll"], "seeds": row["nll_seeds"], "trips": row["nll_trips"]}
    kind = str(row["kind"]).replace("_", "-")
    return [
        f"*{row['label']}, {kind} pool*",
        f"{row['num_fits']} fits",
        cell("next_step.nll", nll),
        "–",
        number("next_step.decision_accuracy", row["decision_accuracy"]),
        number("next_step.calibration_error", row["calibration_error"]),
        "100 %" if (row["name"], row["kind"]) == (CEILING, "log_linear") else "–",
    ]


def gap_text(gap: Row) -> str:
    interval = f" ({gap['seeds'][0]:.0%} to {gap['seeds'][1]:.0%})" if gap["seeds"] else ""
    return f"{gap['share']:.0%}{interval}"


def trips_table(results: Row, part: Row) -> list[str]:
    """Return the rows of generated trips: baselines, students, and the sampling floor."""
    rows = []
    for name, row in results["baselines"].items():
        cells = [cell(key, row["metrics"][key]) for key in TRIPS]
        rows.append([f"*{BASELINES[name].label}*", "–", *cells])
    if "own_markov" in part:
        row = part["own_markov"]
        cells = [cell(key, row["metrics"][key]) for key in TRIPS]
        rows.append(["*Markov chain of the student's own trips*", seeds_text(row["seeds"]), *cells])
    for name, row in part["rows"].items():
        cells = [cell(key, row["metrics"][key]) for key in TRIPS]
        rows.append([f"**{name}**", seeds_text(row["seeds"]), *cells])
    floors = {
        name: f"{floor['mean']:.4f} (95 %: {floor['quantile_95']:.4f})" for name, floor in results["floors"].items()
    }
    rows.append(["*sampling floor: real against real*", "–", *(floors.get(key, "–") for key in TRIPS)])
    return table(["model", "seeds", *TRIPS.values()], rows)


def baselines_table(part: Row) -> list[str]:
    """Return by recipe and metric the baselines that the recipe is better and worse than."""
    names = [name for name in TRIPS if name in AGAINST_BASELINES]
    rows = []
    for recipe, row in part["rows"].items():
        cells = []
        for name in names:
            words: dict[str, list[str]] = {}
            for baseline, difference in row["minus_baselines"].items():
                word = verdict(name, difference["metrics"][name]).split(",")[0]
                words.setdefault(word, []).append(BASELINE_LETTERS[baseline])
            found = [f"{word} {' '.join(words[word])}" for word in ("better", "worse", "not clear") if word in words]
            cells.append("; ".join(found))
        rows.append([f"**{recipe}**", seeds_text(row["seeds"]), *cells])
    return table(["recipe", "seeds", *(TRIPS[name] for name in names)], rows)


def difference_table(difference: Row, names: Collection[str]) -> list[str]:
    """Return the differences of a recipe in these metrics, with intervals and p-values."""
    rows = []
    for name, row in difference["metrics"].items():
        if name not in names:
            continue
        p = row.get("p_holm", row.get("p"))
        kind = "primary" if name in (PRIMARY_NEXT_STEP, PRIMARY_TRIP) else "Holm"
        rows.append(
            [
                LABELS[name],
                number(name, row["mean"], sign=True),
                ends(name, row["seeds"]),
                ends(name, row["trips"]),
                "–" if p is None else f"{p:.2g} ({kind}, over {row['p_over']})",
                verdict(name, row),
            ]
        )
    header = ["metric", "difference", "95 % over seeds", "95 % over test trips", "p", "verdict"]
    return table(header, rows)


def tried_table(part: Row) -> list[str]:
    """Return the settings that were compared on validation."""
    rows = []
    for recipe, tried in part["tried"].items():
        for place, row in enumerate(tried):
            settings = ", ".join(
                f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}"
                for key, value in row["settings"].items()
            )
            mark = " (chosen)" if place == 0 else ""
            rows.append(
                [recipe, settings, f"{row['val_nll']:.4f}{mark}", f"{row['best_epoch']} of {row['steps']} steps"]
            )
    return table(["recipe", "settings", "validation NLL", "best epoch"], rows)


def cost_table(part: Row) -> list[str]:
    """Return the costs of a student by recipe."""
    rows = []
    for name, row in part["rows"].items():
        cost = row["cost"]
        values = (cost.get(f"cost.{key}") for key in ("train_cpu_s", "train_s", "generate_cpu_s"))
        rows.append([name, *("–" if value is None else f"{value:.0f}" for value in values)])
    return table(["recipe", "training, s CPU", "training, s wall", "generation of all test trips, s CPU"], rows)


def sentences(results: Row) -> Iterator[tuple[str, str]]:
    """Yield the verdict and a sentence of each comparison on a primary metric."""
    for share, part in results["shares"].items():
        for name, row in part["rows"].items():
            place = f"{results['city']}, {percent(share)} of the trips, {name} ({seeds_text(row['seeds'])})"
            if "minus_vanilla" in row:
                for metric in (PRIMARY_NEXT_STEP, PRIMARY_TRIP) if name in students(part) else (PRIMARY_TRIP,):
                    yield finding(place, metric, row["minus_vanilla"], "vanilla")
            for baseline, label in (("markov", "the Markov chain's"), ("own_markov", "the own trips' Markov chain's")):
                if baseline in row["minus_baselines"]:
                    difference = row["minus_baselines"][baseline]
                    yield finding(place, PRIMARY_TRIP, difference, f"{label} most probable path")


def finding(place: str, metric: str, difference: Row, other: str) -> tuple[str, str]:
    row = difference["metrics"][metric]
    word = verdict(metric, row)
    text = (
        f"{place}: {LABELS[metric].split(',')[0]} {number(metric, row['mean'], sign=True)} against {other}: **{word}**"
    )
    over_seeds = f"over seeds {ends(metric, row['seeds'])}, " if row["seeds"] else ""
    return word, f"{text} ({over_seeds}over test trips {ends(metric, row['trips'])})."


def city_lines(results: Row) -> list[str]:
    """Return the section of a city."""
    city, trips = results["city"], results["trips"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    lines = [
        f"## {city}",
        "",
        (
            f"{trips['train']:,} training, {trips['val']:,} validation, {trips['test']:,} test trips "
            f"({results['test_steps']:,} test steps). Measured {results['date']}, {versions}."
        ),
        "",
        f"![Primary metrics by share of the trips, {city}](figures/{plot_name(results)})",
        "",
        (
            "A row for each model, the best on top. Thick pale lines: 95 % over seeds; thin lines: 95 % over test "
            "trips. Orange: vanilla; blue: recipes; gray: baselines; green: pools with the teacher (the ceiling, "
            "dashed) and with a Markov chain."
        ),
        "",
    ]
    for share, part in results["shares"].items():
        lines += [f"### {city}: {percent(share)} of the training trips", "", "Next steps:", ""]
        lines += [*next_step_table(results, part), beyond_markov(part["ceilings"]["teacher_beyond_markov"]), ""]
        lines += ["Trips of the same request, without anything added to the search unless the row names it:", ""]
        lines += trips_table(results, part)
        lines += [BASELINES_LEGEND, "", *baselines_table(part)]
        for name, row in part["rows"].items():
            if "minus_vanilla" in row:
                seeds = ", ".join(map(str, row["minus_vanilla"]["seeds"]))
                names = LABELS if name in students(part) else TRIPS
                lines += [f"{name} − vanilla, seeds {seeds}:", "", *difference_table(row["minus_vanilla"], names)]
        lines += ["Settings tried on validation, and costs of one student:", "", *tried_table(part), *cost_table(part)]
    return lines


def reproduce_lines(cities: Sequence[Row]) -> list[str]:
    """Return the commands; each row of the tables names its seeds."""
    lines = ["## How to reproduce it", "", "```sh", "export PORTO_DATA=/path/to/porto  # only for porto"]
    for results in cities:
        for share, part in results["shares"].items():
            of_seeds: dict[tuple[int, ...], list[str]] = {}
            for name, row in part["rows"].items():
                of_seeds.setdefault(tuple(row["seeds"]), []).append(name)
            for seeds, names in of_seeds.items():
                options = f"--shares {share} --recipes {' '.join(names)} --seeds {' '.join(map(str, seeds))}"
                lines.append(f"python benchmarks/experiment.py --city {results['city']} {options}")
    city, (share, part) = cities[0]["city"], list(cities[0]["shares"].items())[-1]
    cost = part["rows"][VANILLA]["cost"]
    seconds = cost["cost.train_cpu_s"] + cost["cost.generate_cpu_s"]
    lines += [f"python benchmarks/experiment.py --city {city} --only {VANILLA} {share} 0  # one student", "```", ""]
    return [
        *lines,
        (
            "The last command needs no teacher. It trains one student with the settings of the table, about "
            f"{seconds:.0f} s of CPU time with its trips, and prints its metrics beside the stored ones."
        ),
    ]


def plot_name(results: Row) -> str:
    """Return the name of a city's plot in docs/figures."""
    return f"results_{results['city']}.png"


def stored_cities() -> list[Row]:
    """Return the stored results of all cities."""
    stored = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    return [results for results in stored if "shares" in results and "city" in results]


def page(cities: Sequence[Row], reading: str, method: str) -> str:
    """Return the page as Markdown: interpretation, findings (negative ones first), method, and a section per city."""
    findings = [each for results in cities for each in sentences(results)]
    lines = ["# Results: what distillation brings", "", reading, "", "## Findings on the primary metrics", ""]
    for title, wanted in GROUPS.items():
        if texts := [f"- {text}" for word, text in findings if word == wanted]:
            lines += [f"{title}:", "", *texts, ""]
    lines += [method, "", *(line for results in cities for line in city_lines(results)), *reproduce_lines(cities)]
    return "\n".join(lines).rstrip() + "\n"


def write_page() -> None:
    """Write docs/results.md and its plots."""
    cities = stored_cities()
    for results in cities:
        (DOCS / "figures" / plot_name(results)).write_bytes(png(primary_plot(results)))
    texts = ((RESULTS / f"{name}.md").read_text(encoding="utf-8").strip() for name in ("reading", "method"))
    (DOCS / "results.md").write_text(page(cities, *texts), encoding="utf-8")


if __name__ == "__main__":
    write_page()
