"""Stage of the grid group: the token of every road."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np

from hoser_kd.common.arrays import Int64Array
from hoser_kd.common.device import pick_device
from hoser_kd.common.errors import DataError
from hoser_kd.common.files import write_json
from hoser_kd.grid import spec as grids
from hoser_kd.grid.spec import OCCUPIED_KEY, Grid, GridSpec, OccupiedCells
from hoser_kd.grid.token_table import cells_frame, coverage, resolution, token_table
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.network import load_network, load_trips

if TYPE_CHECKING:
    from hoser_kd.lmtad import LMTADCheckpoint
    from hoser_kd.network.road_network import RoadNetwork

_MAX_DRAWN_CELLS = 4_000_000
"""Larger grids have no map; table and metrics are written all the same."""


def grid_token_table(run: StageRun) -> dict[str, Any]:
    """Compute the token of every road in the teacher's grid; writes GeoParquet (roads, cells) and JSON (grid)."""
    network = load_network(run)
    centroids = gpd.read_parquet(run.path("road_centroids") / "road_centroids.parquet")
    if not np.array_equal(centroids["road_id"], np.arange(network.num_roads)):
        raise DataError(
            run.path("road_centroids"),
            "the centroids do not belong to the road network.",
            hint="Materialize road_centroids again.",
        )
    teacher = _imported_teacher(run)
    dataset_config = None if teacher is None else teacher.dataset_config
    grid = grids.choose_grid(
        run.config.grid, network, dataset_config, None if teacher is None else teacher.config.vocab_size
    )
    table = token_table(grid, network)
    tokens = table["token"].to_numpy()
    table.to_parquet(run.folder / "grid_token_table.parquet", compression="zstd")
    cells = cells_frame(grid, tokens)
    cells.to_parquet(run.folder / "grid_cells.parquet", compression="zstd")
    write_json(run.folder / "grid.json", describe_grid(grid))
    height, width = grid.shape
    spec = cell_grid(grid)
    if spec is not None and height * width <= _MAX_DRAWN_CELLS:
        from hoser_kd import plots

        roads_per_cell = np.bincount(table["row"] * width + table["column"], minlength=height * width).reshape(
            grid.shape
        )
        (run.folder / "cells.png").write_bytes(
            plots.png(plots.grid_map(network, spec.lat_edges, spec.lng_edges, roads_per_cell))
        )
    return {
        "kind": run.config.grid.kind,
        "bounds_from": grids.bounds_source(run.config.grid, dataset_config),
        "rows": height,
        "columns": width,
        "num_labels": grid.num_labels,
        "coverage": {**coverage(grid, table), "visits_inside": _visits_inside(table, load_trips(run, "train"))},
        "resolution": resolution(tokens, network, load_trips(run, "train")),
        **_alignment(run, teacher, grid, network),
    }


def _imported_teacher(run: StageRun) -> LMTADCheckpoint | None:
    if run.config.distill.ckpt_path is None:
        return None
    from hoser_kd.lmtad import load_checkpoint

    return load_checkpoint(run.config.distill.ckpt_path)


def _visits_inside(table: gpd.GeoDataFrame, trips: Trajectories) -> float:
    """Return the share of the trips' points whose road lies inside the grid."""
    clamped = table["clamped"].to_numpy()
    outside = sum(int(clamped[part.road_ids].sum()) for part in trips.chunks())
    return round(1 - outside / len(trips.road_ids), 6)


def _alignment(run: StageRun, teacher: LMTADCheckpoint | None, grid: Grid, network: RoadNetwork) -> dict[str, Any]:
    """Measure the grid's alignment with an imported teacher; not needed if the checkpoint contains its cells."""
    if teacher is None or not isinstance(grid, GridSpec):
        return {}
    from hoser_kd.lmtad import check_grid
    from hoser_kd.teacher.grid_alignment import alignment

    check_grid(teacher.config.vocab_size, grid.shape)
    result = alignment(
        teacher.model,
        grid,
        network.centroids,
        load_trips(run, "val"),
        device=pick_device(run.device),
        progress=run.progress,
    )
    return {} if result is None else {"alignment": result.metrics()}


def load_tokens(folder: Path) -> Int64Array:
    """Return the token of every road from a `grid_token_table` artifact, (N,) int64."""
    import pyarrow.parquet as pq

    tokens: Int64Array = pq.read_table(folder / "grid_token_table.parquet", columns=["token"])["token"].to_numpy()
    return tokens


def load_grid(run: StageRun) -> Grid:
    """Return the grid among the inputs of a run."""
    stored = json.loads((run.path("grid_token_table") / "grid.json").read_text(encoding="utf-8"))
    if stored.get("kind") == "roads":
        return grids.RoadTokens(load_network(run))
    occupied = stored.pop(OCCUPIED_KEY, None)
    spec = GridSpec(**stored)
    return spec if occupied is None else OccupiedCells(spec, np.asarray(occupied, np.int64))


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as JSON values: its parameters, and the occupied cells if only these have tokens."""
    spec = cell_grid(grid)
    if spec is None:
        return {"kind": "roads"}
    return asdict(spec) | ({OCCUPIED_KEY: grid.cells.tolist()} if isinstance(grid, OccupiedCells) else {})


def cell_grid(grid: Grid) -> GridSpec | None:
    """Return the cells of a grid; None if tokens are roads."""
    if isinstance(grid, OccupiedCells):
        return grid.spec
    return grid if isinstance(grid, GridSpec) else None
