"""Figure of docs/results.md: a panel for each primary metric and share of the trips, a row for each model.

Models stand at the axis by their names, the best on top; baselines are gray, the ceiling is a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from hoser_kd.evaluation.statistics import PRIMARY_NEXT_STEP, PRIMARY_TRIP
from hoser_kd.generation.baselines import BASELINES
from hoser_kd.plots import Point, primary_chart

Row = Mapping[str, Any]
VANILLA = "vanilla"
CEILING, CONTROL = "student_teacher", "student_markov"
COUNTING = {"frequency": "frequency", "markov_1": "Markov chain, order 1", "markov_2": "Markov chain, order 2"}
POOLS = {
    "ceiling": (CEILING, "ceiling: pool of vanilla and LM-TAD"),
    "control": (CONTROL, "control: pool with Markov chain"),
}
TITLES = {PRIMARY_NEXT_STEP: "NLL, nats", PRIMARY_TRIP: "EDR"}


def students(part: Row) -> list[str]:
    """Return the recipes without those that search the same students as an earlier one, whose next steps are equal."""
    first: dict[tuple[float, ...], str] = {}
    for name, row in part["rows"].items():
        first.setdefault(tuple(row["metrics"][PRIMARY_NEXT_STEP]["by_seed"]), name)
    return list(first.values())


def primary_plot(results: Row) -> Figure:
    """Plot the primary metrics: a line of panels for each share of the trips, the largest share first."""
    shares = sorted(results["shares"], key=float, reverse=True)
    panels = {
        f"{TITLES[metric]}, {float(share):.0%} of the trips (lower is better)": panel(results, share, metric)
        for share in shares
        for metric in TITLES
    }
    return primary_chart(panels, columns=len(TITLES))


def panel(results: Row, share: str, metric: str) -> list[Point]:
    """Return the models of a panel: recipes, baselines and, for next steps, ceiling and control."""
    part = results["shares"][share]
    names = students(part) if metric == PRIMARY_NEXT_STEP else list(part["rows"])
    recipes = [_point(name, name, part["rows"][name]["metrics"][metric]) for name in names]
    references = _next_step_references if metric == PRIMARY_NEXT_STEP else _trip_references
    return [*recipes, *references(results, part)]


def _point(name: str, label: str, row: Row) -> Point:
    kind = "vanilla" if name == VANILLA else "distilled"
    return Point(label, row["mean"], kind, _ends(row["trips"]), _ends(row["seeds"]))


def _next_step_references(results: Row, part: Row) -> Iterator[Point]:
    for name, label in COUNTING.items():
        yield Point(label, results["next_step_baselines"][name]["nll"], "baseline")
    pools = {row["name"]: row for row in part["ceilings"]["rows"] if row["kind"] == "log_linear"}
    for kind, (name, label) in POOLS.items():
        row = pools[name]
        yield Point(label, row["nll"], kind, _ends(row["nll_trips"]), _ends(row["nll_seeds"]))


def _trip_references(results: Row, part: Row) -> Iterator[Point]:
    rows = {BASELINES[name].label: row for name, row in results["baselines"].items()}
    if "own_markov" in part:
        rows["Markov chain of own trips"] = part["own_markov"]
    for label, row in rows.items():
        metric = row["metrics"][PRIMARY_TRIP]
        yield Point(label, metric["mean"], "baseline", _ends(metric["trips"]), _ends(metric["seeds"]))


def _ends(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])
