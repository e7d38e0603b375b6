"""AdamW with a learning-rate schedule, gradient clipping and mixed precision, for teacher and student."""

from __future__ import annotations

import contextlib
import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.row_adamw import RowAdamW

if TYPE_CHECKING:
    from collections.abc import Iterable

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Resolve `auto` for a device: bf16 on a GPU that supports it, fp16 on an older one, fp32 on a CPU."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a forward pass with this precision on this device."""
    kind = resolve_precision(precision, device)
    if kind == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if kind == "bf16" else torch.float16)


def warmup_cosine(step: int, *, total_steps: int, warmup_ratio: float, floor: float = 0.0) -> float:
    """Return the learning rate of a step, counted from 0, as a fraction of the peak.

    It rises linearly over `warmup_ratio` of the steps, then follows a cosine to `floor` at the last step. The rate of
    the first step is above 0.
    """
    number, warmup_steps = step + 1, warmup_ratio * total_steps
    if number < warmup_steps:
        return number / warmup_steps
    decayed = (number - warmup_steps) / max(total_steps - warmup_steps, 1e-9)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(decayed, 1.0)))


class AdamW(torch.optim.AdamW):
    """AdamW of torch without its wrappers for `torch.compile`, which import a compiler: 3 s of each process."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


@dataclass(frozen=True)
class StepSize:
    """Gradient norm and learning rate of one step."""

    grad_norm: float
    """Gradient norm before clipping."""
    learning_rate: float
    """Learning rate of the step."""


class Optimizer:
    """AdamW with linear warm-up, cosine decay, gradient clipping and, for fp16, dynamic loss scaling."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
        *,
        learning_rate: float,
        weight_decay: float,
        total_steps: int,
        warmup_ratio: float,
        max_norm: float,
        precision: Precision,
        device: torch.device,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 0.0,
        rows: nn.Parameter | None = None,
    ) -> None:
        """`parameters`: tensors, or groups as for AdamW; `floor`: final learning rate as a fraction of the peak.

        `rows`: a further parameter, a table whose gradient is sparse; a step updates only its rows with a gradient.
        Call `catch_up` before rows are read and `flush` before all are. In several processes it is not part of the
        replica, and its gradient is averaged here. Raises ConfigError for `rows` with fp16.
        """
        self.precision: Precision = resolve_precision(precision, device)
        self.device, self.max_norm = device, max_norm
        self.learning_rate, self.total_steps = learning_rate, total_steps
        self.warmup_ratio, self.floor = warmup_ratio, floor
        self.steps_done = 0
        self._adamw = AdamW(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
        self._rows, self._row_adamw = rows, None
        if rows is not None:
            if self.precision == "fp16":
                raise ConfigError("touched rows cannot be updated with fp16. Use precision bf16 or fp32.")
            self._row_adamw = RowAdamW(rows, betas=betas, weight_decay=weight_decay)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the autocast context of a forward pass."""
        return autocast(self.precision, self.device)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> StepSize:
        """Update the parameters with the accumulated gradients, and reset these.

        In fp16, a step whose gradients overflow is skipped and the loss scale is reduced; its norm is not finite.
        """
        rate = self.learning_rate * warmup_cosine(
            self.steps_done, total_steps=self.total_steps, warmup_ratio=self.warmup_ratio, floor=self.floor
        )
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self._adamw)
        with_gradient = [p for group in self._adamw.param_groups for p in group["params"] if p.grad is not None]
        if self._rows is None or self._row_adamw is None or self._rows.grad is None:
            norm = float(nn.utils.clip_grad_norm_(with_gradient, self.max_norm))
            gradient = None
        else:
            gradient = self._row_gradient(self._rows)
            dense = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
            norm = math.hypot(float(dense), float(torch.linalg.vector_norm(gradient[1])))
            nn.utils.clip_grads_with_norm_(with_gradient, self.max_norm, torch.tensor(norm, device=self.device))
            # the factor of clip_grads_with_norm_
            gradient[1].mul_(min(1.0, self.max_norm / (norm + 1e-6)))
        if math.isfinite(norm) or self.precision == "fp16":
            self._scaler.step(self._adamw)
            if gradient is not None and self._row_adamw is not None:
                self._row_adamw.step(*gradient, rate)
        self._scaler.update()
        self._adamw.zero_grad(set_to_none=True)
        self.steps_done += 1
        return StepSize(norm, rate)

    @staticmethod
    def _row_gradient(table: nn.Parameter) -> tuple[Tensor, Tensor]:
        """Return rows (R,) and values (R, d) of the gradient of a table, averaged over processes, and reset it."""
        assert table.grad is not None
        own = table.grad.coalesce()
        table.grad = None
        return DistributedContext.current().mean_rows(own.indices()[0], own.values())

    def catch_up(self, rows: Tensor) -> None:
        """Bring these rows of the table, (R,) int64, distinct, up to date; call it before they are read."""
        if self._row_adamw is not None:
            self._row_adamw.catch_up(rows)

    def flush(self) -> None:
        """Bring all rows of the table up to date; call it before the parameters are used or saved."""
        if self._row_adamw is not None:
            self._row_adamw.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to resume."""
        rows = {} if self._row_adamw is None else {"rows": self._row_adamw.state_dict()}
        adamw, scaler = self._adamw.state_dict(), self._scaler.state_dict()
        return {"adamw": adamw, "scaler": scaler, "steps_done": self.steps_done, **rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self._adamw.load_state_dict(state["adamw"])
        self._scaler.load_state_dict(state["scaler"])
        self.steps_done = state["steps_done"]
        if self._row_adamw is not None:
            self._row_adamw.load_state_dict(state["rows"])
