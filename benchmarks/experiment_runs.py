"""Runs of the experiment as tables that are committed: what rows and intervals of docs/results need of each run.

A file per share and recipe, docs/results/runs/<city>/<share>/<recipe>.parquet, so that a change of one recipe rewrites
one file of some 30 kB; `baselines` and `own_markov` are beside the shares. Rows: a seed and a test trip; columns:
`<metric>:totals` and `<metric>:counts`; the metadata `runs` has the settings and, by seed, the metrics, as JSON.
Columns are float32 where that is exact (`experiment_rows.ROUNDED`), so that rows of a file equal those of the store.

Shapes: n test trips.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hoser_kd.common.arrays import Float64Array
from hoser_kd.common.files import atomic_path
from hoser_kd.evaluation.trip_values import TripValues

BASELINES, OWN_MARKOV = "baselines", "own_markov"
_METADATA = "runs"
_ZSTD_LEVEL = 19


class Run(NamedTuple):
    """What rows need of one student or baseline."""

    metrics: dict[str, float]
    """By `section.metric`; costs and weights of the prior too."""
    trips: dict[str, TripValues]
    """Totals and counts of each test trip, (n,), by metric."""


@dataclass(frozen=True)
class RecipeRuns:
    """Runs of one recipe with the same settings."""

    settings: dict[str, Any]
    """The changes of the city's settings that all runs have."""
    runs: dict[int, Run] = field(default_factory=dict)
    """By seed, in increasing order."""

    def merged(self, newer: RecipeRuns | None) -> RecipeRuns:
        """Return these runs and newer ones, which replace those of the same seed, or all where settings differ."""
        if newer is None or not newer.runs:
            return self
        runs = {**self.runs, **newer.runs} if self.settings == newer.settings else newer.runs
        return RecipeRuns(newer.settings, dict(sorted(runs.items())))

    def save(self, file: Path) -> None:
        """Write all runs to one file, atomically; a file with the same content stays as it is.

        Raises ValueError where two runs have values of other metrics, or of other numbers of test trips.
        """
        columns = _columns(self.runs)
        about = {"settings": self.settings, "metrics": {seed: run.metrics for seed, run in self.runs.items()}}
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(about)})
        if file.is_file() and pq.read_table(file).equals(table, check_metadata=True):
            return
        split = [name for name, values in columns.items() if name.endswith(":totals") and values.itemsize == 4]
        with atomic_path(file) as beside:
            pq.write_table(
                table,
                beside,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=[name for name in columns if name not in {"trip", *split}],
                use_byte_stream_split=split,
            )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        table = pq.read_table(file)
        about = json.loads(table.schema.metadata[_METADATA.encode()])
        seeds = table["seed"].to_numpy()
        columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
        names = [name.removesuffix(":totals") for name in columns if name.endswith(":totals")]
        runs = {}
        for seed, metrics in about["metrics"].items():
            rows = seeds == int(seed)
            trips = {
                name: TripValues(columns[f"{name}:totals"][rows], columns[f"{name}:counts"][rows]) for name in names
            }
            runs[int(seed)] = Run(metrics, trips)
        return cls(about["settings"], runs)


class RunFiles:
    """The committed runs of a city: groups, which are shares, `BASELINES` and `OWN_MARKOV`, of recipes by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shares(self) -> list[str]:
        """Return the shares that have runs."""
        return sorted({file.parent.name for file in self.folder.glob("*/*.parquet")} - {BASELINES, OWN_MARKOV})

    def read(self, group: str) -> dict[str, RecipeRuns]:
        """Return the runs of a group by recipe."""
        return {file.stem: RecipeRuns.load(file) for file in sorted((self.folder / group).glob("*.parquet"))}

    def write(self, group: str, recipes: Mapping[str, RecipeRuns]) -> None:
        """Write the runs of recipes; files of other recipes stay."""
        for name, each in recipes.items():
            each.save(self.folder / group / f"{name}.parquet")


def merge_runs(committed: Mapping[str, RecipeRuns], newer: Mapping[str, RecipeRuns]) -> dict[str, RecipeRuns]:
    """Return all runs by recipe: newer ones replace committed ones (`RecipeRuns.merged`)."""
    return {
        name: committed[name].merged(newer.get(name)) if name in committed else newer[name]
        for name in dict.fromkeys([*committed, *newer])
    }


def seeds_of(recipes: Iterable[RecipeRuns]) -> list[int]:
    """Return the seeds of any of the recipes."""
    return sorted({seed for each in recipes for seed in each.runs})


def _columns(runs: Mapping[int, Run]) -> dict[str, Any]:
    """Return the columns of the table, seed after seed."""
    [first, *others] = runs.values()
    shape = {name: len(values.totals) for name, values in first.trips.items()}
    if any({name: len(values.totals) for name, values in run.trips.items()} != shape for run in others):
        raise ValueError(f"runs of seeds {', '.join(map(str, runs))} have other metrics or numbers of test trips")
    [num_trips] = set(shape.values())
    columns: dict[str, Any] = {
        "seed": np.repeat(np.array(list(runs), np.int32), num_trips),
        "trip": np.tile(np.arange(num_trips, dtype=np.int32), len(runs)),
    }
    for name in first.trips:
        for part in TripValues._fields:
            values = [getattr(run.trips[name], part) for run in runs.values()]
            columns[f"{name}:{part}"] = _narrow(np.concatenate(values))
    return columns


def _narrow(values: Float64Array) -> npt.NDArray[Any]:
    """Return the values as float32 if that changes none of them."""
    narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values
