"""Operations of a training step: how many, and which of them make the host wait for a GPU.

On a GPU, an operation whose output has a shape that depends on values, and reading a value, wait until the device has
finished. Both are counted on the CPU, where the same operations run.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.student.losses import LossContext, loss_terms
from hoser_kd.student.training import StudentTrainer

SHAPED_BY_VALUES = ("nonzero", "unique", "repeat_interleave.Tensor", "masked_select", "by a mask")
MOST_OPERATIONS = {"vanilla": 1340, "distilled": 1400}


class Recorder(TorchDispatchMode):
    """Counts the operations of ATen by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if "index" in name and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [part for part in args[1] if part is not None and part.dtype in {torch.bool, torch.uint8}]
            name += " by a mask" * bool(masks)
        self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    def number_of(self, *parts):
        return sum(count for name, count in self.counts.items() if any(part in name for part in parts))


class Scores:
    """Scores of a teacher, without its own operations."""

    def __call__(self, batch, candidates):
        return candidates * 0.001


@pytest.mark.parametrize("kind", MOST_OPERATIONS)
def test_a_step_has_few_operations_and_none_that_waits_for_its_shape(small_city, small_model, kind):
    config = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2, batch_size=16)
    distill = DistillConfig() if kind == "distilled" else None
    terms = loss_terms(LossContext(small_model.time_scale, config, distill, Scores()))
    trainer = StudentTrainer(small_model, config, 100, terms)
    trips = small_city.trips["train"]
    trainer.step(trips, np.arange(16), 0)
    with Recorder() as recorder:
        trainer.step(trips, np.arange(16, 32), 0)
    assert recorder.number_of(*SHAPED_BY_VALUES) == 0, recorder.counts
    # the gradient norm, and the lengths of the trips, twice a term, which are on the host
    assert recorder.number_of("_local_scalar_dense") <= 1 + 2 * len(terms)
    assert recorder.counts.total() <= MOST_OPERATIONS[kind]
