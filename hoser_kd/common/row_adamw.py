"""AdamW for a table of which a step reads few rows, such as the embeddings of road ids.

AdamW changes every row at every step: rows without a gradient decay, and their moments still move them. Here a step
updates only the rows that have a gradient. Another row makes up for the steps that it missed before it is next read,
so that the table has the values of `torch.optim.AdamW` up to the rounding of sums, at a cost that does not depend on
the number of rows.

Of the missed steps, a moment of which less than a 1e-9th is left is neglected: about 200 with a beta1 of 0.9.

Shapes: N rows, d columns, R rows of a step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_NEGLECTED = 1e-9
"""Share of the first moment below which its updates are left out."""
_FIRST_CAPACITY = 1024


class RowAdamW:
    """AdamW (Loshchilov and Hutter 2019) on the rows of a table; `weight` (N, d) float32 is changed in place."""

    def __init__(
        self, weight: Tensor, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float
    ) -> None:
        self.weight = weight.detach()
        self.mean, self.square = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.steps_done = 0
        self._beta1, self._beta2 = betas
        self._eps, self._weight_decay = eps, weight_decay
        self._horizon = math.ceil(math.log(_NEGLECTED) / math.log(self._beta1)) if self._beta1 else 1
        self._current = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        """(N,) the step up to which each row is up to date."""
        self._first = 0
        """The step before the first one in `_rates`."""
        self._rates = torch.zeros(_FIRST_CAPACITY, dtype=torch.float64, device=weight.device)
        """Learning rates of the steps since `_first`."""
        self._log_decay = torch.zeros(_FIRST_CAPACITY + 1, dtype=torch.float64, device=weight.device)
        """Sum of log(1 - learning rate * weight decay) from `_first` up to each step."""

    @torch.no_grad()
    def catch_up(self, rows: Tensor) -> None:
        """Apply the missed steps to distinct rows, (R,) int64; call it before these rows are read."""
        behind = self.steps_done - self._current[rows]
        if not len(rows) or not int(behind.max()):
            return
        behind, order = behind.sort(descending=True)
        rows = rows[order]
        mean, square = self.mean[rows], self.square[rows]
        start = self._current[rows] - self._first
        end_decay = self._log_decay[self.steps_done - self._first]
        weight = self.weight[rows] * (end_decay - self._log_decay[start]).exp().float()[:, None]
        counts = behind.cpu()
        for missed in range(1, min(int(counts[0]), self._horizon) + 1):
            # rows are sorted, so those that missed this many steps are the first ones
            active = int((counts >= missed).sum())
            at = start[:active] + missed
            weight[:active] -= self._movement(mean[:active], square[:active], missed, at, end_decay)
        self.weight[rows] = weight
        self.mean[rows] = mean * (self._beta1 ** behind.double()).float()[:, None]
        self.square[rows] = square * (self._beta2 ** behind.double()).float()[:, None]
        self._current[rows] = self.steps_done

    def _movement(self, mean: Tensor, square: Tensor, missed: int, at: Tensor, end_decay: Tensor) -> Tensor:
        """Return what the moments (R, d) subtract at the `missed`-th step, as far as later steps leave it."""
        step = (at + self._first).double()
        rate = self._rates[at - 1] * (end_decay - self._log_decay[at]).exp()
        size = rate * self._beta1**missed / (1 - self._beta1**step)
        spread = math.sqrt(self._beta2**missed) / (1 - self._beta2**step).sqrt()
        return size.float()[:, None] * mean / (square.sqrt() * spread.float()[:, None] + self._eps)

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Make one step of AdamW with the gradients (R, d) of distinct rows (R,); all others have none."""
        self.catch_up(rows)
        self.steps_done += 1
        self._remember(learning_rate)
        mean = self.mean[rows].lerp_(gradient, 1 - self._beta1)
        square = self.square[rows].mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)
        spread = square.sqrt().div_(math.sqrt(1 - self._beta2**self.steps_done)).add_(self._eps)
        weight = self.weight[rows].mul_(1 - learning_rate * self._weight_decay)
        weight.addcdiv_(mean, spread, value=-learning_rate / (1 - self._beta1**self.steps_done))
        self.weight[rows], self.mean[rows], self.square[rows] = weight, mean, square
        self._current[rows] = self.steps_done

    def _remember(self, learning_rate: float) -> None:
        place = self.steps_done - self._first
        if place > len(self._rates):
            self._rates = torch.cat([self._rates, torch.zeros_like(self._rates)])
            self._log_decay = torch.cat([self._log_decay, torch.zeros_like(self._rates[place - 1 :])])
        self._rates[place - 1] = learning_rate
        decay = math.log1p(-min(learning_rate * self._weight_decay, 1 - 1e-12))
        self._log_decay[place] = self._log_decay[place - 1] + decay

    def flush(self, rows_at_once: int = 65_536) -> None:
        """Bring all rows up to date: before a validation, a checkpoint, or any other use of the table."""
        for part in torch.split(torch.arange(len(self.weight), device=self.weight.device), rows_at_once):
            self.catch_up(part)
        self._first = self.steps_done
        self._log_decay[0] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a table whose rows are all up to date. Raises RuntimeError if they are not."""
        if self._first != self.steps_done:
            raise RuntimeError("rows are behind: call flush() first")
        return {"mean": self.mean, "square": self.square, "steps_done": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps_done = self._first = int(state["steps_done"])
        self._current.fill_(self.steps_done)
