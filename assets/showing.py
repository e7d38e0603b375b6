"""Dagster metadata of artifacts and checks: metrics, tables, column schemas, figures, links, path, size and time."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pyarrow.parquet as pq

from assets.addresses import files_address, tensorboard_address
from assets.run_table import run_table
from hoser_kd.pipeline.check import Check, CheckResult
from hoser_kd.pipeline.store import Artifact

_MAX_ROWS = 50


def show(artifact: Artifact) -> dict[str, Any]:
    """Return the metadata of an artifact: its summary, table schemas and PNG files.

    The UI shows the entries in this order: the city, the verdict, links, the comparison, then everything else.
    """
    short = {name: value for name, value in artifact.summary.items() if isinstance(value, bool | int | float | str)}
    metadata: dict[str, Any] = {
        **_first(artifact),
        **_links(artifact),
        **{name: _entry(value) for name, value in _results(artifact).items()},
        **{name: _entry(value) for name, value in short.items() if name != "verdict"},
        "version": artifact.version,
        "path": dg.MetadataValue.path(str(artifact.path)),
        "size_mib": round(artifact.size_bytes / 2**20, 3),
        "seconds": artifact.seconds,
        "created_at": artifact.created_at,
        **_commands(artifact),
        **{name: _entry(value) for name, value in artifact.summary.items() if name not in short},
    }
    tables = sorted(artifact.path.glob("*.parquet"))
    for table in tables:
        schema = _columns(table)
        # the UI draws the columns above all metadata, and those of a report's trips would hide its verdict
        main = table.stem == artifact.stage or (len(tables) == 1 and "verdict" not in artifact.summary)
        metadata["dagster/column_schema" if main else f"columns of {table.name}"] = schema
        if main:
            metadata["dagster/row_count"] = pq.read_metadata(table).num_rows
    for figure in sorted(artifact.path.glob("*.png")):
        metadata[figure.stem] = figure_entry(figure.stem, figure.read_bytes())
    return metadata


def _first(artifact: Artifact) -> dict[str, Any]:
    """Return what names the artifact, and the verdict of a report; as text, which the UI shows without a click."""
    named: dict[str, Any] = {"city": artifact.city}
    if artifact.seed is not None:
        named["seed"] = artifact.seed
    return named | (_verdict(artifact.summary["verdict"]) if "verdict" in artifact.summary else {})


def _verdict(text: str) -> dict[str, str]:
    """Return the verdict on each task by itself, then the whole text.

    The tables below make the column of values wider than the page, so that only the start of a long text is visible.
    """
    tasks = re.match(r"Next road: (?P<next_road>.+?)\. Trips: (?P<trips>.+)", text)
    return {**(tasks.groupdict() if tasks else {}), "verdict": text}


def _results(artifact: Artifact) -> dict[str, Any]:
    """Return the tables that a person looks for first: the comparison, and for a report all runs of its city."""
    tables = {name: artifact.summary[name] for name in ("comparison",) if name in artifact.summary}
    if artifact.stage == "distillation_report" and (rows := run_table(artifact.path.parents[2], artifact.city)):
        tables["all_runs"] = rows
    return tables


def show_check(result: CheckResult, place: str = "") -> dict[str, Any]:
    """Return the metadata of a check result: its metrics and, on failure, the table and the figure that locate it.

    `place`, the city and the seed, precedes the names of metrics: Dagster draws one plot per name over all partitions.
    """
    before = f"{place}: " if place else ""
    metadata: dict[str, Any] = {f"{before}{name}": _entry(value) for name, value in result.metrics.items()}
    if result.evidence is not None and result.evidence.rows:
        metadata["where"] = table_entry(list(result.evidence.rows))
    if result.evidence is not None and result.evidence.figure is not None:
        metadata["picture"] = figure_entry(result.name, result.evidence.figure)
    return metadata


def asset_check_result(check: Check, result: CheckResult, city: str, seed: int | None) -> dg.AssetCheckResult:
    """Return the result of a check for Dagster, whose check page mixes all cities: everything begins with the city."""
    place = city if seed is None else f"{city}, seed {seed}"
    which: dict[str, Any] = {"city": city} if seed is None else {"city": city, "seed": seed}
    return dg.AssetCheckResult(
        check_name=result.name,
        passed=result.passed,
        description=f"{place}: {result.message}",
        metadata=which | show_check(result, place),
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
    )


def _links(artifact: Artifact) -> dict[str, Any]:
    """Return the links to report, files and TensorBoard."""
    links: dict[str, Any] = {}
    address = f"{files_address()}/{artifact.city}/{artifact.name}/{artifact.version}"
    if (artifact.path / "report.html").is_file():
        links["report"] = dg.MetadataValue.url(f"{address}/report.html")
    if (artifact.path / "map.html").is_file():
        links["map"] = dg.MetadataValue.url(f"{address}/map.html")
    for figure in sorted(artifact.path.glob("*.png")):
        # the UI hides Markdown behind a button; a link opens the figure with one click
        links[f"{figure.stem} (file)"] = dg.MetadataValue.url(f"{address}/{figure.name}")
    links["files"] = dg.MetadataValue.url(f"{address}/")
    if (artifact.path / "tensorboard").is_dir():
        # TensorBoard runs over the whole store and names a run by its path below the root
        run_filter = quote(f"^{re.escape(f'{artifact.city}/{artifact.name}/{artifact.version}/')}", safe="")
        links["tensorboard"] = dg.MetadataValue.url(f"{tensorboard_address()}/?runFilter={run_filter}#timeseries")
    return links


def _commands(artifact: Artifact) -> dict[str, str]:
    """Return the command that opens the curves where `make dev` is not running."""
    if not (artifact.path / "tensorboard").is_dir():
        return {}
    return {"tensorboard_command": f"tensorboard --logdir {_stage_folder(artifact.path)}"}


def _stage_folder(folder: Path) -> Path:
    """Return the folder of the stage, so that TensorBoard shows all its versions and seeds together."""
    return folder.parent.parent if folder.parent.name.startswith("seed-") else folder.parent


def _entry(value: Any) -> Any:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return table_entry(value)
    return dg.MetadataValue.json(_json(value))


def _json(value: Any) -> Any:
    """Replace non-finite numbers by text, since JSON in a browser has none."""
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table_entry(rows: list[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return rows as a table; of many rows the last ones."""
    shown = rows if len(rows) <= _MAX_ROWS else rows[-_MAX_ROWS:]
    names = list(dict.fromkeys(key for row in shown for key in row))
    # Dagster requires the same fields in all records
    records = [dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in shown]
    kinds = {name: "string" if any(isinstance(row.get(name), str) for row in shown) else "float" for name in names}
    schema = dg.TableSchema([dg.TableColumn(name, kinds[name]) for name in names])
    return dg.MetadataValue.table(records, schema)


def _cell(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _columns(table: Path) -> dg.TableSchema:
    schema = pq.read_schema(table)
    return dg.TableSchema([dg.TableColumn(field.name, str(field.type)) for field in schema])


def figure_entry(name: str, png: bytes) -> dg.MarkdownMetadataValue:
    """Return a PNG as an image that the UI shows."""
    data = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![{name.replace('_', ' ')}](data:image/png;base64,{data})")
