"""Unexpected behavior of the published HOSER code, each kept, fixed or made an option.

Tested elsewhere: dead ends and bad rows (test_generator, test_trajectories), lists of road classes (test_road_network),
the published EDR and its overflow bin (test_metrics), plain numbers in generated CSV and OD sources (test_generator).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hoser_cities import TINY, count_transitions
from small_city import grid_network, random_trips

from hoser_kd.hoser import HOSER, StudentOutput, TimeScale, collate
from hoser_kd.hoser.batches import PADDING, RoadTables, road_tables, time_of_day
from hoser_kd.hoser.features import zone_graph
from hoser_kd.hoser.graph_layers import zone_edges
from hoser_kd.student.losses import next_step_loss, time_loss
from hoser_kd.student.next_step_metrics import evaluate_student

SATURDAY_S = 2 * 86_400


def tables(network, angle="published", intervals="published"):
    return RoadTables(road_tables(network, angle), time_intervals=intervals)


@pytest.mark.parametrize(("reading", "order"), [("true_bearing", (0, 1)), ("published", (1, 0))])
def test_published_candidate_angle_swaps_longitude_and_latitude(reading, order):
    """An option: the published variant, which published weights require, and the true bearing."""
    network = grid_network(5)
    road, destination = 3, network.num_roads - 2
    candidate, _, _, _, angle = tables(network, reading).metrics(torch.tensor([road]), torch.tensor([destination]))
    end = np.radians(network.end[:, list(order)])

    def bearing(to):
        delta = end[to] - end[road]
        return np.arctan2(delta[0], np.cos(end[road, 0]) * delta[1])

    turns = [abs(bearing(int(one)) - bearing(destination)) for one in candidate]
    expected = [min(turn, 2 * np.pi - turn) / np.pi for turn in turns]
    assert angle.tolist() == pytest.approx(expected, abs=1e-6)
    other = tables(network, "true_bearing" if reading == "published" else "published")
    assert other.metrics(torch.tensor([road]), torch.tensor([destination]))[4].tolist() != pytest.approx(expected)


def test_time_loss_is_of_log_seconds_and_metrics_are_of_seconds():
    """Kept in the loss: predicting 30 s for 60 s costs 0.165. The metrics also include errors in seconds."""
    one = torch.ones(1, 1)
    scale = TimeScale(0.0, 1.0)
    output = StudentOutput(
        logits=torch.zeros(1, 1, 1),
        candidates=torch.zeros(1, 1, 1, dtype=torch.int64),
        label=torch.zeros(1, 1, dtype=torch.int64),
        step_mask=one > 0,
        time_pred=one * np.log1p(30.0),
        seconds=one * 60,
    )
    assert time_loss(output, scale).item() == pytest.approx(0.1647, abs=1e-4)

    class Half:
        """A student that predicts 30 s."""

        training, device, time_scale = False, torch.device("cpu"), scale
        eval = train = lambda self, *_: self
        __call__ = staticmethod(lambda batch: output)

    network = grid_network(3)
    metrics = evaluate_student(Half(), random_trips(network, 1, lengths=(2, 2)))
    assert metrics["time_mae_s"] == pytest.approx(30, rel=1e-5)
    assert metrics["time_mape"] == pytest.approx(0.5, rel=1e-5)
    assert metrics["time_log_mape"] == pytest.approx(0.1647, abs=1e-4)


def test_weekend_is_that_of_the_first_point_and_negates_the_time_of_day():
    """Kept: a trip from Friday to Saturday counts as Friday; midnight at a weekend is -0.0, which equals 0.0."""
    friday_night = torch.tensor([[SATURDAY_S - 60, SATURDAY_S + 60]])
    assert (time_of_day(friday_night, friday_night[:, 0]) > 0).all()
    saturday = torch.tensor([[SATURDAY_S, SATURDAY_S + 43_200]])
    clock = time_of_day(saturday, saturday[:, 0])
    assert clock[0, 1] == -0.5
    assert clock[0, 0] == 0
    assert torch.signbit(clock[0, 0])
    monday = saturday + 2 * 86_400
    assert (time_of_day(monday, monday[:, 0]) >= 0).all()


def test_weekend_midnight_equals_any_other(small_model):
    encoder = small_model.trajectory_encoder.temporal_encoder
    assert torch.equal(encoder(torch.tensor([-0.0])), encoder(torch.tensor([0.0])))


def test_published_intervals_ignore_the_date():
    """An option: from 23:59 to 00:01 is the maximum interval in the published variant, and 2 min in `elapsed`."""
    times = torch.tensor([[86_340, 86_460]])
    assert tables(grid_network(3)).pair_intervals(times)[0, 0, 1] == 1.0
    true = tables(grid_network(3), intervals="elapsed").pair_intervals(times)[0, 0, 1]
    assert true.item() == pytest.approx(2 / 5)


def test_collate_does_not_change_the_trips(small_city):
    """Fixed: padding in place changed the second epoch."""
    trips = small_city.trips["train"]
    before = [part.copy() for part in (trips.offsets, trips.road_ids, trips.times)]
    rows = np.array([4, 9, 1])
    first, second = collate(trips, rows), collate(trips, rows)
    first.road_ids.fill_(7)
    third = collate(trips, rows)
    assert torch.equal(second.road_ids, third.road_ids)
    for was, now in zip(before, (trips.offsets, trips.road_ids, trips.times), strict=True):
        np.testing.assert_array_equal(was, now)


def test_padding_is_not_a_candidate(small_city, small_model):
    """Fixed: padding was road 0 at the best possible distance."""
    output = small_model(collate(small_city.trips["train"], np.arange(6)))
    nothing = ~output.candidate_mask
    assert nothing.any()
    assert (output.candidates[nothing] == PADDING).all()
    assert (output.logits[nothing] == -torch.inf).all()


def test_zone_weights_are_normalized_twice():
    """Kept: first by the traffic of the zones, then again in the layer, including self-loops of weight 1."""
    edges, weights = zone_graph(np.array([[0, 4], [1, 0]]))
    assert weights.tolist() == [2.0, 0.5]
    graph = zone_edges(torch.from_numpy(edges), torch.from_numpy(weights), 2)
    # into zone 0: from zone 1 and itself; into zone 1: from zone 0 and itself
    assert graph.source.tolist() == [1, 0, 0, 1]
    assert graph.attribute.tolist() == pytest.approx([0.5 / np.sqrt(3 * 1.5), 1 / 1.5, 2 / np.sqrt(3 * 1.5), 1 / 3])


def test_memory_grows_linearly_with_roads():
    """Fixed: (N, N) adjacency and distances took 6.4 GB at 40,000 roads."""
    size = {}
    for blocks in (8, 16):
        network = grid_network(blocks)
        zones = np.arange(network.num_roads) * 4 // network.num_roads
        model = HOSER.build(TINY, network, zones, count_transitions(zones, random_trips(network, 9), 4), max_len=4)
        held = SimpleNamespace(total=sum(t.nbytes for t in (*model.parameters(), *model.buffers())))
        fixed = sum(p.nbytes for name, p in model.named_parameters() if "road_id_emb" not in name)
        size[network.num_roads] = held.total - fixed
    (few, small), (many, large) = size.items()
    assert large / small < 1.2 * many / few


@pytest.mark.parametrize("what", ["road", "zone"])
def test_vectors_of_roads_and_zones_are_trained(small_city, small_model, what):
    """Fixed: road and zone vectors were computed once without gradient, so a third of the weights was not trained."""
    output = small_model(collate(small_city.trips["train"], np.arange(6)))
    next_step_loss(output).backward()
    encoder = small_model.road_network_encoder
    parts = (
        [encoder.road_id_emb, *encoder.road_gat.convs]
        if what == "road"
        else [encoder.zone_id_emb, *encoder.zone_gcn.convs]
    )
    for part in parts:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
