"""Arithmetic of a student's training, and whether its steps are replayed from CUDA graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hoser_kd.common.distributed import DistributedContext

if TYPE_CHECKING:
    import torch

    from hoser_kd.common.optimizer import Precision
    from hoser_kd.config.student import StudentConfig


def replays_graphs(config: StudentConfig, device: torch.device) -> bool:
    """Return whether training steps with precision fp32 are replayed from CUDA graphs.

    With half precision, replayed gradients were not finite on an H100 (torch 2.11), and it is no faster there without.
    """
    alone = DistributedContext.current().size == 1 and config.micro_batch_size is None
    return config.cuda_graphs and device.type == "cuda" and alone and config.road_updates == "dense"


def training_precision(config: StudentConfig, device: torch.device) -> Precision:
    """Return the precision of a training: `auto` is fp32 where CUDA graphs are replayed."""
    return "fp32" if config.precision == "auto" and replays_graphs(config, device) else config.precision
