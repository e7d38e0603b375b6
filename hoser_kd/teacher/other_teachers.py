"""Further teachers of a pool: LM-TAD checkpoints, each with the grid that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.config.grid import GridConfig
from hoser_kd.grid.spec import choose_grid
from hoser_kd.grid.token_table import token_table
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.teacher.online_teacher import OnlineTeacher

if TYPE_CHECKING:
    from os import PathLike

    import geopandas as gpd
    import torch

    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.teacher.history_encoding import Window


def load_other_teacher(
    path: str | PathLike[str],
    network: RoadNetwork,
    window: Window = "full",
    *,
    device: torch.device | str | None = None,
    half: bool = False,
    min_share_inside: float = 0.9,
) -> OnlineTeacher:
    """Return a teacher that scores the trips of this network through the grid in its own checkpoint.

    `path`: a published file, or a folder such as a `teacher` artifact. It may have other cells than the city's teacher,
    one token per road, or trips of another city if its grid contains this one. `min_share_inside`: smallest share of
    the roads inside its grid; the others get the token of the nearest cell, as published.

    Raises:
        CheckpointError: the file is no checkpoint, does not contain its grid, the grid has no token for a road, or too
            few roads lie inside it.
    """
    checkpoint = load_checkpoint(path)
    about = checkpoint.dataset_config
    config = GridConfig(kind="roads" if about.get("kind") == "roads" else "cells")
    try:
        table = token_table(choose_grid(config, network, about, checkpoint.config.vocab_size), network)
        _check_inside(table, min_share_inside)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: cannot be a further teacher of this city (`distill.pooled.other_teachers`). {error} A further "
            "teacher takes its grid from its own checkpoint, not from `grid` in the city's YAML. A teacher of another "
            "city is trained with `grid.vocabulary: all`, `cell_size_m`, and `grid.bounds` that contain the roads of "
            f"both cities; those of this one lie within {_extent(network)}."
        ) from None
    tokens = table["token"].to_numpy()
    return OnlineTeacher(checkpoint.model, tokens, network, window, device=device, half=half)


def _check_inside(table: gpd.GeoDataFrame, required: float) -> None:
    """Raise ConfigError if too few roads of a `token_table` lie inside the grid."""
    outside = int(table["clamped"].sum())
    if outside > (1 - required) * len(table):
        raise ConfigError(
            f"{outside} of {len(table)} roads lie outside its grid, and `grid.min_share_inside` is {required:g}."
        )


def _extent(network: RoadNetwork) -> str:
    """Return the extent of the road centers, rounded outwards to 0.001 degrees, as a value of `grid.bounds`."""
    low = np.floor(network.centroids.min(0) * 1000) / 1000
    high = np.ceil(network.centroids.max(0) * 1000) / 1000
    names = ("min_lat", "max_lat", "min_lng", "max_lng")
    edges = (low[0], high[0], low[1], high[1])
    return "{" + ", ".join(f"{name}: {edge:.3f}" for name, edge in zip(names, edges, strict=True)) + "}"
