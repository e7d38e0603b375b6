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
ELSEWHERE = grid_network(5, south_west=(41.144, -8.656))
"""A city with a quarter of its roads inside the first one."""
BOTH = {"min_lat": 41.139, "max_lat": 41.153, "min_lng": -8.661, "max_lng": -8.647}
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


def test_a_teacher_of_another_city_scores_through_a_grid_that_contains_both(tmp_path):
    grid = choose_grid(GridConfig(bounds=BOTH, cell_size_m=300), ELSEWHERE)
    save(checkpoint(grid), tmp_path / "other")
    expected = OnlineTeacher(checkpoint(grid).model, grid.tokenize(*NETWORK.centroids.T), NETWORK)
    assert load_other_teacher(tmp_path / "other", NETWORK).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("grid", "problem"),
    [
        ({"bounds": "roads"}, "56 of 80 roads lie outside its grid"),
        ({"bounds": BOTH, "vocabulary": "occupied"}, "lie in cells for which the teacher has no token"),
    ],
)
def test_a_teacher_of_another_city_with_a_grid_of_its_own_is_refused_with_the_fix(tmp_path, grid, problem):
    save(checkpoint(choose_grid(GridConfig(cell_size_m=300, **grid), ELSEWHERE)), tmp_path / "other")
    fix = r"`grid.vocabulary: all`.*within \{min_lat: 41.140, max_lat: 41.148, min_lng: -8.660, max_lng: -8.652\}"
    with pytest.raises(CheckpointError, match=f"{problem}.*{fix}"):
        load_other_teacher(tmp_path / "other", NETWORK)


def test_fewer_roads_may_lie_inside_the_grid_if_the_settings_say_so(tmp_path):
    grid = choose_grid(GridConfig(bounds="roads", cell_size_m=300), ELSEWHERE)
    save(checkpoint(grid), tmp_path / "other")
    teacher = load_other_teacher(tmp_path / "other", NETWORK, min_share_inside=0.3)
    outside = OnlineTeacher(checkpoint(grid).model, grid.tokenize(*NETWORK.centroids.T), NETWORK)
    assert teacher.fingerprint == outside.fingerprint


def _parts(made):
    return made.model, made.config
