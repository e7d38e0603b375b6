"""Off-path distillation: targets against enumeration, the phase after the training, a student that learns its way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hoser_cities import TINY, City
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import edges, least_costs, network_of, networks, walks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import teacher_labels, train, weights

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.errors import ConfigError
from hoser_kd.common.progress import silent
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.off_path import OffPathConfig
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.hoser import HOSER, collate, load
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student import off_path
from hoser_kd.student.losses import kl_loss
from hoser_kd.student.off_path import SECONDS, OffPath, OffPathTeacher, divergence, target_scores

SETTINGS = OffPathConfig(batch_size=8, max_steps=30, learning_rate=5e-3, smoothing=1.0)


def recipe(*names, **settings):
    return DistillConfig(recipe=names, off_path=SETTINGS.model_copy(update=settings), labels="online")


def refined(city, folder, distill=None, config=TINY, **more):
    return train(city, folder, config, distill=distill or recipe("off_path"), sampler=sample_trips, **more)


def expected_targets(network, chain, trips, destinations, weight):
    """Weights exp(-(1 - weight) cost - cost to go) of the candidates of every step, by relaxing all connections."""
    best = least_costs(network, chain.costs)
    cost = dict(zip(edges(network), chain.costs.tolist(), strict=True))
    return [
        [math.exp(-(1 - weight) * cost[road, r] - best[r][goal]) for r in network.successors.row(road).tolist()]
        for trip, goal in enumerate(destinations.tolist())
        for road in trips.roads(trip)[:-1].tolist()
    ]


@given(st.data(), st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 5))
def test_targets_equal_enumeration(data, weight, chunk_steps):
    network = data.draw(networks())
    trips = data.draw(walks(network))
    chain = MarkovChain.fit(data.draw(walks(network)), network)
    road = st.integers(0, network.num_roads - 1)
    destinations = np.array(data.draw(st.lists(road, min_size=len(trips), max_size=len(trips))), np.int64)
    finished = []
    targets = target_scores(
        chain,
        trips,
        destinations,
        weight,
        chunk_steps=chunk_steps,
        progress=lambda _, done, total: finished.append((done, total)),
    )
    expected = expected_targets(network, chain, trips, destinations, weight)
    assert np.diff(targets.offsets).tolist() == [len(row) for row in expected]
    np.testing.assert_allclose(np.exp(targets.scores), [w for row in expected for w in row], rtol=1e-5)
    assert targets.scores.dtype == np.float32
    assert finished[-1] == (trips.num_steps, trips.num_steps)


def test_the_target_distribution_is_the_likeliest_way_on():
    """0 leads to the destination 3 by 1 or, longer, by 2 and 4; 5 is a dead end."""
    network = network_of([[1, 2, 5], [3], [4], [], [3], []])
    counts = np.array([2, 1, 5, 1, 1, 1])
    chain = MarkovChain(network, counts, smoothing=1.0)
    trip = Trajectories(np.array([0, 2]), np.array([0, 2]), np.array([0, 9]))
    targets = target_scores(chain, trip, np.array([3]))
    q = torch.from_numpy(targets.scores).softmax(0)
    # 3/11 by 1, 2/11 by 2; all other steps are certain
    np.testing.assert_allclose(q, [3 / 5, 2 / 5, 0], rtol=1e-6)
    assert float(q.sum()) == pytest.approx(1)


def brute_force(kind, logits, scores, beta):
    p, q = np.exp(logits) / np.exp(logits).sum(), np.exp(scores) / np.exp(scores).sum()

    def kl(a, b):
        return sum(x * (math.log(x) - math.log(y)) for x, y in zip(a, b, strict=True) if x > 0)

    m = beta * q + (1 - beta) * p
    return {
        "forward_kl": lambda: kl(q, p),
        "reverse_kl": lambda: kl(p, np.maximum(q, math.exp(off_path.MIN_LOG_TARGET))),
        "jsd": lambda: beta * kl(q, m) + (1 - beta) * kl(p, m),
    }[kind]()


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_divergences_equal_their_definitions(kind):
    """Rows: an ordinary state, one with an impossible candidate, one without signal, one with a single candidate."""
    inf = math.inf
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -inf], [0.1, 0.2, 0.3], [0.5, -inf, -inf]], requires_grad=True)
    scores = torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -inf, -inf], [-inf] * 3, [-4.0, -inf, -inf]])
    mask = torch.tensor([[True] * 3, [True, True, False], [True] * 3, [True, False, False]])
    loss = divergence(logits, scores, mask, kind, 0.3)
    rows = [
        brute_force(kind, logits[row, :size].detach().numpy(), scores[row, :size].numpy(), 0.3)
        for row, size in ((0, 3), (1, 2))
    ]
    assert loss.item() == pytest.approx(sum(rows) / 4, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad[mask]).all()
    assert not logits.grad[2].any()
    assert not logits.grad[~mask].any()


def states_of(city, model, settings=SETTINGS, rows=None, scores=None):
    rows = np.arange(len(city.trips["train"])) if rows is None else rows
    own = city.trips["train"].take(rows)
    teacher = OffPathTeacher.fit(own, city.trips["val"], city.network, settings, sample_trips, scores)
    return OffPath(model, own, rows, settings, teacher, seed=0)


@pytest.fixture
def model(small_city):
    torch.manual_seed(0)
    return HOSER.build(
        TINY, small_city.network, small_city.zones, small_city.transitions, log1p_mean=3.0, log1p_std=0.5
    )


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_term_is_the_divergence_on_the_sampled_trips(small_city, model, weight):
    """Computed again trip by trip, with the destination of the real trip, for rows that are not consecutive."""
    rows = np.array([1, 4, 5, 20])
    settings = SETTINGS.model_copy(update={"teacher_weight": weight})

    def lmtad(batch, candidates):
        return (candidates * 7 % 5 - batch.lengths[:, None, None] * 0.1).masked_fill(candidates < 0, -torch.inf)

    states = states_of(small_city, model, settings, rows, lmtad)
    sizes = states.refresh(0, silent)
    trips = small_city.trips["train"]
    chosen = np.array([20, 4])
    loss = states.loss(collate(trips, chosen), None, 0)
    chain = MarkovChain.fit(trips.take(rows), small_city.network, 1.0)
    expected = []
    for number, temperature in enumerate(settings.temperatures):
        sampled = sample_trips(model, trips.take(rows), temperature=temperature, seed=number, max_steps=30)
        rows_of = []
        for row in chosen:
            i = int(np.flatnonzero(rows == row)[0])
            goal = trips.destinations[[row]]
            batch = collate(sampled, np.array([i]), goal)
            output = model(batch)
            scores = torch.full(output.logits[0].shape, -torch.inf)
            values = target_scores(chain, sampled.take([i]), goal, weight).scores
            scores[output.candidate_mask[0]] = torch.from_numpy(values)
            if weight:
                scores = scores + weight * lmtad(batch, output.candidates)[0]
            rows_of.append(kl_loss(output.logits[0], scores, output.candidate_mask[0], 1.0, reduction="none"))
        expected.append(torch.cat(rows_of).mean())
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-4)
    assert sizes["off_path_signal_share"] == 1.0
    assert set(off_path.SECONDS) - {"training_seconds"} < sizes.keys()


def test_states_without_a_way_have_no_signal(model, small_city):
    """Trips toward a road that nothing leads to: no target, no loss, no gradient."""
    states = states_of(small_city, model)
    states.refresh(0, silent)
    states._states.scores.scores[:] = -np.inf
    loss = states.loss(collate(small_city.trips["train"], np.arange(8)), None, 0)
    assert loss.item() == 0.0


def test_a_batch_may_have_destinations_of_its_own(small_city, model):
    """The model then sees them as if the trip continued to them."""
    trips = small_city.trips["train"]
    row = int(np.argmax(trips.lengths))
    roads, times = trips.roads(row), trips.times[trips.offsets[row] : trips.offsets[row + 1]]
    part = Trajectories(np.array([0, 4]), roads[:4], times[:4])
    whole = Trajectories(np.array([0, len(roads)]), roads, times)
    first, own = np.array([0]), collate(part, np.array([0]), roads[-1:])
    assert own.to("cpu").destinations.tolist() == [roads[-1]]
    assert collate(part, first).destinations.tolist() == [roads[3]]
    torch.testing.assert_close(model(own).logits[0], model(collate(whole, first)).logits[0, :3], rtol=1e-4, atol=1e-5)


def test_without_the_recipe_nothing_changes(small_city, tmp_path):
    """Bit for bit, whatever the settings of the unused recipe."""
    labels = teacher_labels(small_city.network, small_city.trips["train"])
    before = train(small_city, tmp_path / "a", distill=DistillConfig(), labels=labels)
    after = train(small_city, tmp_path / "b", distill=recipe("kl", weight=3.0), labels=labels, sampler=sample_trips)
    assert torch.equal(weights(before.model), weights(after.model))
    assert before.history == after.history
    assert (tmp_path / "a" / "history.json").read_text() == (tmp_path / "b" / "history.json").read_text()
    assert after.off_path == []


def test_the_phase_follows_the_plain_training(small_city, tmp_path):
    """It begins at the best epoch, needs no labels, and the student of its last epoch is the result."""
    epochs = []
    plain = train(small_city, tmp_path / "a")
    result = refined(small_city, tmp_path / "b", recipe("off_path", epochs=2), on_epoch=epochs.append)
    assert result.history == plain.history
    assert result.best_epoch == plain.best_epoch
    assert len(result.off_path) == 2
    assert epochs == [*result.history, *result.off_path]
    assert result.best == result.off_path[-1]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert {"train_next_step", "train_time", "train_off_path", "nll", *off_path.SECONDS} < result.best.keys()
    assert not torch.equal(weights(result.model), weights(plain.model))
    assert torch.equal(weights(load(tmp_path / "b")), weights(result.model))
    again = refined(small_city, tmp_path / "b", recipe("off_path", epochs=2))
    assert again.off_path == result.off_path


@pytest.mark.parametrize("patience", [None, 1])
def test_the_epochs_of_the_vanilla_training_need_no_repetition(small_city, tmp_path, patience):
    config = TINY.model_copy(update={"max_epochs": 3, "patience": patience, "learning_rate": 0.05})
    vanilla = train(small_city, tmp_path / "vanilla", config)
    whole = refined(small_city, tmp_path / "whole", config=config)
    seen = []
    short = refined(small_city, tmp_path / "short", config=config, vanilla=vanilla, on_epoch=seen.append)
    assert torch.equal(weights(short.model), weights(whole.model))
    assert short.history == whole.history
    assert (short.best_epoch, len(seen)) == (whole.best_epoch, len(short.off_path))
    first, second = (
        [{k: v for k, v in epoch.items() if k not in SECONDS} for epoch in each.off_path] for each in (short, whole)
    )
    assert first == second
    assert curve_of(short.folder) == curve_of(whole.folder)


def curve_of(folder):
    """Steps and values of a curve of the fine-tuning, which continues those of the training."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(point.step, point.value) for point in events.Scalars("off_path/nll")]


def test_a_killed_phase_after_a_vanilla_training_resumes(small_city, tmp_path):
    vanilla, twice = train(small_city, tmp_path / "vanilla"), recipe("off_path", epochs=2)
    whole = refined(small_city, tmp_path / "whole", twice, vanilla=vanilla)

    def kill(_metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refined(small_city, tmp_path / "killed", twice, vanilla=vanilla, on_epoch=kill)
    resumed = refined(small_city, tmp_path / "killed", twice, vanilla=vanilla)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_vanilla_training_of_other_arguments_is_refused(small_city, tmp_path):
    vanilla = train(small_city, tmp_path / "vanilla")
    with pytest.raises(ValueError, match="trained with other settings, data or seed"):
        refined(small_city, tmp_path / "seed", vanilla=vanilla, seed=1)
    with pytest.raises(ValueError, match="trained with other settings, data or seed"):
        refined(small_city, tmp_path / "rate", vanilla=vanilla, config=TINY.model_copy(update={"learning_rate": 0.5}))
    with pytest.raises(ValueError, match="only with the recipe `off_path` alone"):
        train(small_city, tmp_path / "plain", vanilla=vanilla)
    with pytest.raises(TypeError, match="vanilla is of type str"):
        refined(small_city, tmp_path / "text", vanilla="vanilla")
    assert [folder.name for folder in tmp_path.iterdir()] == ["vanilla"]


def test_weight_zero_trains_the_same_epochs_without_the_term(small_city, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("sampled")

    control = train(small_city, tmp_path, distill=recipe("off_path", weight=0.0), sampler=refuse)
    assert "train_off_path" not in control.best
    assert control.best["train_next_step"] < control.history[-1]["train_next_step"]


def test_the_kl_term_stays_in_the_phase(small_city, tmp_path):
    labels = teacher_labels(small_city.network, small_city.trips["train"])
    result = refined(small_city, tmp_path, recipe("kl", "off_path"), labels=labels)
    assert {"train_kl", "train_off_path"} < result.best.keys()
    assert "train_kl" in result.history[0]


def test_a_student_of_a_share_samples_for_its_own_trips(small_city, tmp_path):
    asked = []

    def sampler(model, requests, **settings):
        asked.append(len(requests))
        return sample_trips(model, requests, **settings)

    config = TINY.model_copy(update={"train_fraction": 0.25})
    train(small_city, tmp_path, config, distill=recipe("off_path"), sampler=sampler)
    assert asked == [12, 12]


class _Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("stage", "first", "second"), [("sampling off-path trips", 10, 106), ("costs to go", 1, 2), ("training", 15, 8)]
)
def test_a_killed_phase_resumes_to_the_same_weights(small_city, tmp_path, stage, first, second):
    """Killed at the first given report of a stage, in the first epoch of the phase, then at another in its second."""
    config, distill = TINY.model_copy(update={"dropout": 0.1}), recipe("off_path", epochs=2)
    whole = refined(small_city, tmp_path / "whole", distill, config)
    epochs = []
    for at in (first, second):
        reports = iter(range(1, 1000))

        def killer(name, done, total, metrics=None, at=at, reports=reports):
            if name == stage and next(reports) == at:
                raise _Killed

        with pytest.raises(_Killed):
            refined(small_city, tmp_path / "killed", distill, config, progress=killer, on_epoch=epochs.append)
    resumed = refined(small_city, tmp_path / "killed", distill, config, on_epoch=epochs.append)
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert not list((tmp_path / "killed").glob("*.pt"))


def test_killed_before_the_history_is_written(small_city, tmp_path, monkeypatch):
    """The student of the phase has replaced that of the best epoch; no epoch is repeated from it."""
    whole = refined(small_city, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("hoser_kd.student.training_checkpoint.TrainingCheckpoint.finish", _kill)
        with pytest.raises(_Killed):
            refined(small_city, tmp_path / "killed")
    resumed = refined(small_city, tmp_path / "killed")
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.off_path[0]["nll"] == whole.off_path[0]["nll"]


def _kill(_):
    raise _Killed


def city_of_a_corridor():
    """All trips follow 0, 1, 2, 3. Off them, 4 leads back to 2 by 5, and by 6 to a circle that never returns."""
    network = network_of([[1], [2, 4], [3], [], [5, 6], [2], [7], [6]])
    trips = Trajectories(
        np.arange(0, 100, 4), np.tile(np.arange(4), 24), np.tile([0, 9, 18, 27], 24) + np.repeat(np.arange(24), 4) * 600
    )
    zones = np.arange(8) // 4
    return City(network, zones, np.array([[0, 1], [1, 0]]), {"train": trips, "val": trips.take(np.arange(4))})


def test_the_student_learns_to_reach_its_destination_off_path(tmp_path):
    """At 4, which no trip visits, against the same epochs without the term; and the divergence falls."""
    city = city_of_a_corridor()
    off = Trajectories(np.array([0, 4]), np.array([0, 1, 4, 5]), np.array([0, 9, 18, 27]))
    models = {}
    for weight in (0.0, 1.0):
        distill = recipe("off_path", weight=weight, epochs=8, temperatures=(4.0,), learning_rate=1e-2)
        result = refined(city, tmp_path / str(weight), distill)
        models[weight] = result.model
    with torch.no_grad():
        right = {
            weight: float(model(collate(off, np.array([0]), np.array([3]))).logits[0, 2].softmax(0)[0])
            for weight, model in models.items()
        }
    assert right[1.0] > 0.95
    assert right[0.0] < 0.8
    losses = [row["train_off_path"] for row in result.off_path]
    assert losses[-1] < 0.3 * losses[0]


def test_missing_arguments_are_named(small_city, tmp_path):
    with pytest.raises(ValueError, match=r"sampler=hoser_kd\.generation\.student_trips\.sample_trips"):
        train(small_city, tmp_path, distill=recipe("off_path"))
    with pytest.raises(ValueError, match=r"online_teacher=OnlineTeacher\("):
        refined(small_city, tmp_path, recipe("off_path", teacher_weight=0.5))
    assert not any(tmp_path.iterdir())


def test_several_processes_are_refused(small_city, tmp_path, monkeypatch):
    monkeypatch.setattr(DistributedContext, "current", staticmethod(lambda: DistributedContext(0, 2)))
    with pytest.raises(ConfigError, match=r"student\.num_processes to 1"):
        refined(small_city, tmp_path)


def test_a_teacher_weight_needs_an_online_teacher():
    settings = {"recipe": ["off_path"], "off_path": {"teacher_weight": 0.5}}
    with pytest.raises(ConfigError, match="labels: online"):
        DistillConfig(**settings)
    assert DistillConfig(**settings, labels="online").uses_off_path
    assert not DistillConfig(**{**settings, "recipe": ["kl"]}).uses_off_path
