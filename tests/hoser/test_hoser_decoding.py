"""One road at a time gives what the whole trip gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import grid_network

from hoser_kd.hoser import Decoder, Prefix, collate


@pytest.mark.parametrize("padding_first", [False, True])
def test_steps_equal_the_full_forward(small_city, small_model, padding_first):
    """Trips of different lengths, extended together; the prefix may be padded on either side."""
    small_model.eval()
    batch = collate(small_city.trips["test"], np.arange(10))
    with torch.no_grad():
        full = small_model(batch, all_times=True)
    decoder = Decoder(small_model)
    count, num_steps = full.step_mask.shape
    keys = torch.zeros(decoder.num_layers, count, num_steps, decoder.token_width)
    values = torch.zeros_like(keys)
    for t in range(num_steps):
        rows = full.step_mask[:, t].nonzero()[:, 0]
        order = torch.arange(t).flip(0) if padding_first else torch.arange(t)
        prefix = Prefix(
            torch.cat([batch.road_ids[rows][:, order], torch.full((len(rows), 2), 7)], 1),
            torch.cat([batch.times[rows][:, order], torch.zeros(len(rows), 2, dtype=torch.int64)], 1),
            torch.cat([torch.ones(len(rows), t, dtype=torch.bool), torch.zeros(len(rows), 2, dtype=torch.bool)], 1),
            torch.cat([keys[:, rows][:, :, order], torch.ones(2, len(rows), 2, decoder.token_width)], 2),
            torch.cat([values[:, rows][:, :, order], torch.ones(2, len(rows), 2, decoder.token_width)], 2),
        ) if t else None
        decoded = decoder.step(batch.road_ids[rows, t], batch.times[rows, t], batch.times[rows, 0],
                               batch.destinations[rows], prefix)
        keys[:, rows, t], values[:, rows, t] = decoded.keys, decoded.values
        width = decoded.logits.shape[1]
        where = full.candidate_mask[rows, t, :width]
        assert torch.equal(decoded.candidates >= 0, where)
        torch.testing.assert_close(decoded.logits[where], full.logits[rows, t, :width][where], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(decoded.times[where], full.all_times[rows, t, :width][where], rtol=1e-5, atol=1e-5)


def test_dead_end_has_no_candidate(small_city, small_model):
    """A road that nothing follows gets a row without candidates, alone or among others."""
    tables = small_model.tables
    start = tables.successor_start.clone()
    gone = int(start[6] - start[5])
    start[6:] -= gone
    at = int(tables.successor_start[5])
    for name in ("successor", "successor_direction"):
        values = getattr(tables, name)
        setattr(tables, name, torch.cat([values[:at], values[at + gone :]]))
    tables.successor_start = start
    decoder = Decoder(small_model)
    road, zero = torch.tensor([5, 8]), torch.zeros(2, dtype=torch.int64)
    decoded = decoder.step(road, zero, zero, torch.tensor([9, 9]))
    assert (decoded.candidates[0] == -1).all()
    assert (decoded.logits[0] == -torch.inf).all()
    assert decoded.candidates[1].max() >= 0
    alone = decoder.step(road[:1], zero[:1], zero[:1], torch.tensor([9]))
    assert alone.candidates.shape == (1, 0)


def test_weekday_of_the_start_decides_the_sign(small_model):
    decoder = Decoder(small_model)
    road, destination = torch.tensor([3]), torch.tensor([40])
    friday_evening = torch.tensor([1 * 86_400 + 80_000])
    just_saturday = torch.tensor([2 * 86_400 + 100])
    started_friday = decoder.step(road, just_saturday, friday_evening, destination)
    started_saturday = decoder.step(road, just_saturday, just_saturday, destination)
    assert not torch.equal(started_friday.logits, started_saturday.logits)


def test_grid_network_has_several_candidates():
    assert grid_network(4).successors.degrees.max() >= 3
