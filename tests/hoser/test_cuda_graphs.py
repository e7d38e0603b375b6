"""Padded batches give the results of batches as they are, and GPUs replay them."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from hoser_kd.config.student import StudentConfig
from hoser_kd.hoser import HOSER, collate, cuda_graphs
from hoser_kd.hoser.cuda_graphs import GraphedModel, HostBatch, Shape
from hoser_kd.student.losses import LossContext, loss_terms
from hoser_kd.student.training import StudentTrainer, bucketed_batches
from hoser_kd.student.training_precision import training_precision

if TYPE_CHECKING:
    from hoser_cities import City

    from hoser_kd.hoser import Batch, StudentOutput

FIELDS = ("logits", "candidates", "label", "time_pred", "seconds", "step_mask")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def model(small_model: HOSER) -> HOSER:
    return small_model.train()


def gradients(model: HOSER, batch: Batch, output: StudentOutput) -> dict[str, torch.Tensor]:
    model.zero_grad()
    terms = loss_terms(LossContext(model.time_scale, StudentConfig()))
    torch.stack([term.compute(batch, output, 0) for term in terms]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_padded_batches_give_the_outputs_and_gradients_of_the_batches(model: HOSER, small_city: City) -> None:
    graphed = GraphedModel(model)
    trips = small_city.trips["train"]
    for rows in [*bucketed_batches(trips.lengths, 8, seed=1, epoch=0)][:12]:
        batch = collate(trips, rows)
        plain, padded = model(batch), graphed(HostBatch.of(model, batch))
        assert padded is not None
        for name in FIELDS:
            torch.testing.assert_close(getattr(padded, name), getattr(plain, name), rtol=1e-5, atol=1e-5)
        expected, found = gradients(model, batch, plain), gradients(model, batch, padded)
        assert expected.keys() == found.keys()
        largest = max(float(each.norm()) for each in expected.values())
        for name, each in expected.items():
            assert float((found[name] - each).norm()) < 1e-4 * max(float(each.norm()), 1e-3 * largest), name


def test_batches_of_similar_sizes_share_a_shape(model: HOSER, small_city: City) -> None:
    graphed = GraphedModel(model)
    trips = small_city.trips["train"]
    rows = np.argsort(trips.lengths, kind="stable")[:32].reshape(4, 8)
    for chosen in rows[::-1]:  # the longest first, since no larger batch fits
        assert graphed(HostBatch.of(model, collate(trips, chosen))) is not None
    assert len(graphed._slots) < len(rows)


def test_further_shapes_than_are_kept_have_no_graph(
    model: HOSER, small_city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_SHAPES", 1)
    graphed, trips = GraphedModel(model), small_city.trips["train"]
    assert graphed(HostBatch.of(model, collate(trips, np.arange(4)))) is not None
    assert graphed(HostBatch.of(model, collate(trips, np.arange(5)))) is None


def test_a_shape_holds_only_smaller_ones_of_as_many_trips() -> None:
    own = Shape(4, 10, 30, 80, 50, 200, 90, 400, 120)
    padded = own.padded()
    assert padded.holds(own)
    assert padded.wastes(own) <= 1.25 + 1e-9
    assert padded.valid <= padded.trips * padded.steps
    assert not padded.holds(own._replace(trips=3))
    for field in Shape._fields[1:]:
        assert not padded.holds(own._replace(**{field: getattr(padded, field)})), field


def test_a_cpu_replays_nothing(model: HOSER) -> None:
    assert StudentTrainer(model, StudentConfig(), 10)._graphed is None
    assert training_precision(StudentConfig(), torch.device("cpu")) == "auto"
    assert training_precision(StudentConfig(), torch.device("cuda")) == "fp32"
    for changes in ({"cuda_graphs": False}, {"micro_batch_size": 4}, {"road_updates": "touched_rows"}):
        assert training_precision(StudentConfig(**changes), torch.device("cuda")) == "auto"
    assert training_precision(StudentConfig(precision="bf16"), torch.device("cuda")) == "bf16"


@needs_gpu
def test_a_gpu_trains_the_same_weights_from_graphs(model: HOSER, small_city: City) -> None:
    batches = [*bucketed_batches(small_city.trips["train"].lengths, 8, seed=1, epoch=0)][:12]
    weights = []
    for cuda_graphs_on in (True, False):
        own = copy.deepcopy(model).to("cuda")
        trainer = StudentTrainer(own, StudentConfig(cuda_graphs=cuda_graphs_on, precision="fp32"), 100)
        for rows, prepared in trainer.ahead(small_city.trips["train"], batches):
            trainer.step(small_city.trips["train"], rows, 0, prepared)
        weights.append(torch.cat([p.detach().flatten() for p in own.parameters()]))
    start = torch.cat([p.detach().flatten() for p in model.to("cuda").parameters()])
    assert float((weights[0] - weights[1]).norm()) < 1e-3 * float((weights[1] - start).norm())


@needs_gpu
@pytest.mark.parametrize("graphs", [True, False])
def test_a_step_waits_for_the_gpu_only_for_losses_and_norm(model: HOSER, small_city: City, *, graphs: bool) -> None:
    trainer = StudentTrainer(copy.deepcopy(model).to("cuda"), StudentConfig(cuda_graphs=graphs, precision="fp32"), 100)
    rows = np.arange(8)
    trainer.step(small_city.trips["train"], rows, 0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step(small_city.trips["train"], rows, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = Counter(each.filename for each in caught if "synchroniz" in str(each.message))
    assert sum(waits.values()) <= 2, waits


def test_the_operations_of_a_step_do_not_depend_on_its_trips(model: HOSER, small_city: City) -> None:
    """On a GPU each operation is a kernel or more, whose start costs more than its work; some wait for the device."""
    trainer = StudentTrainer(model, StudentConfig(), 100)
    counts = []
    for rows in (np.arange(4), np.arange(4), np.arange(16)):  # the first step creates the optimizer's state
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            trainer.step(small_city.trips["train"], rows, 0)
        counts.append({event.key: event.count for event in profiled.key_averages() if event.key.startswith("aten::")})
    assert counts[1] == counts[2]
    assert not set(counts[2]) & {"aten::nonzero", "aten::_unique2", "aten::masked_select", "aten::masked_scatter"}
