"""Costs of connections from LM-TAD: means over histories, the chain's elsewhere, and their pool."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hoser_cities import TINY
from small_graphs import network_of
from test_off_path import recipe, refined
from test_training import weights

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.schema import CityConfig
from hoser_kd.generation.student_trips import sample_trips
from hoser_kd.hoser import HOSER, collate
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.off_path import (
    OffPath,
    OffPathTeacher,
    sample_states,
    sampling_seed,
    with_teacher_scores,
)
from hoser_kd.student.off_path_costs import pooled_costs, teacher_costs


def trip(*roads):
    return Trajectories(np.array([0, len(roads)]), np.array(roads), np.arange(len(roads)) * 9)


def by_length(batch, candidates):
    """Scores that depend on the history: at step t, candidate r has t · r."""
    step = torch.arange(candidates.shape[1])[None, :, None]
    return (step * candidates).float().masked_fill(candidates < 0, -torch.inf)


def test_costs_are_minus_the_log_of_the_mean_probability_over_all_visits():
    """Road 0 is visited at the steps 0 and 2, road 3 never."""
    network = network_of([[1, 2], [0], [3], [1, 2]])
    chain = MarkovChain(network, np.array([3, 1, 1, 1, 5, 1]), smoothing=1.0)
    costs = teacher_costs(by_length, trip(0, 1, 0, 2), chain)
    second = math.exp(2 * 1) / (math.exp(2 * 1) + math.exp(2 * 2))
    of_one = (1 / 2 + second) / 2
    np.testing.assert_allclose(costs.costs[:2], [-math.log(of_one), -math.log(1 - of_one)], rtol=1e-6)
    np.testing.assert_array_equal(costs.costs[2:4], [0, 0])
    np.testing.assert_array_equal(costs.costs[4:], chain.costs[4:])
    assert costs.metrics == {"costs_teacher_share": 0.5}


def test_the_mean_is_over_all_trips_in_any_number_of_chunks(small_city, monkeypatch):
    train = small_city.trips["train"]
    chain = MarkovChain.fit(train, small_city.network, 1.0)
    whole = teacher_costs(by_length, train, chain)
    chunks = Trajectories.chunks
    monkeypatch.setattr(Trajectories, "chunks", lambda self: chunks(self, 20))
    np.testing.assert_allclose(teacher_costs(by_length, train, chain).costs, whole.costs, rtol=1e-9)
    sums = np.add.reduceat(np.exp(-whole.costs), small_city.network.successors.indptr[:-1])
    np.testing.assert_allclose(sums, 1)


@pytest.mark.parametrize("useful", ["teacher", "chain"])
def test_the_pool_follows_the_member_that_predicts_validation_trips(useful):
    """The other member is uniform."""
    network = network_of([[1, 2], [0], [0]])
    val = trip(0, 1, 0, 1, 0, 1, 0, 2)
    counts = np.array([300, 100, 1, 1]) if useful == "chain" else np.ones(4, int)
    chain = MarkovChain(network, counts, smoothing=1e-6)

    def scores(_, candidates):
        likes = 3.0 if useful == "teacher" else 1.0
        return torch.where(candidates == 1, math.log(likes), 0.0).masked_fill(candidates < 0, -torch.inf)

    pool = pooled_costs(teacher_costs(scores, val, chain), chain, val)
    np.testing.assert_allclose(np.exp(-pool.costs), [0.75, 0.25, 1, 1], atol=0.01)
    assert set(pool.metrics) == {"costs_teacher_share", "costs_teacher_exponent", "costs_markov_exponent"}


@pytest.fixture
def model(small_city):
    torch.manual_seed(0)
    return HOSER.build(
        TINY, small_city.network, small_city.zones, small_city.transitions, log1p_mean=3.0, log1p_std=0.5
    )


def test_targets_have_the_costs_of_the_settings(small_city, model):
    """Costs are read where the chain's would be; synthetic trips add histories."""
    train, val, network = small_city.trips["train"], small_city.trips["val"], small_city.network
    own, more = train.take(np.arange(4)), train.take(np.arange(4, 20))
    made = {}
    for costs, synthetic in (("markov", None), ("lmtad", None), ("lmtad", more), ("pool", more)):
        settings = recipe("off_path", costs=costs, max_steps=10).off_path
        teacher = OffPathTeacher.fit(own, val, network, settings, sample_trips, by_length, synthetic)
        made[costs, synthetic is None], _ = sample_states(model, own, settings, teacher, seed=3)
        assert teacher.metrics.keys() >= ({"costs_teacher_share"} if costs != "markov" else set())
    scores = [states.scores.scores for states in made.values()]
    assert all(not np.array_equal(scores[i], scores[j]) for i in range(4) for j in range(i))


def test_stored_states_have_the_loss_of_online_ones(small_city, model):
    """With LM-TAD's part of the targets, for a batch of trips that are not consecutive."""
    train, network = small_city.trips["train"], small_city.network
    rows = np.array([1, 4, 5, 20])
    settings = recipe("off_path", teacher_weight=0.5, max_steps=20).off_path
    own = train.take(rows)
    teacher = OffPathTeacher.fit(own, small_city.trips["val"], network, settings, sample_trips, by_length)
    online = OffPath(model, own, rows, settings, teacher, seed=0)
    online.refresh(2, lambda *_: None)
    states, _ = sample_states(model, own, settings, teacher, seed=sampling_seed(0, 2))
    stored = OffPath(
        model, own, rows, settings, None, stored=with_teacher_scores(states, 0.5, by_length, network), seed=0
    )
    assert stored.refresh(9, lambda *_: None)["off_path_states"] == states.trips.num_steps
    batch = collate(train, np.array([20, 4]))
    assert stored.loss(batch, None, 0).item() == pytest.approx(online.loss(batch, None, 0).item(), rel=1e-5)


def test_a_student_trains_with_costs_of_lmtad_on_expanded_states(small_city, tmp_path):
    distill = recipe("off_path", costs="pool", states="expanded")
    more = {"online_teacher": by_length, "synthetic": small_city.trips["test"]}
    result = refined(small_city, tmp_path / "a", distill, **more)
    assert {"train_off_path", "costs_teacher_exponent", "off_path_states"} <= result.best.keys()
    # synthetic trips are histories here, not training trips
    plain = refined(small_city, tmp_path / "b")
    assert result.history == plain.history
    assert not torch.equal(weights(result.model), weights(plain.model))


def test_arguments_of_stored_states_and_costs_are_checked(small_city, tmp_path):
    with pytest.raises(ValueError, match=r"costs lmtad requires a teacher .* online_teacher=OnlineTeacher\("):
        refined(small_city, tmp_path, recipe("off_path", costs="lmtad"))
    with pytest.raises(ValueError, match=r"off_path_states=load_states\(folder\)"):
        refined(small_city, tmp_path, recipe("off_path", labels="stored"))
    with pytest.raises(ValueError, match="leave it out"):
        refined(small_city, tmp_path, off_path_states=())
    with pytest.raises(TypeError, match="off_path_states is of type tuple"):
        refined(small_city, tmp_path, recipe("off_path", labels="stored"), off_path_states=())
    assert not any(tmp_path.iterdir())


def test_states_of_other_trips_are_refused(small_city, model, tmp_path):
    settings = recipe("off_path", labels="stored").off_path
    own = small_city.trips["train"].take(np.arange(3))
    teacher = OffPathTeacher.fit(own, small_city.trips["val"], small_city.network, settings, sample_trips)
    states, _ = sample_states(model, own, settings, teacher, seed=0)
    with pytest.raises(ValueError, match="off_path_states has 6 trips"):
        refined(small_city, tmp_path, recipe("off_path", labels="stored"), off_path_states=states)


def test_settings_that_need_a_teacher_in_the_training():
    for off_path in ({"costs": "lmtad"}, {"teacher_weight": 0.5}):
        with pytest.raises(ConfigError, match=r"labels: online.*off_path\.labels: stored"):
            DistillConfig(recipe=["off_path"], off_path=off_path)
        assert not DistillConfig(recipe=["off_path"], off_path={**off_path, "labels": "stored"}).asks_teacher_off_path
        assert not DistillConfig(recipe=["kl"], off_path=off_path).asks_teacher_off_path


def test_which_stages_read_synthetic_trips_and_the_vanilla_student():
    def city(*recipe, **off_path):
        distill = {"recipe": recipe, "labels": "online", "off_path": off_path}
        config = CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}, "distill": distill})
        return config.uses_synthetic_trips, config.student_reads_synthetic_trips, config.reads_vanilla_student

    assert city("off_path") == (False, False, True)
    assert city("kl", "off_path") == (False, False, False)
    assert city("sequence") == (True, True, False)
    assert city("off_path", costs="pool") == (True, True, True)
    assert city("off_path", costs="pool", labels="stored") == (True, False, True)
    assert city("sequence", "off_path", labels="stored") == (True, True, True)
    assert city("off_path", costs="pool", weight=0.0, labels="stored") == (False, False, True)
    assert city("kl", costs="pool", labels="stored") == (False, False, False)
