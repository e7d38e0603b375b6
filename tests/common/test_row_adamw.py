"""AdamW on the rows of a table has the values of torch's AdamW on the whole table."""

from __future__ import annotations

import pytest
import torch

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.optimizer import AdamW, Optimizer
from hoser_kd.common.row_adamw import RowAdamW

NUM_ROWS, WIDTH = 40, 3
BETAS = (0.9, 0.99)


def gradients(num_steps, seed=0):
    """Rows and gradients of each step: rows 0 to 9 often, 10 to 29 rarely, 30 to 39 never; sizes around eps too."""
    draw = torch.Generator().manual_seed(seed)
    for number in range(num_steps):
        rows = torch.randperm(10, generator=draw)[:4]
        if number % 50 == 0:
            rows = torch.cat([rows, 10 + torch.randperm(20, generator=draw)[:5]])
        size = 10.0 ** torch.randint(-9, 1, (len(rows), 1), generator=draw)
        yield rows, torch.randn(len(rows), WIDTH, generator=draw) * size, 0.01 * (1 + number % 7)


def dense_and_rows(num_steps, on_step=lambda number, table, rows: None):
    start = torch.randn(NUM_ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    whole, part = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    dense, table = AdamW([whole], betas=BETAS, weight_decay=0.3), RowAdamW(part, betas=BETAS, weight_decay=0.3)
    for number, (rows, gradient, rate) in enumerate(gradients(num_steps)):
        on_step(number, table, rows)
        dense.param_groups[0]["lr"] = rate
        whole.grad = torch.zeros_like(whole).index_copy_(0, rows, gradient)
        dense.step()
        table.step(rows, gradient, rate)
    return whole.detach(), part.detach(), dense.state[whole], table


@pytest.mark.parametrize("num_steps", [1, 60, 1100])
def test_weights_and_moments_equal_those_of_torch(num_steps):
    """1,100 steps are more than the first arrays of rates hold, and more than the horizon of the moments."""
    whole, part, state, table = dense_and_rows(num_steps)
    stale = (part - whole).abs().max()
    table.flush()
    assert stale > 1e-4  # before, rows without a gradient have not moved
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(table.mean, state["exp_avg"], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(table.square, state["exp_avg_sq"], rtol=1e-4, atol=1e-12)


def test_rows_read_or_flushed_in_between_change_nothing():
    def read(number, table, rows):
        table.catch_up(rows)
        if number in {70, 71, 200}:
            table.flush()

    whole, part, _, table = dense_and_rows(300, read)
    table.flush()
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=2e-6)


def test_a_row_is_current_once_it_has_caught_up():
    seen = []

    def read(number, table, rows):
        if number == 150:
            table.catch_up(torch.arange(NUM_ROWS))
            seen.append(table.weight.clone())

    dense_and_rows(151, read)
    whole, *_ = dense_and_rows(150)
    torch.testing.assert_close(seen[0], whole, rtol=1e-5, atol=2e-6)


def test_it_resumes_to_the_same_bits():
    _, part, _, table = dense_and_rows(60)
    with pytest.raises(RuntimeError, match="flush"):
        table.state_dict()
    table.flush()
    again = RowAdamW(torch.nn.Parameter(part.clone()), betas=BETAS, weight_decay=0.3)
    again.load_state_dict(table.state_dict())
    for rows, gradient, rate in gradients(120, seed=5):
        table.step(rows, gradient, rate)
        again.step(rows, gradient, rate)
    assert torch.equal(again.weight, table.weight)
    assert torch.equal(again.mean, table.mean)


def test_half_precision_with_loss_scaling_is_refused():
    table = torch.nn.Parameter(torch.zeros(3, 2))
    settings = {"learning_rate": 0.1, "weight_decay": 0, "total_steps": 1, "warmup_ratio": 0, "max_norm": 1}
    with pytest.raises(ConfigError, match="fp16"):
        Optimizer(
            [torch.nn.Parameter(torch.zeros(2))],
            **settings,
            precision="fp16",
            device=torch.device("cpu"),
            rows=table,
        )
