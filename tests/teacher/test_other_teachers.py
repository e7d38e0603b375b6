"""Further teachers of a pool: each reads the grid of its own checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network, random_trips

from hoser_kd.common.errors import CheckpointError
from hoser_kd.config.grid import GridConfig
from hoser_kd.grid.spec import OccupiedCells, RoadTokens, choose_grid
from hoser_kd.grid.token_table import token_table
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, save
from hoser_kd.pipeline.stages.grid import describe_grid
from hoser_kd.student.pools import teacher_probabilities
from hoser_kd.teacher.online_teacher import OnlineTeacher
from hoser_kd.teacher.other_teachers import load_other_teacher

NETWORK = grid_network(5)
GRIDS = {
    "roads": GridConfig(kind="roads"),
    "cells": GridConfig(bounds="roads", cell_size_m=300),
    "occupied cells": GridConfig(bounds="roads", cell_size_m=300, vocabulary="occupied"),
}


def checkpoint(grid, num_labels=None):
    torch.manual_seed(0)
    config = LMTADConfig(32, (num_labels or grid.num_labels) + 3, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    return LMTADCheckpoint(LMTAD(config).eval(), config, {"grip_size": list(grid.shape), **describe_grid(grid)})


@pytest.mark.parametrize("kind", GRIDS)
def test_the_tokens_are_those_of_the_grid_in_the_checkpoint(tmp_path, kind):
    grid = choose_grid(GRIDS[kind], NETWORK)
    assert isinstance(grid, RoadTokens) == (kind == "roads")
    assert isinstance(grid, OccupiedCells) == (kind == "occupied cells")
    made, trips = checkpoint(grid), random_trips(NETWORK, 6)
    save(made, tmp_path / "other")
    tokens = token_table(grid, NETWORK)["token"].to_numpy()
    expected = teacher_probabilities(OnlineTeacher(made.model, tokens, NETWORK), trips, NETWORK)
    found = teacher_probabilities(load_other_teacher(tmp_path / "other", NETWORK), trips, NETWORK)
    np.testing.assert_allclose(found.log_p, expected.log_p, atol=1e-6)


def test_a_teacher_of_other_roads_or_without_a_grid_is_refused(tmp_path):
    save(checkpoint(RoadTokens(NETWORK)), tmp_path / "roads")
    save(LMTADCheckpoint(*_parts(checkpoint(RoadTokens(NETWORK))), {}), tmp_path / "none")
    for folder, network in (("roads", grid_network(4)), ("none", NETWORK)):
        with pytest.raises(CheckpointError, match=r"cannot be a further teacher.*other_teachers") as caught:
            load_other_teacher(tmp_path / folder, network)
        assert str(tmp_path / folder) in str(caught.value)


def _parts(made):
    return made.model, made.config
