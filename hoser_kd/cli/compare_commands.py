"""The command `compare`: trained students over seeds, settings, versions and cities, as a table and as a page."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hoser_kd.cli.command import AddCommand
from hoser_kd.common.errors import ConfigError, StoreError
from hoser_kd.config.messages import nearest

if TYPE_CHECKING:
    from hoser_kd.report.runs import RunComparison, RunRecord


def add_compare_commands(command: AddCommand) -> None:
    """Add the commands for comparisons of runs."""
    compare = command(
        "compare", "Compare the trained students of artifact stores: settings that differ, metrics, curves.", _compare
    )
    compare.add_argument(
        "stores", nargs="*", help="folders of artifact stores (default: $HOSER_KD_STORE or data/)", metavar="STORE"
    )
    compare.add_argument("--dataset", nargs="+", help="only these cities", metavar="CITY")
    compare.add_argument("--student", choices=["vanilla", "distilled"], help="only this kind of student")
    compare.add_argument(
        "--where",
        nargs="+",
        default=[],
        help="only runs with these settings, such as student.learning_rate=0.001",
        metavar="KEY=VALUE",
    )
    compare.add_argument(
        "--reference", default="", help="version of a run, or its beginning: compare with its group (default: vanilla)"
    )
    compare.add_argument("--out", type=Path, default=Path("compare.html"), help="page to write (default: compare.html)")
    compare.add_argument("--csv", type=Path, help="CSV file to write: a row per run with all settings and metrics")


def _compare(options: argparse.Namespace) -> int:
    from hoser_kd.pipeline.run_records import run_records
    from hoser_kd.report.runs import compare_runs
    from hoser_kd.report.runs_page import write_runs_page

    stores = options.stores or [os.environ.get("HOSER_KD_STORE") or "data"]
    if remote := [store for store in stores if "://" in store]:
        raise StoreError(f"{remote[0]}: compare reads local stores only. Copy the store to a folder first.")
    found = [run for store in stores for run in run_records(Path(store), options.dataset)]
    # the same version in two stores is the same run
    runs = list({(run.city, run.student, run.seed, run.version, str(run.settings)): run for run in found}.values())
    runs = [run for run in runs if options.student in (None, run.student)]
    runs = _where(runs, options.where)
    if not runs:
        raise StoreError(f"{', '.join(stores)}: no trained student matches. Train one, or give fewer conditions.")
    if options.reference and not any(run.version.startswith(options.reference) for run in runs):
        raise ConfigError(f"--reference {options.reference}: no run has a version that begins so.")
    comparison = compare_runs(runs, options.reference)
    write_runs_page(options.out, comparison, stores)
    if options.csv is not None:
        _write_csv(options.csv, runs)
    sys.stdout.write("\n".join([*_table(comparison), f"  written: {options.out}"]) + "\n")
    return 0


def _where(runs: list[RunRecord], conditions: Sequence[str]) -> list[RunRecord]:
    """Return the runs that meet conditions such as `student.learning_rate=0.001`."""
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if not sign:
            raise ConfigError(f"--where {condition}: write KEY=VALUE, such as student.learning_rate=0.001.")
        known = {name for run in runs for name in run.settings}
        if runs and key not in known:
            raise ConfigError(f"--where {condition}: no run has a setting `{key}`.{nearest(key, sorted(known))}")
        runs = [run for run in runs if _same(run.settings.get(key), value)]
    return runs


def _same(text: str | None, value: str) -> bool:
    """Return whether two texts are equal, or equal as numbers."""
    try:
        return text is not None and (text == value or float(text) == float(value))
    except ValueError:
        return False


def _table(comparison: RunComparison) -> Iterator[str]:
    """Yield the lines of the short table: a line per group with its settings and its main metrics."""
    from hoser_kd.report.runs import ABSENT, value_of
    from hoser_kd.report.runs_page import format_interval

    metrics = comparison.shown
    header = ["city", "student", *(column.rpartition(".")[2] for column in comparison.columns), "seeds"]
    rows = [[*header, *(metric.name for metric in metrics)]]
    for group in comparison.groups:
        cells = [group.first.city, group.first.student + " *" * group.is_reference]
        cells += [value_of(group, column) for column in comparison.columns]
        cells.append(" ".join(str(run.seed) for run in group.runs))
        intervals = (group.intervals.get(metric.name) for metric in metrics)
        cells += [
            ABSENT if interval is None else format_interval(metric, interval)
            for metric, interval in zip(metrics, intervals, strict=True)
        ]
        rows.append(cells)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield "  * reference of the city; ± is half of the 95 % interval over the seeds"


def _write_csv(path: Path, runs: Sequence[RunRecord]) -> None:
    import pandas as pd

    from hoser_kd.common.files import atomic_path

    rows = [
        {
            "city": run.city,
            "student": run.student,
            "seed": run.seed,
            "version": run.version,
            "created_at": run.created_at,
            **run.settings,
            **run.metrics,
        }
        for run in runs
    ]
    with atomic_path(path) as beside:
        pd.DataFrame(rows).to_csv(beside, index=False)
