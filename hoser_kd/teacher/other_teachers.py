"""Further teachers of a pool: LM-TAD checkpoints, each with the grid that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hoser_kd.common.errors import CheckpointError, ConfigError
from hoser_kd.config.grid import GridConfig
from hoser_kd.grid.spec import choose_grid
from hoser_kd.grid.token_table import token_table
from hoser_kd.lmtad import load_checkpoint
from hoser_kd.teacher.online_teacher import OnlineTeacher

if TYPE_CHECKING:
    from os import PathLike

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
) -> OnlineTeacher:
    """Return a teacher that scores the trips of this network through the grid in its own checkpoint.

    `path`: a published file, or a folder such as a `teacher` artifact. It may have other cells than the city's teacher,
    one token per road, or trips of another city if its grid contains this one.

    Raises:
        CheckpointError: the file is no checkpoint, does not contain its grid, or the grid has no token for a road.
    """
    checkpoint = load_checkpoint(path)
    about = checkpoint.dataset_config
    config = GridConfig(kind="roads" if about.get("kind") == "roads" else "cells")
    try:
        tokens = token_table(choose_grid(config, network, about, checkpoint.config.vocab_size), network)["token"]
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: cannot be a further teacher of this city (`distill.pooled.other_teachers`). {error} A further "
            "teacher takes its grid from its own checkpoint, not from `grid` in the city's YAML."
        ) from None
    return OnlineTeacher(checkpoint.model, tokens.to_numpy(), network, window, device=device, half=half)
