"""Incremental inference equals the forward pass over the whole trip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network

from hoser_kd.hoser import IncrementalHOSER, collate


def one(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_equal_the_full_forward(small_city, small_model, compiled):
    """Trips of different lengths are extended together, in slots that other trips used before."""
    small_model.eval()
    batch = collate(small_city.trips["test"], np.arange(10))
    with torch.no_grad():
        full = small_model(batch, all_times=True)
    decoder = IncrementalHOSER(small_model, compiled=compiled)
    tree = decoder.tree(capacity=4)
    tree.store.fill_(torch.nan)
    last = np.full(len(batch.rows), -1)
    roads, times, goal = batch.road_ids.numpy(), batch.times.numpy(), batch.destinations.numpy()
    for t in range(batch.num_steps):
        rows = np.flatnonzero(full.step_mask[:, t].numpy())
        decoded = decoder.step(tree, last[rows], roads[rows, t], times[rows, t], times[rows, 0], goal[rows])
        last[rows] = decoded.slots
        width = decoded.logits.shape[1]
        where = full.candidate_mask[rows, t, :width]
        assert torch.equal(decoded.candidates >= 0, where)
        torch.testing.assert_close(decoded.logits[where], full.logits[rows, t, :width][where], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(decoded.times[where], full.all_times[rows, t, :width][where], rtol=1e-5, atol=1e-5)
    assert tree.num_nodes == full.step_mask.sum()
    for row, slot in enumerate(last):
        assert tree.path(int(slot))[0].tolist() == small_city.trips["test"].roads(row)[:-1].tolist()


def test_slots_are_reused(small_model):
    decoder = IncrementalHOSER(small_model)
    tree = decoder.tree(capacity=2)
    first = decoder.step(tree, one(-1, -1), one(3, 4), one(0, 0), one(0, 0), one(9, 9))
    tree.give_back(first.slots.tolist())
    again = decoder.step(tree, one(-1, -1), one(4, 3), one(0, 0), one(0, 0), one(9, 9))
    assert len(tree.parent) == 2
    torch.testing.assert_close(again.logits[0][: first.logits.shape[1]], first.logits[1])


def test_dead_end_has_no_candidate(small_city, small_model):
    """A road without successors has a row without candidates, alone or among others."""
    tables = small_model.tables
    start = tables.successor_start.clone()
    gone = int(start[6] - start[5])
    start[6:] -= gone
    at = int(tables.successor_start[5])
    for name in ("successor", "successor_direction"):
        values = getattr(tables, name)
        setattr(tables, name, torch.cat([values[:at], values[at + gone :]]))
    tables.successor_start = start
    decoder = IncrementalHOSER(small_model)
    tree = decoder.tree()
    decoded = decoder.step(tree, one(-1, -1), one(5, 8), one(0, 0), one(0, 0), one(9, 9))
    assert (decoded.candidates[0] == -1).all()
    assert (decoded.logits[0] == -torch.inf).all()
    assert decoded.candidates[1].max() >= 0
    alone = decoder.step(tree, one(-1), one(5), one(0), one(0), one(9))
    assert alone.candidates.shape == (1, 0)


def test_weekday_of_the_start_decides_the_sign(small_model):
    decoder = IncrementalHOSER(small_model)
    tree = decoder.tree()
    friday_evening, just_saturday = one(1 * 86_400 + 80_000), one(2 * 86_400 + 100)
    started_friday = decoder.step(tree, one(-1), one(3), just_saturday, friday_evening, one(40))
    started_saturday = decoder.step(tree, one(-1), one(3), just_saturday, just_saturday, one(40))
    assert not torch.equal(started_friday.logits, started_saturday.logits)


def test_grid_network_has_several_candidates():
    assert grid_network(4).successors.degrees.max() >= 3
