"""A city's roads in a teacher's grid: the token of each, how they crowd the cells, and what is seen of choices.

Shapes: H rows, W columns, N roads, P points of all trajectories together.
"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely

from hoser_kd.common.arrays import BoolArray, Int64Array, row_of_value, take_rows
from hoser_kd.common.errors import ConfigError
from hoser_kd.grid.spec import Cells, Grid, GridSpec, OccupiedCells, RoadTokens
from hoser_kd.network.road_network import CRS_WGS84, RoadNetwork
from hoser_kd.network.trajectories import Trajectories


def token_table(grid: Grid, network: RoadNetwork) -> gpd.GeoDataFrame:
    """Return road_id, row, column, token, clamped and the center as a Point, one row a road, EPSG:4326."""
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
    """Number cells by their place in the list. Raises ConfigError where a road lies in none of them."""
    token = np.minimum(np.searchsorted(grid.cells, cells), len(grid.cells) - 1)
    unknown = grid.cells[token] != cells
    if unknown.any():
        raise ConfigError(
            f"{int(unknown.sum())} roads, the first of them road {int(np.argmax(unknown))}, lie in cells "
            "that the teacher has no token for. It was trained on another road network: train one here."
        )
    return token


def cells_frame(grid: Grid, tokens: Int64Array) -> gpd.GeoDataFrame:
    """Return token, row, column, roads (how many) and the shape of every cell that has a road, EPSG:4326.

    `tokens` is (N,) int64, a token for each road. The shape is the cell's rectangle, or the road's line where each
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
    """Return how well a grid and the roads of a `token_table` fit, as figures worth showing.

    Keys: roads, share_inside, clamped (roads), cells (H · W), occupied_cells, and roads_per_cell_mean, _median, _p90,
    _p99 and _max over the occupied cells.
    """
    crowd = np.unique(table["token"].to_numpy(), return_counts=True)[1]
    clamped = int(table["clamped"].sum())
    median, p90, p99 = (float(value) for value in np.percentile(crowd, [50, 90, 99]))
    return {
        "roads": len(table),
        "share_inside": 1 - clamped / len(table),
        "clamped": clamped,
        "cells": grid.shape[0] * grid.shape[1],
        "occupied_cells": len(crowd),
        "roads_per_cell_mean": float(crowd.mean()),
        "roads_per_cell_median": median,
        "roads_per_cell_p90": p90,
        "roads_per_cell_p99": p99,
        "roads_per_cell_max": int(crowd.max()),
    }


def resolution(tokens: Int64Array, network: RoadNetwork, trajectories: Trajectories) -> dict[str, float | int]:
    """Return how much of the next-road choice the teacher can see through its cells.

    `tokens` is (N,) int64. Keys: steps, choices (steps with two candidates or more), and as shares of the choices:
    distinguishable_share (the candidates are not all in one cell), all_apart (no two share a cell), label_apart (the
    road that was taken shares its cell with no other candidate). Shares are 1.0 where there is no choice.
    """
    position, _ = trajectories.step_positions()
    road, following = trajectories.road_ids[position], trajectories.road_ids[position + 1]
    is_choice = network.successors.degrees[road] >= 2
    offsets, at = take_rows(network.successors.indptr, road[is_choice])
    choice, token = row_of_value(offsets), tokens[network.successors.indices[at]]
    count = len(offsets) - 1

    order = np.lexsort((token, choice))
    repeats = (np.diff(token[order]) == 0) & (np.diff(choice[order]) == 0)
    num_repeats = np.bincount(choice[order][1:][repeats], minlength=count)
    like_label = np.bincount(choice[token == tokens[following[is_choice]][choice]], minlength=count)

    def share(rows: BoolArray) -> float:
        return float(rows.mean()) if count else 1.0

    return {
        "steps": len(road),
        "choices": count,
        "distinguishable_share": share(num_repeats < np.diff(offsets) - 1),
        "all_apart": share(num_repeats == 0),
        "label_apart": share(like_label == 1),
    }


def corpus_tokens(tokens: Int64Array, trajectories: Trajectories) -> tuple[Int64Array, Int64Array]:
    """Return (n + 1,) offsets and (P,) tokens of the trajectories, both int64, without special tokens.

    A repeated cell stays repeated, as LM-TAD has it. `tokens` is (N,) int64, a token for each road.
    """
    return trajectories.offsets, tokens[trajectories.road_ids]
