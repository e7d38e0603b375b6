"""What commands print about an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hoser_kd.common.progress import duration
from hoser_kd.pipeline.store import Artifact


def describe(artifact: Artifact, tables: list[str] | None = None) -> str:
    """Return the lines for an artifact; `tables` are the lines of the comparison, by default that of its summary."""
    head = (
        f"{artifact.name} of {artifact.city}, version {artifact.version}, materialized {artifact.created_at} "
        f"in {duration(artifact.seconds)}"
    )
    lines = [f"  {key}: {value}" for key, value in artifact.summary.items() if isinstance(value, int | float | str)]
    lines += [
        f"  {key}: " + ", ".join(f"{name} {_short(number)}" for name, number in value.items())
        for key, value in artifact.summary.items()
        if isinstance(value, Mapping) and value
    ]
    lines += _comparison(artifact) if tables is None else tables
    page = artifact.path / "report.html"
    return "\n".join([head, *lines, f"  files: {page if page.is_file() else artifact.path}"]) + "\n"


def _comparison(artifact: Artifact) -> list[str]:
    """Return the tables of the summary, such as students, or students and baselines."""
    lines: list[str] = []
    for rows in (artifact.summary.get(key) for key in ("comparison", "next_step", "baselines", "next_step_baselines")):
        if isinstance(rows, list) and rows and "metric" in rows[0]:
            columns = {column: {row["metric"]: row[column] for row in rows} for column in rows[0] if column != "metric"}
            lines += metric_table(columns, [row["metric"] for row in rows])
    return lines


def metric_table(columns: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> list[str]:
    """Return the lines of a table: a row per metric, a column per student, baseline or generator."""
    widths = {column: max(len(column) + 2, 12) for column in columns}
    lines = ["", f"  {'metric on test trips':<34}" + "".join(f"{column:>{widths[column]}}" for column in columns)]
    for name in names:
        cells = (f"{values[name]:.4f}" if name in values else "–" for values in columns.values())
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths.values(), strict=True))
        lines.append(f"  {name:<34}{row}")
    return lines


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
