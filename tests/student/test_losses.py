"""Loss terms: golden values and properties of the distillation term, its labels, and registered terms."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import StoreError
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.student import StudentConfig
from hoser_kd.config.variants import LOSS_TERMS
from hoser_kd.hoser import HOSER, StudentOutput, collate
from hoser_kd.hoser.batches import RoadTables, road_tables
from hoser_kd.student.losses import (
    Distillation,
    LossContext,
    LossTerm,
    StoredLabels,
    kl_loss,
    loss_terms,
    num_steps,
    sample_steps,
)
from hoser_kd.student.training import StudentTrainer, train_student

SMALL = StudentConfig(hidden_dim=16, road_id_dim=8, attribute_dim=2, max_epochs=3, batch_size=5)
SHARING = ["replicate", "split", "aggregate"]


def golden_cases(golden):
    return json.loads((golden / "kl_golden.json").read_text())["cases"]


def tensors(case):
    tokens = torch.tensor(case["candidate_tokens"])
    scores = torch.tensor(case["teacher_vocab_probs"], dtype=torch.float64).log()[tokens]
    logits = torch.tensor(case["student_logits"], dtype=torch.float64).requires_grad_()
    return logits, scores, torch.ones(len(tokens), dtype=torch.bool), tokens


def test_golden_values_and_gradients(golden):
    cases = golden_cases(golden)
    assert len(cases) == 23
    for case in cases:
        if case["name"].startswith("clamp"):
            continue
        logits, scores, mask, tokens = tensors(case)
        loss = kl_loss(logits, scores, mask, case["tau"])
        assert loss.item() == pytest.approx(case["kl"], abs=1e-6), case["name"]
        scaled = kl_loss(logits, scores, mask, case["tau"], scale_by_temperature_squared=True)
        assert scaled.item() == pytest.approx(case["kl_times_tau2"], abs=5e-6), case["name"]
        split = kl_loss(logits, scores, mask, case["tau"], tokens, "split")
        assert split.item() == pytest.approx(case["kl_split_mass"], abs=1e-6), case["name"]
        if "grad_logits" in case:
            loss.backward()
            np.testing.assert_allclose(logits.grad, case["grad_logits"], atol=1e-6, err_msg=case["name"])


def test_a_candidate_with_teacher_probability_zero_stays_at_zero(golden):
    """The original scripts raise a probability of 0 to 3e-5 at temperature 2 (0.69279); the formula gives log 2."""
    case = next(case for case in golden_cases(golden) if case["name"].startswith("clamp"))
    logits, scores, mask, _ = tensors(case)
    loss = kl_loss(logits, scores, mask, case["tau"])
    assert scores[1] == -torch.inf
    assert loss.item() == pytest.approx(np.log(2), abs=1e-6)
    assert loss.item() == pytest.approx(case["kl_fork_float64"], abs=5e-4)
    loss.backward()
    np.testing.assert_allclose(logits.grad, [-0.25, 0.25], atol=1e-6)


rows = st.integers(1, 5).flatmap(
    lambda c: st.tuples(
        arrays(np.float64, (3, c), elements=st.floats(-8, 8)),
        arrays(np.float64, (3, c), elements=st.floats(-8, 8)),
        arrays(np.bool_, (3, c)),
        arrays(np.int64, (3, c), elements=st.integers(0, 2)),
        st.floats(0.5, 5),
    )
)


def as_tensors(drawn):
    logits, scores, mask, tokens, temperature = drawn
    return *(torch.from_numpy(part) for part in (logits, scores, mask, tokens)), temperature


def plain(logits, scores, tokens, temperature, shared_cells):
    """One row without masks, as a plain sum in Python."""
    cells = {}
    p = np.exp(logits / temperature - np.logaddexp.reduce(logits / temperature))
    for k, token in enumerate(tokens):
        cells.setdefault(int(token), []).append(k)
    if shared_cells == "aggregate":
        w = np.array([np.exp(scores[ks[0]] / temperature) for ks in cells.values()])
        p = np.array([p[ks].sum() for ks in cells.values()])
    else:
        share = [len(cells[int(token)]) if shared_cells == "split" else 1 for token in tokens]
        w = (np.exp(scores) / share) ** (1 / temperature)
    q = w / w.sum()
    return float((q * np.log(q / p)).sum())


@settings(deadline=None, max_examples=60)
@given(rows, st.sampled_from(SHARING))
def test_equals_the_formula(drawn, shared_cells):
    logits, scores, mask, tokens, temperature = as_tensors(drawn)
    # candidates of one cell have its score
    scores = scores.gather(1, tokens.clamp(max=scores.shape[1] - 1))
    ours = kl_loss(logits, scores, mask, temperature, tokens, shared_cells, reduction="none")
    for i in range(3):
        keep = mask[i]
        expected = (
            plain(*(part[i][keep].numpy() for part in (logits, scores, tokens)), temperature, shared_cells)
            if keep.any()
            else 0.0
        )
        assert ours[i].item() == pytest.approx(expected, abs=2e-5)
    mean = kl_loss(logits, scores, mask, temperature, tokens, shared_cells)
    count = max(int(mask.any(1).sum()), 1)
    assert mean.item() == pytest.approx(ours.sum().item() / count, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(rows, st.sampled_from(SHARING), st.floats(-20, 20), st.randoms(use_true_random=False))
def test_properties(drawn, shared_cells, shift, random):
    logits, scores, mask, tokens, temperature = as_tensors(drawn)
    scores = scores.gather(1, tokens.clamp(max=scores.shape[1] - 1))

    def loss(a, b, m=mask, z=tokens):
        return kl_loss(a, b, m, temperature, z, shared_cells, reduction="none")

    base = loss(logits, scores)
    assert (base >= -1e-5).all()
    torch.testing.assert_close(loss(logits + shift, scores - shift), base, atol=1e-4, rtol=1e-4)
    order = list(range(mask.shape[1]))
    random.shuffle(order)
    torch.testing.assert_close(
        loss(logits[:, order], scores[:, order], mask[:, order], tokens[:, order]), base, atol=1e-5, rtol=1e-5
    )
    assert (base[mask.sum(1) <= 1].abs() < 1e-6).all()
    # values outside the mask are ignored
    noise = torch.where(mask, logits, -torch.inf), torch.where(mask, scores, torch.nan)
    torch.testing.assert_close(loss(*noise), base)
    if shared_cells == "replicate":
        torch.testing.assert_close(loss(scores, scores), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shared_cells", SHARING)
def test_gradient_is_finite_and_right_with_masks_and_impossible_candidates(shared_cells):
    torch.manual_seed(0)
    logits = torch.randn(6, 4).masked_fill(torch.rand(6, 4) < 0.2, -torch.inf)
    mask = logits > -torch.inf
    logits.requires_grad_()
    scores = torch.randn(6, 4)
    scores[0] = -torch.inf
    scores[1, 0] = -torch.inf
    tokens = torch.randint(0, 3, (6, 4))
    loss = kl_loss(logits, scores, mask, 2.0, tokens, shared_cells)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[0] == 0).all()
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(6), atol=1e-6, rtol=0)


def test_aggregate_gives_no_signal_if_all_candidates_share_a_cell():
    logits = torch.tensor([[0.2, -0.4, 1.0]], requires_grad=True)
    one_cell = torch.ones(1, 3, dtype=torch.int64)
    loss = kl_loss(logits, torch.zeros(1, 3), one_cell.bool(), 2.0, one_cell, "aggregate")
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(logits.grad, 0, atol=1e-6)


def test_float32_whatever_autocast_and_input():
    logits, scores, mask = torch.randn(4, 3), torch.randn(4, 3), torch.ones(4, 3, dtype=torch.bool)
    exact = kl_loss(logits, scores, mask, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = kl_loss(logits, scores, mask, 2.0)
    assert torch.equal(inside, exact)
    half = kl_loss(logits.bfloat16(), scores.half(), mask, 2.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.01, rtol=0.05)


def test_nan_of_the_teacher_propagates():
    scores = torch.tensor([[torch.nan, 0.0]])
    assert torch.isnan(kl_loss(torch.zeros(1, 2), scores, torch.ones(1, 2, dtype=torch.bool), 2.0))


def test_tokens_are_required_to_split_or_aggregate():
    with pytest.raises(ValueError, match="tokens"):
        kl_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 2.0, None, "split")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"temperature": 0.0},
            ValueError,
            r"temperature is 0.0, not a finite number above 0 .0.0001 to 10000.. Call kl_loss\(",
        ),
        ({"temperature": -1}, ValueError, "temperature is -1"),
        ({"temperature": np.nan}, ValueError, "temperature is nan"),
        ({"temperature": np.inf}, ValueError, "temperature is inf"),
        ({"temperature": "2"}, TypeError, "temperature is of type str"),
        ({"shared_cells": "share"}, ValueError, "unknown shared_cells 'share'. Known: replicate, split, aggregate"),
        ({"reduction": "sum"}, ValueError, "unknown reduction 'sum'. Known: mean, none"),
        (
            {"student_logits": np.zeros((2, 3))},
            TypeError,
            r"student_logits is of type ndarray.*as_tensor\(student_logits\)",
        ),
        ({"mask": [[True]]}, TypeError, r"mask is of type list, not a tensor"),
        ({"teacher_scores": None}, TypeError, "teacher_scores is of type NoneType"),
        ({"mask": torch.ones(2, 3)}, TypeError, r"mask has dtype torch.float32.*mask.bool\(\)"),
        ({"mask": torch.ones(3).bool()}, ValueError, r"differ in shape \(student_logits \(2, 3\).*mask \(3,\)"),
        ({"teacher_scores": torch.zeros(2, 1)}, ValueError, r"teacher_scores \(2, 1\)"),
        ({"tokens": torch.zeros(2, dtype=torch.int64)}, ValueError, r"tokens \(2,\)"),
    ],
)
def test_wrong_arguments_of_the_kl_are_refused(wrong, error, message):
    right = {
        "student_logits": torch.zeros(2, 3),
        "teacher_scores": torch.zeros(2, 3),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "temperature": 2.0,
    }
    assert kl_loss(**right) == 0
    with pytest.raises(error, match=message):
        kl_loss(**{**right, **wrong})


def test_sampled_steps():
    lengths = torch.tensor([1, 4, 30, 30])
    mask = torch.arange(30) < lengths[:, None]
    trips = torch.tensor([7, 8, 9, 10])
    chosen = sample_steps(mask, trips, 5, seed=1, epoch=3)
    assert chosen.sum(1).tolist() == [1, 4, 5, 5]
    assert not (chosen & ~mask).any()
    assert not torch.equal(chosen[2], chosen[3])
    # the same trip in another batch, with other padding
    alone = sample_steps(torch.arange(40)[None] < 30, torch.tensor([9]), 5, seed=1, epoch=3)
    assert torch.equal(alone[0, :30], chosen[2])
    assert not torch.equal(sample_steps(mask, trips, 5, seed=1, epoch=4), chosen)
    assert not torch.equal(sample_steps(mask, trips, 5, seed=2, epoch=3), chosen)
    assert torch.equal(sample_steps(mask, trips, "all", seed=1, epoch=3), mask)


def test_sampled_steps_are_even():
    mask = torch.ones(4000, 10, dtype=torch.bool)
    counts = sample_steps(mask, torch.arange(4000), 3, seed=0, epoch=0).sum(0)
    assert counts.min() > 1080
    assert counts.max() < 1320


@pytest.fixture
def labeled():
    """Trips whose score of each candidate is step * 10 + place, so that misaligned labels are detected."""
    network = grid_network(4)
    trips = random_trips(network, 12, 1)
    at, _ = trips.step_positions()
    degrees = network.successors.degrees[trips.road_ids[at]]
    place = np.arange(degrees.sum()) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    scores = (np.repeat(np.arange(len(at)), degrees) * 10 + place).astype(np.float32)
    return network, trips, SimpleNamespace(offsets=offsets_of(degrees), scores=scores)


def test_stored_labels_are_aligned_with_steps(labeled):
    network, trips, labels = labeled
    source = StoredLabels(labels, trips)
    rows = np.array([7, 0, 3])
    batch = collate(trips, rows)
    steps = RoadTables(road_tables(network, "published"), time_intervals="published").derive(batch)
    scores = source(batch, steps.padded(steps.candidate, -1))
    first = offsets_of(trips.lengths - 1)
    for b, row in enumerate(rows):
        for t in range(int(trips.lengths[row]) - 1):
            count = len(network.successors.row(trips.roads(row)[t]))
            assert scores[b, t, :count].tolist() == [float((first[row] + t) * 10 + c) for c in range(count)]
            assert (scores[b, t, count:] == -torch.inf).all()


def test_labels_of_other_trips_or_networks_are_refused(labeled):
    _, trips, labels = labeled
    with pytest.raises(StoreError, match="other trips"):
        StoredLabels(labels, trips.take(np.arange(5)))
    source = StoredLabels(labels, trips)
    batch = collate(trips, np.array([0, 1]))
    with pytest.raises(StoreError, match="another network"):
        source(batch, torch.zeros(2, batch.num_steps, 3, dtype=torch.int64))


def test_distillation_reads_settings(labeled):
    network, trips, labels = labeled
    batch = collate(trips, np.arange(6))
    steps = RoadTables(road_tables(network, "published"), time_intervals="published").derive(batch)
    candidates = steps.padded(steps.candidate, -1)
    torch.manual_seed(0)
    output = StudentOutput(
        candidates=candidates,
        step_mask=steps.step_mask,
        valid=steps.index.flat,
        logits=torch.randn(candidates.shape).masked_fill(candidates < 0, -torch.inf),
        label=steps.padded_steps(steps.label, -1),
        time_pred=torch.zeros(steps.step_mask.shape),
        seconds=steps.padded_steps(steps.seconds, 0.0),
    )
    cells = torch.arange(network.num_roads) // 7
    for config in (
        DistillConfig(),
        DistillConfig(shared_cells="split", temperature=3.0),
        DistillConfig(shared_cells="aggregate", scale_by_temperature_squared=True),
    ):
        term = Distillation(config, StoredLabels(labels, trips), cells)
        expected = kl_loss(
            output.logits,
            StoredLabels(labels, trips)(batch, candidates),
            candidates >= 0,
            config.temperature,
            cells[candidates.clamp(min=0)],
            config.shared_cells,
            scale_by_temperature_squared=config.scale_by_temperature_squared,
        )
        assert term.loss(batch, output, 0).item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.equal(term.steps_of(batch.lengths), batch.lengths - 1)
    few = Distillation(DistillConfig(sample_steps_per_trace=2), StoredLabels(labels, trips), cells, seed=4)
    assert few.steps_of(batch.lengths).max() == 2
    assert few.loss(batch, output, 0) != few.loss(batch, output, 1)
    assert few.loss(batch, output, 1) == few.loss(batch, output, 1)


@pytest.mark.parametrize("shared_cells", SHARING)
def test_a_single_candidate_has_no_loss_and_the_teacher_gets_no_gradient(shared_cells):
    """No loss and no gradient, whatever its logit and score; the step still counts in the mean."""
    torch.manual_seed(0)
    logits, scores = torch.randn(5, 3) * 20, torch.randn(5, 3) * 20
    mask = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    logits.requires_grad_()
    scores.requires_grad_()
    rows = kl_loss(logits, scores, mask, 2.0, torch.arange(3).expand(5, 3), shared_cells, reduction="none")
    assert (rows[[1, 2, 4]] == 0).all()
    assert (rows[[0, 3]] > 0.1).all()
    rows.sum().backward()
    assert (logits.grad[[1, 2, 4]] == 0).all()
    assert (logits.grad[[0, 3]].abs().sum(1) > 0).all()
    assert scores.grad is None
    mean = kl_loss(logits, scores, mask, 2.0, torch.arange(3).expand(5, 3), shared_cells)
    assert mean.item() == pytest.approx(rows.sum().item() / 4, rel=1e-6)


def small_student(network):
    torch.manual_seed(1)
    return HOSER.build(
        SMALL, network, np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64), log1p_mean=3.0, log1p_std=0.5
    )


def test_steps_are_resampled_in_each_epoch(labeled, tmp_path, monkeypatch):
    """The sample depends on the epoch and on the seed, and covers every trip."""
    network, trips, labels = labeled
    drawn = {}

    def note(step_mask, rows, count, *, seed, epoch):
        chosen = sample_steps(step_mask, rows, count, seed=seed, epoch=epoch)
        for row, steps in zip(rows.tolist(), chosen, strict=True):
            drawn.setdefault(epoch, {})[row] = torch.nonzero(steps)[:, 0].tolist()
        return chosen

    monkeypatch.setattr("hoser_kd.student.losses.sample_steps", note)
    zones, transitions = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    options = {"distill": DistillConfig(sample_steps_per_trace=2), "labels": labels, "seed": 3}
    train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path / "a", **options)
    assert sorted(drawn) == [0, 1, 2]
    assert all(sorted(of) == list(range(len(trips))) for of in drawn.values())
    assert all(len(steps) == min(2, trips.lengths[row] - 1) for of in drawn.values() for row, steps in of.items())
    assert drawn[0] != drawn[1] != drawn[2]
    first, drawn = drawn, {}
    train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path / "b", **options)
    assert drawn == first
    drawn = {}
    train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path / "c", **options | {"seed": 4})
    assert drawn != first


def test_weight_zero_equals_plain_training_bit_for_bit(labeled):
    network, trips, labels = labeled
    runs = []
    for weight in (None, 0.0, 0.5):
        model = small_student(network)
        distill = None if weight is None else DistillConfig(lambda_kl=weight)
        terms = loss_terms(LossContext(model.time_scale, SMALL, distill, StoredLabels(labels, trips)))
        trainer = StudentTrainer(model, SMALL, 4, terms)
        metrics = [trainer.step(trips, np.arange(6), epoch) for epoch in range(2)]
        runs.append((metrics, torch.cat([weights.detach().flatten() for weights in model.parameters()])))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_term_is_float32_in_a_training_of_half_precision(labeled, precision, monkeypatch):
    network, trips, labels = labeled
    terms = []

    def note(logits, *arguments, **options):
        term = kl_loss(logits, *arguments, **options)
        exact = kl_loss(logits.double(), *arguments, **options)
        terms.append((term, exact, torch.is_autocast_enabled("cpu")))
        return term

    monkeypatch.setattr("hoser_kd.student.losses.kl_loss", note)
    config = SMALL.model_copy(update={"precision": precision})
    model = small_student(network)
    context = LossContext(model.time_scale, config, DistillConfig(lambda_kl=0.5), StoredLabels(labels, trips))
    StudentTrainer(model, config, 4, loss_terms(context)).step(trips, np.arange(6), 0)
    assert terms
    for term, exact, under_autocast in terms:
        assert term.dtype == torch.float32
        assert not under_autocast
        assert term.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.fixture
def entropy_term():
    """A loss term that is registered temporarily: the entropy of the student's choice, with weight 0.1."""

    def entropy(batch, output, epoch):
        p = output.logits[output.step_mask].softmax(1)
        return -(p * (p + 1e-9).log()).sum(1).mean()

    LOSS_TERMS.register("entropy", lambda context: LossTerm("entropy", 0.1, entropy, num_steps))
    yield
    LOSS_TERMS.unregister("entropy")


def test_a_registered_term_reaches_history_tensorboard_and_report(labeled, tmp_path, entropy_term):
    """Registration is the only edit that a new loss term needs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hoser_kd.report.data import ReportData, StudentResult
    from hoser_kd.report.figures import training_figures

    network, trips, _ = labeled
    zones, transitions = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    result = train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path)
    assert all(epoch["train_entropy"] > 0 for epoch in result.history)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"step/entropy", "epoch/train_entropy"} <= set(events.Tags()["scalars"])
    student = StudentResult(history=result.history, test={})
    data = ReportData(
        city="town",
        network=network,
        real=trips,
        students={"vanilla": {0: student}},
        teacher={},
    )
    [(figure, _)] = training_figures(data)
    assert "entropy" in [axes.get_title(loc="left") for axes in figure.axes]


def test_a_registered_term_changes_the_gradient(labeled, entropy_term):
    network, trips, _ = labeled
    steps = []
    for weight in (0.0, 0.1):
        model = small_student(network)
        terms = [
            term if term.name != "entropy" else LossTerm("entropy", weight, term.compute, term.count)
            for term in loss_terms(LossContext(model.time_scale, SMALL))
        ]
        steps.append(StudentTrainer(model, SMALL, 4, terms).step(trips, np.arange(6), 0))
    assert [list(step) for step in steps] == [["next_step", "time", "entropy", "grad_norm", "learning_rate"]] * 2
    assert steps[0]["entropy"] == steps[1]["entropy"]
    assert steps[0]["grad_norm"] != steps[1]["grad_norm"]


def test_a_training_with_another_term_does_not_resume_this_one(labeled, tmp_path, request):
    network, trips, _ = labeled
    zones, transitions = np.zeros(network.num_roads, np.int64), np.zeros((1, 1), np.int64)
    train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path)
    request.getfixturevalue("entropy_term")
    with pytest.raises(StoreError, match="other settings"):
        train_student(network, zones, transitions, trips, trips, SMALL, folder=tmp_path)


def test_terms_with_the_same_name_are_refused(labeled):
    model = small_student(labeled[0])
    LOSS_TERMS.register("again", LOSS_TERMS["time"])
    try:
        with pytest.raises(ValueError, match="different names"):
            loss_terms(LossContext(model.time_scale, SMALL))
    finally:
        LOSS_TERMS.unregister("again")
