"""The results of a city, docs/results/<city>.json: rows of the runs that there are, and stored rows of the others.

The artifact store may have fewer students than the rows describe, because another machine trained them. A row stays as
it was stored until the runs, of the store and the committed ones (experiment_runs.py), have as many seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiment_rows import difference_of, gap_of, row_of
from experiment_runs import RecipeRuns, Run
from results_plot import VANILLA

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.files import atomic_path

Content = Mapping[str, Any]
SAME = ("trips", "test_steps", "base_settings")
"""Keys of results that must be equal for stored rows and runs to stand beside new ones."""


class ShareRuns(NamedTuple):
    """All that was measured at a share of the trips."""

    share: str
    """Share of the training trips."""
    recipes: Mapping[str, RecipeRuns]
    """Runs of the store and committed ones, merged."""
    own_markov: Mapping[int, Run]
    """Markov chains of the trips of each seed; empty at the share 1."""
    tried: Mapping[str, list[dict[str, Any]]]
    """Tries on validation by recipe, of the store."""
    ceilings: Content | None
    """Of the vanilla students of the store, which alone has their probabilities (`ceilings_of`)."""


def stored_results(file: Path, expected: Content) -> dict[str, Any]:
    """Return the results of a city; without shares if there is no file.

    Raises ConfigError where the stored results are of other trips or settings of the city than expected.
    """
    if not file.is_file():
        return {"shares": {}}
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for key in SAME:
        if stored[key] != expected[key]:
            raise ConfigError(
                f"{file}: the stored results have {key} {stored[key]}, this run has {expected[key]}, so that rows "
                f"of both are not comparable. Delete the file and runs/{file.stem} beside it to start over."
            )
    return stored


def write_file(file: Path, content: Content) -> None:
    """Write results atomically."""
    with atomic_path(file) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def share_results(stored: Content, new: ShareRuns, baselines: Mapping[str, Run], date: str) -> dict[str, Any]:
    """Return the rows, ceilings and tries of a share of the trips, `stored` being what the results have; may be empty.

    Raises ConfigError where neither has a vanilla student.
    """
    ceilings = merged_ceilings(_stored_ceilings(stored, new.recipes), new.ceilings)
    if ceilings is None:
        raise ConfigError(f"share {new.share}: no vanilla student to compare with. Add {VANILLA} to --recipes.")
    old_rows = stored.get("rows", {})
    rows = {}
    for name in dict.fromkeys([*old_rows, *new.recipes]):
        old, recipe = old_rows.get(name), new.recipes.get(name)
        if recipe is None or (old and _has_more(old, recipe, _runs(new, VANILLA))):
            rows[name] = old
        else:
            rows[name] = _dated(old, _row(name, recipe, new, baselines, ceilings), date)
    results: dict[str, Any] = {"tried": {**stored.get("tried", {}), **new.tried}, "rows": rows}
    if own := _own_markov(stored.get("own_markov"), new.own_markov, date):
        results["own_markov"] = own
    return {**results, "ceilings": ceilings}


def merged_ceilings(old: Content | None, new: Content | None) -> Content | None:
    """Return the ceilings of more seeds, the new ones of equally many, with the NLL by seed of both."""
    if old is None or new is None:
        return old or new
    larger = old if len(old["seeds"]) > len(new["seeds"]) else new
    by_seed = {name: {**old["nll_by_seed"][name], **new["nll_by_seed"][name]} for name in new["nll_by_seed"]}
    return {**larger, "nll_by_seed": by_seed}


def _row(
    name: str, recipe: RecipeRuns, share: ShareRuns, baselines: Mapping[str, Run], ceilings: Content
) -> dict[str, Any]:
    """Return the row of a recipe: its metrics, and its differences from the baselines and vanilla."""
    runs, vanilla = recipe.runs, _runs(share, VANILLA)
    row = {**row_of(runs), "settings": recipe.settings}
    row["minus_baselines"] = {
        each: difference_of(runs, {0: baseline}, baseline=True) for each, baseline in baselines.items()
    }
    if set(runs) & set(share.own_markov):
        row["minus_baselines"]["own_markov"] = difference_of(runs, share.own_markov)
    if name != VANILLA and set(runs) & set(vanilla):
        row["minus_vanilla"] = difference_of(runs, vanilla)
        row["gap_closed"] = gap_of(runs, vanilla, ceilings)
    return row


def _runs(share: ShareRuns, recipe: str) -> Mapping[int, Run]:
    return share.recipes[recipe].runs if recipe in share.recipes else {}


def _has_more(old: Content, recipe: RecipeRuns, vanilla: Mapping[int, Run]) -> bool:
    """Return whether a stored row of the same settings has more seeds than the runs, alone or paired with vanilla."""
    paired = len(old["minus_vanilla"]["seeds"]) if "minus_vanilla" in old else 0
    has_more = len(old["seeds"]) > len(recipe.runs) or paired > len(set(recipe.runs) & set(vanilla))
    return has_more and bool(old["settings"] == recipe.settings)


def _dated(old: Content | None, new: dict[str, Any], date: str) -> Content:
    """Return a new row with its date, which is that of the old row if all else is equal."""
    if old and {key: value for key, value in old.items() if key != "date"} == new:
        return old
    return {**new, "date": date}


def _own_markov(old: Content | None, runs: Mapping[int, Run], date: str) -> Content | None:
    """Return the row of the Markov chains of a student's own trips; the stored one where it has more seeds."""
    if not runs or (old and len(old["seeds"]) > len(runs)):
        return old
    return _dated(old, row_of(runs), date)


def _stored_ceilings(stored: Content, recipes: Mapping[str, RecipeRuns]) -> Content | None:
    """Return the stored ceilings; None if there are none, or if the settings of vanilla changed."""
    row = stored.get("rows", {}).get(VANILLA)
    if row and VANILLA in recipes and recipes[VANILLA].settings != row["settings"]:
        return None
    ceilings: Content | None = stored.get("ceilings")
    return ceilings
