"""HOSER equals a plain transcription of the published code; its optimizations do not change results."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hoser_cities import TINY
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.hoser import HOSER, Batch, collate
from hoser_kd.hoser.batches import PADDING, RoadTables, road_tables
from hoser_kd.hoser.features import direction, folded, road_graph, zone_graph
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.losses import next_step_loss, time_loss


@pytest.fixture(scope="module")
def oracle():
    with warnings.catch_warnings():
        # PyTorch Geometric's own imports use what torch has deprecated
        warnings.simplefilter("ignore")
        import oracle_hoser
    return oracle_hoser


def plain_batch(oracle, network, trips, rows, **readings):
    return oracle.collate_plain(
        [
            oracle.trip_features(
                network, trips.roads(i), trips.times[trips.offsets[i] : trips.offsets[i + 1]], **readings
            )
            for i in rows
        ]
    )


@pytest.mark.parametrize(
    ("student", "readings"),
    [
        (TINY, {}),
        (
            TINY.model_copy(
                update={"num_heads": 4, "num_layers": 1, "candidate_angle": "true_bearing", "time_intervals": "elapsed"}
            ),
            {"candidate_angle": "true_bearing", "time_intervals": "elapsed"},
        ),
        (
            TINY.model_copy(
                update={"hidden_dim": 24, "road_id_dim": 4, "attribute_dim": 5, "num_layers": 3, "num_heads": 1}
            ),
            {},
        ),
    ],
)
def test_equals_plain_transcription_with_gradients(small_city, oracle, student, readings):
    torch.manual_seed(0)
    model = HOSER.build(
        student, small_city.network, small_city.zones, small_city.transitions, log1p_mean=3.0, log1p_std=0.5, max_len=20
    )
    # the first trips start at midnight of a weekend day, so that the sign and the wrap of the clock are met
    trips = small_city.trips["train"]
    trips = replace(trips, times=trips.times + 5 * 86_400 - trips.times[0] % 86_400)
    rows = np.arange(12)
    plain = oracle.PlainHoser(model.config, _features(model))
    plain.load_state_dict(model.state_dict())
    batch = plain_batch(oracle, small_city.network, trips, rows, **readings)
    logits, times = plain(batch)
    sum(oracle.plain_losses(batch, logits, times, 3.0, 0.5)).backward()
    output = model(collate(trips, rows), all_times=True)
    (next_step_loss(output) + time_loss(output, model.time_scale)).backward()
    where = batch["candidate_mask"]
    assert torch.equal(output.candidate_mask, where)
    torch.testing.assert_close(output.logits[where], logits[where], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.all_times[where], times[where], rtol=1e-5, atol=1e-5)
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if theirs[name].grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=2e-6, msg=name)


def _features(model):
    from hoser_kd.hoser.checkpoint import _features_of

    return _features_of(model.state_dict())


def test_restricted_encoder_equals_full_graph(small_model):
    encoder = small_model.road_network_encoder
    some = torch.tensor([0, 3, 17, 40, 90])
    weight = torch.randn(len(some), 16)
    grads = []
    for vectors in (encoder.encode_roads(some), encoder.encode_roads(torch.arange(small_model.config.num_roads))[some]):
        encoder.zero_grad()
        (vectors * weight).sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1])
    for restricted, full in zip(*grads, strict=True):
        torch.testing.assert_close(restricted, full, rtol=1e-5, atol=1e-6)


def test_gat_gradient_equals_numerical_gradient():
    from hoser_kd.hoser.graph_layers import _NeighborAttention, road_edges

    torch.manual_seed(0)
    pairs = torch.tensor([[0, 1, 2, 3, 4, 1], [1, 0, 0, 2, 2, 4]])
    edges = road_edges(pairs, torch.rand(6, 2, dtype=torch.float64), 5).into(torch.tensor([0, 2, 4]))
    args = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((len(edges.sources), 3), (3, 3), (3, 2), (3,))
    ]
    assert torch.autograd.gradcheck(lambda *a: _NeighborAttention.apply(*a, edges), args)


def test_padding_is_never_read(small_city, small_model):
    """Predictions for a trip depend neither on other trips in the batch nor on the values in padding."""
    trips = small_city.trips["test"]
    order = np.argsort(trips.lengths)
    short, long = order[0], order[-1]
    alone, together = small_model(collate(trips, [short])), small_model(collate(trips, [short, long]))
    n, c = alone.logits.shape[1:]
    assert together.logits.shape[1] > n
    torch.testing.assert_close(together.logits[0, :n, :c], alone.logits[0], rtol=1e-5, atol=1e-6)
    batch = collate(trips, [short, long])
    assert (batch.road_ids[0, batch.lengths[0] :] == PADDING).all()
    shifted = Batch(
        batch.road_ids, torch.where(batch.road_ids < 0, 123_456_789, batch.times), batch.lengths, batch.rows
    )
    again = small_model(shifted)
    assert torch.equal(again.logits[0, :n], together.logits[0, :n])
    assert not together.step_mask[0, n:].any()
    assert (together.label[0, n:] == -1).all()
    assert (together.logits[0, n:] == -torch.inf).all()


def test_collate_reads_the_rows(small_city):
    trips = small_city.trips["train"]
    batch = collate(trips, np.array([5, 2]))
    for b, row in enumerate((5, 2)):
        n = int(batch.lengths[b])
        assert batch.road_ids[b, :n].tolist() == trips.roads(row).tolist()
        assert (batch.road_ids[b, n:] == PADDING).all()
        assert batch.destinations[b] == trips.roads(row)[-1]
    assert batch.rows.tolist() == [5, 2]
    assert batch.step_mask.sum().item() == int((trips.lengths[[5, 2]] - 1).sum())


def test_dropout_only_in_training(small_city):
    student = TINY.model_copy(update={"dropout": 0.5})
    model = HOSER.build(student, small_city.network, small_city.zones, small_city.transitions, max_len=8)
    batch = collate(small_city.trips["test"], np.arange(4))
    with torch.no_grad():
        assert not torch.equal(model(batch).logits, model(batch).logits)
        model.eval()
        assert torch.equal(model(batch).logits, model(batch).logits)


def test_bf16_is_near_and_loss_is_float32(small_city, small_model):
    batch = collate(small_city.trips["test"], np.arange(8))
    exact = small_model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = small_model(batch)
    assert rough.logits.dtype == torch.float32
    where = exact.candidate_mask
    torch.testing.assert_close(rough.logits[where], exact.logits[where], rtol=0.1, atol=0.05)
    assert next_step_loss(rough).dtype == torch.float32


def test_time_scale_is_required(small_city, small_model):
    without_scale = HOSER.build(TINY, small_city.network, small_city.zones, small_city.transitions, max_len=8)
    with pytest.raises(ValueError, match="log1p_mean"):
        _ = without_scale.time_scale
    model = small_model
    assert model.time_scale.seconds(torch.tensor([0.0, -100.0])).tolist() == pytest.approx([np.expm1(3.0), 0.0])


def test_elapsed_and_published_intervals_differ_over_midnight():
    network = grid_network(3)
    both = {
        reading: RoadTables(road_tables(network, "published"), time_intervals=reading)
        for reading in ("published", "elapsed")
    }
    times = torch.tensor([[86_400 - 60, 86_400 + 60]])
    assert both["published"].pair_intervals(times)[0, 0, 1].item() == 1.0
    assert both["elapsed"].pair_intervals(times)[0, 0, 1].item() == pytest.approx(2 / 5)


def test_distances_equal_haversine(oracle):
    network = grid_network(4, spacing_deg=0.004)
    tables = RoadTables(road_tables(network, "published"), time_intervals="published")
    one, other = torch.arange(network.num_roads), torch.arange(network.num_roads).flip(0)
    a, b = network.centroids, network.centroids[::-1]
    expected = oracle.haversine_m(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
    np.testing.assert_allclose(tables.distances_m(one, other), expected, atol=1e-6)
    clipped = tables.pair_distances(torch.stack([one, other], 1))[:, 0, 1]
    np.testing.assert_allclose(clipped, np.clip(expected, 0, 1000) / 1000, atol=1e-6)
    assert clipped.max() == 1.0


def test_road_graph_equals_brute_force():
    network = grid_network(4)
    ends = [
        {tuple(point) for point in (start, end)}
        for start, end in zip(network.start.tolist(), network.end.tolist(), strict=True)
    ]
    expected = [(a, b) for a in range(len(ends)) for b in range(len(ends)) if a != b and ends[a] & ends[b]]
    assert road_graph(network).T.tolist() == [list(pair) for pair in expected]


def test_loop_road_and_isolated_road():
    """A loop road is paired with each neighbor once; an isolated road has no pair."""
    lines = [[[0, 0], [0, 1], [0, 0]], [[0, 0], [1, 1]], [[5, 5], [6, 6]]]
    network = RoadNetwork(
        offsets_of(np.array([3, 2, 2])),
        np.concatenate([np.array(x, float) for x in lines]),
        np.ones(3),
        np.array(["a"] * 3, object),
        Csr(np.array([0, 1, 2, 2]), np.array([1, 0])),
    )
    assert road_graph(network).T.tolist() == [[0, 1], [1, 0]]
    trips = Trajectories(np.array([0, 3]), np.array([0, 1, 0]), np.array([0, 10, 20]))
    model = HOSER.build(TINY, network, np.zeros(3, np.int64), np.zeros((1, 1), np.int64), max_len=4)
    output = model(collate(trips, [0]))
    assert torch.isfinite(output.logits[output.candidate_mask]).all()
    assert torch.isfinite(model.encode_all_roads()).all()


def test_directions():
    here = np.array([[41.0, -8.0]])
    for there, expected in (([41.0, -7.9], 0.0), ([41.1, -8.0], 0.5), ([41.0, -8.1], 1.0), ([40.9, -8.0], 1.5)):
        assert direction(here, np.array([there]))[0] / np.pi == pytest.approx(expected)
    assert folded(np.array([1.9 * np.pi, -1.9 * np.pi, 0.5 * np.pi])) == pytest.approx([0.1, 0.1, 0.5])


def test_zone_graph_sparse_equals_dense():
    from scipy.sparse import csr_array

    counts = np.random.default_rng(0).integers(0, 3, (9, 9))
    for dense, sparse in zip(zone_graph(counts), zone_graph(csr_array(counts)), strict=True):
        np.testing.assert_array_equal(dense, sparse)


def test_memory_mapped_store_gives_the_same_batch(small_city, tmp_path):
    trips = small_city.trips["train"]
    trips.save(tmp_path / "trips.arrow")
    ours, theirs = collate(Trajectories.load(tmp_path / "trips.arrow"), [3, 9]), collate(trips, [3, 9])
    assert torch.equal(ours.road_ids, theirs.road_ids)
    assert torch.equal(ours.times, theirs.times)


def test_random_networks_have_all_labels():
    for seed in range(3):
        network = grid_network(4)
        trips = random_trips(network, 10, seed)
        tables = RoadTables(road_tables(network, "published"), time_intervals="published")
        steps = tables.derive(collate(trips, np.arange(10)))
        assert len(steps.label) == trips.num_steps
        at, _ = trips.step_positions()
        expected = network.candidate_index(trips.road_ids[at], trips.road_ids[at + 1])
        assert steps.label.tolist() == expected.tolist()
