"""Tokens of a city's roads, coverage of the grid, and its resolution at choices of the next road.

Shapes: H rows, W columns, N roads, P points of all trajectories, n trajectories.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely

from hoser_kd.common.arrays import Int64Array, row_of_value, take_rows
from hoser_kd.common.errors import ConfigError
from hoser_kd.grid.spec import Cells, Grid, GridSpec, OccupiedCells, RoadTokens
from hoser_kd.network.road_network import CRS_WGS84, RoadNetwork
from hoser_kd.network.trajectories import Trajectories


def token_table(grid: Grid, network: RoadNetwork) -> gpd.GeoDataFrame:
    """Return road_id, row, column, token, clamped and the center as a Point, one row per road, EPSG:4326.

    Raises ConfigError if a road lies in a cell without a token.
    """
    lat, lng = network.centroids.T
    if not isinstance(grid, RoadTokens):
        cells = (grid if isinstance(grid, GridSpec) else grid.spec).cell_of(lat, lng)
    else:
        road_ids = np.arange(network.num_roads, dtype=np.int64)
        cells = Cells(np.zeros_like(road_ids), road_ids, np.zeros(len(road_ids), bool))
    token = cells.row * grid.shape[1] + cells.column
    if isinstance(grid, OccupiedCells):
        token = _tokens_of_cells(grid, token)
    table = {
        "road_id": np.arange(network.num_roads),
        "row": cells.row,
        "column": cells.column,
        "token": token,
        "clamped": cells.clamped,
    }
    return gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(lng, lat), crs=CRS_WGS84)


def _tokens_of_cells(grid: OccupiedCells, cells: Int64Array) -> Int64Array:
    """Return the index of each cell in the list of cells. Raises ConfigError if a road lies in none of them."""
    token = np.minimum(np.searchsorted(grid.cells, cells), len(grid.cells) - 1)
    unknown = grid.cells[token] != cells
    if unknown.any():
        raise ConfigError(
            f"{int(unknown.sum())} roads, for example road {int(np.argmax(unknown))}, lie in cells for which the "
            "teacher has no token. It was trained on another road network; train a teacher on this one."
        )
    return token


def cells_frame(grid: Grid, tokens: Int64Array) -> gpd.GeoDataFrame:
    """Return token, row, column, roads (their number) and geometry of every cell with a road, EPSG:4326.

    `tokens` is (N,) int64, the token of each road. The geometry is the cell's rectangle, or the road's line if each
    road is a token.
    """
    occupied, roads = np.unique(tokens, return_counts=True)
    row, column = np.divmod(grid.cells[occupied] if isinstance(grid, OccupiedCells) else occupied, grid.shape[1])
    if not isinstance(grid, RoadTokens):
        spec = grid if isinstance(grid, GridSpec) else grid.spec
        lat, lng = spec.lat_edges, spec.lng_edges
        shapes = shapely.box(lng[column], lat[row], lng[column + 1], lat[row + 1])
    else:
        shapes = grid.network.geometry[occupied]
    table = {"token": occupied, "row": row, "column": column, "roads": roads}
    return gpd.GeoDataFrame(table, geometry=shapes, crs=CRS_WGS84)


def coverage(grid: Grid, table: gpd.GeoDataFrame) -> dict[str, float | int]:
    """Return metrics of how well a grid covers the roads of a `token_table`.

    Keys: roads, share_inside, clamped (roads outside), cells (H · W), occupied_cells, and roads_per_cell_mean, _median,
    _p90, _p99 and _max over the occupied cells; in_remainder (see `GridSpec.in_remainder`) if it is above 0.
    """
    roads_per_cell = np.unique(table["token"].to_numpy(), return_counts=True)[1]
    clamped = int(table["clamped"].sum())
    spec = grid.spec if isinstance(grid, OccupiedCells) else grid
    remainder = int(spec.in_remainder(table.geometry.y, table.geometry.x).sum()) if isinstance(spec, GridSpec) else 0
    median, p90, p99 = (float(value) for value in np.percentile(roads_per_cell, [50, 90, 99]))
    return {
        "roads": len(table),
        "share_inside": 1 - clamped / len(table),
        "clamped": clamped,
        "cells": grid.shape[0] * grid.shape[1],
        "occupied_cells": len(roads_per_cell),
        "roads_per_cell_mean": float(roads_per_cell.mean()),
        "roads_per_cell_median": median,
        "roads_per_cell_p90": p90,
        "roads_per_cell_p99": p99,
        "roads_per_cell_max": int(roads_per_cell.max()),
        **({"in_remainder": remainder} if remainder else {}),
    }


def resolution(tokens: Int64Array, network: RoadNetwork, trajectories: Trajectories) -> dict[str, float | int]:
    """Return how well the tokens distinguish the candidates of a step.

    `tokens` is (N,) int64, the token of each road. Keys: steps, choices (steps with two or more candidates), and as
    shares of the choices: distinguishable_share (the candidates have more than one token), all_distinguishable_share
    (all candidates have different tokens), label_distinguishable_share (no other candidate has the token of the road
    taken). Shares are 1.0 if there are no choices.
    """
    counts = np.sum([_resolution_counts(tokens, network, part) for part in trajectories.chunks()], axis=0, dtype=int)
    steps, choices, *shares = [0] * 5 if len(trajectories.road_ids) == 0 else counts.tolist()
    names = ("distinguishable_share", "all_distinguishable_share", "label_distinguishable_share")
    return {
        "steps": steps,
        "choices": choices,
        **{name: count / choices if choices else 1.0 for name, count in zip(names, shares, strict=True)},
    }


def _resolution_counts(tokens: Int64Array, network: RoadNetwork, trajectories: Trajectories) -> Int64Array:
    """Return (5,) int64: steps, choices, and the choices in each of the shares of `resolution`."""
    position, _ = trajectories.step_positions()
    road, following = trajectories.road_ids[position], trajectories.road_ids[position + 1]
    is_choice = network.successors.degrees[road] >= 2
    offsets, at = take_rows(network.successors.indptr, road[is_choice])
    choice, token = row_of_value(offsets), tokens[network.successors.indices[at]]
    count = len(offsets) - 1

    num_tokens = int(tokens.max(initial=0)) + 1
    cells = np.sort(choice * num_tokens + token)
    num_repeats = np.bincount(cells[1:][np.diff(cells) == 0] // num_tokens, minlength=count)
    like_label = np.bincount(choice[token == tokens[following[is_choice]][choice]], minlength=count)
    flags = (num_repeats < np.diff(offsets) - 1, num_repeats == 0, like_label == 1)
    return np.array([len(road), count, *(flag.sum() for flag in flags)], np.int64)


def corpus_tokens(tokens: Int64Array, trajectories: Trajectories) -> tuple[Int64Array, Int64Array]:
    """Return (n + 1,) offsets and (P,) tokens of the trajectories, both int64, without special tokens.

    Consecutive roads in one cell repeat its token, as in LM-TAD. `tokens` is (N,) int64, the token of each road.
    """
    return trajectories.offsets, tokens[trajectories.road_ids]
