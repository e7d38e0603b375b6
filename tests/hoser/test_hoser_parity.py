"""Parity with the published code: features, batches and outputs of both checkpoints."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from hoser_kd.hoser import build_graph_features, collate, load_checkpoint, time_label_statistics
from hoser_kd.hoser.batches import RoadTables, road_tables
from hoser_kd.student.losses import next_step_loss, time_loss

TOLERANCE = 1e-5


def close(ours, theirs, where=None):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    where = np.ones(ours.shape, bool) if where is None else where
    np.testing.assert_allclose(ours[where], theirs[where], rtol=0, atol=TOLERANCE)


@pytest.fixture
def batch(golden_city):
    return collate(golden_city.trips["test"], np.arange(8))


def test_graph_features(golden_city, golden_io):
    features = build_graph_features(golden_city.network, golden_city.zones, golden_city.transitions)
    for field in fields(features):
        ours, theirs = getattr(features, field.name), golden_io[f"feat_{field.name}"]
        assert ours.dtype == theirs.dtype
        close(ours, theirs)


def test_batch(golden_city, golden_io, batch):
    tables = RoadTables(road_tables(golden_city.network, "published"), time_intervals="published")
    steps = tables.derive(batch)
    mask = steps.step_mask.numpy()
    pairs = mask[:, :, None] & mask[:, None]
    candidates = steps.padded(torch.ones(len(steps.candidate)), 0).numpy() > 0
    close(batch.road_ids[:, :-1], golden_io["batch_trace_road_id"], mask)
    close(batch.lengths - 1, golden_io["batch_trace_len"])
    close(steps.destination, golden_io["batch_destination_road_id"])
    close(steps.time_of_day, golden_io["batch_temporal_info"], mask)
    close(steps.distance, golden_io["batch_trace_distance_mat"], pairs)
    close(steps.interval, golden_io["batch_trace_time_interval_mat"], pairs)
    close(candidates.sum(2), golden_io["batch_candidate_len"], mask)
    close(steps.padded(steps.candidate, -1), golden_io["batch_candidate_road_id"], candidates)
    close(steps.padded(steps.metric_distance, 0), golden_io["batch_metric_dis"], candidates)
    close(steps.padded(steps.metric_angle, 0), golden_io["batch_metric_angle"], candidates)
    close(steps.padded_steps(steps.label, 0), golden_io["batch_road_label"], mask)
    label = (torch.log1p(steps.seconds) - float(golden_io["log1p_mean"])) / float(golden_io["log1p_std"])
    close(steps.padded_steps(label, 0), golden_io["batch_timestamp_label"], mask)


def test_time_label_statistics(golden_city, golden_io):
    mean, std = time_label_statistics(golden_city.trips["train"])
    assert mean == pytest.approx(float(golden_io["log1p_mean"]), rel=1e-6)
    assert std == pytest.approx(float(golden_io["log1p_std"]), rel=1e-6)


@pytest.mark.parametrize(("name", "prefix"), [("hoser_ckpt", ""), ("hoser_ckpt_trained", "trained_")])
def test_outputs(
    golden,
    golden_city,
    golden_io,
    batch,
    name,
    prefix,
):
    model = load_checkpoint(
        golden / f"{name}.pth",
        golden_city.network,
        golden_city.zones,
        log1p_mean=float(golden_io["log1p_mean"]),
        log1p_std=float(golden_io["log1p_std"]),
    )
    with torch.no_grad():
        output = model(batch, all_times=True)
        close(model.road_network_encoder.encode_zones(), golden_io[f"{prefix}zone_embedding"])
    candidates = output.candidate_mask.numpy()
    close(model.encode_all_roads(), golden_io[f"{prefix}road_embedding"])
    close(output.logits, golden_io[f"{prefix}logits"], candidates)
    close(output.all_times, golden_io[f"{prefix}time_pred"], candidates)
    at_label = output.all_times.gather(2, output.label.clamp(min=0)[..., None])[..., 0]
    close(output.time_pred, at_label, output.step_mask.numpy())
    close(next_step_loss(output), golden_io[f"{prefix}loss_next_step"])
    close(time_loss(output, model.time_scale), golden_io[f"{prefix}loss_time_pred"])
    hits = (output.logits.argmax(2) == output.label)[output.step_mask]
    close(hits.float().mean(), golden_io[f"{prefix}acc"])
