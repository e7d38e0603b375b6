"""Next-step metrics, each compared with its definition in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_city import grid_network

from hoser_kd.common.arrays import Csr, offsets_of
from hoser_kd.hoser import collate
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.student.next_step_metrics import calibration_error, evaluate_student, frequency_baseline


def test_metrics_equal_their_definitions(small_city, small_model):
    trips = small_city.trips["val"]
    at, _ = trips.step_positions()
    degree = small_city.network.successors.degrees[trips.road_ids[at]]
    offsets = offsets_of(degree)
    scores = np.random.default_rng(0).normal(size=offsets[-1]).astype(np.float32)
    metrics = evaluate_student(
        small_model, trips, labels=SimpleNamespace(offsets=offsets, scores=scores), temperature=2.0, batch_size=7
    )
    small_model.eval()
    hits, top_3, nll, error_s, relative, logs, decisions, agree, kl = ([] for _ in range(9))
    step = 0
    with torch.no_grad():
        for i in range(len(trips)):
            output = small_model(collate(trips, np.array([i])))
            seconds = np.diff(trips.times[trips.offsets[i] : trips.offsets[i + 1]])
            for t, true_s in enumerate(seconds):
                logits = output.logits[0, t][output.candidate_mask[0, t]].double()
                label = int(output.label[0, t])
                p = logits.softmax(0)
                teacher = scores[offsets[step] : offsets[step + 1]].astype(float)
                step += 1
                hits.append(int(p.argmax()) == label)
                top_3.append(sorted(p.tolist(), reverse=True).index(float(p[label])) < 3)
                nll.append(-math.log(p[label]))
                log_s = float(output.time_pred[0, t]) * 0.5 + 3.0
                error_s.append(abs(max(math.expm1(log_s), 0) - true_s))
                relative.append(error_s[-1] / max(true_s, 1))
                logs.append(abs(log_s - math.log1p(true_s)) / max(math.log1p(true_s), 1))
                decisions.append(len(p) > 1)
                agree.append(int(p.argmax()) == int(teacher.argmax()))
                q = np.exp(teacher / 2) / np.exp(teacher / 2).sum()
                soft = (logits / 2).softmax(0).numpy()
                kl.append(float((q * np.log(q / soft)).sum()))
    decisions = np.array(decisions)
    expected = {
        "accuracy": np.mean(hits),
        "top_3": np.mean(top_3),
        "nll": np.mean(nll),
        "time_mae_s": np.mean(error_s),
        "time_mape": np.mean(relative),
        "time_log_mape": np.mean(logs),
        "steps": len(hits),
        "decision_share": decisions.mean(),
        "decision_accuracy": np.array(hits)[decisions].mean(),
        "teacher_agreement": np.array(agree)[decisions].mean(),
        "teacher_kl": np.array(kl)[decisions].mean(),
    }
    assert metrics.pop("calibration_error") >= 0
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_mode_of_the_model_is_kept(small_city, small_model):
    small_model.train()
    evaluate_student(small_model, small_city.trips["val"])
    assert small_model.training
    small_model.eval()
    assert "teacher_kl" not in evaluate_student(small_model, small_city.trips["val"])
    assert not small_model.training


def test_calibration_error():
    assert calibration_error(np.array([0.95] * 100), np.array([1.0] * 95 + [0.0] * 5)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.array([0.9, 0.9, 0.2, 0.2]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(0.85)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0.0


def test_frequency_baseline_equals_counting(small_city):
    network, train, val = small_city.network, small_city.trips["train"], small_city.trips["val"]
    counts_of = Counter()
    for i in range(len(train)):
        roads = train.roads(i).tolist()
        counts_of.update(pairwise(roads))
    chance, nll = [], []
    for i in range(len(val)):
        roads = val.roads(i).tolist()
        for here, there in pairwise(roads):
            counts = {int(c): counts_of[here, int(c)] for c in network.successors.row(here)}
            best = [c for c, n in counts.items() if n == max(counts.values())]
            chance.append((there in best) / len(best))
            nll.append(-math.log((counts[there] + 1) / (sum(counts.values()) + len(counts))))
    assert frequency_baseline(train, val, network) == pytest.approx({"accuracy": np.mean(chance), "nll": np.mean(nll)})


def test_frequency_baseline_with_dead_ends():
    network = grid_network(3)
    degrees = network.successors.degrees.copy()
    kept = np.repeat(np.arange(network.num_roads) != 4, degrees)
    degrees[4] = 0
    cut = type(network)(
        network.coord_offsets,
        network.coords,
        network.length_m,
        network.highway,
        Csr(offsets_of(degrees), network.successors.indices[kept]),
    )
    start = int(np.flatnonzero(degrees > 0)[0])
    trip = Trajectories(np.array([0, 2]), np.array([start, cut.successors.row(start)[0]]), np.array([0, 9]))
    metrics = frequency_baseline(trip, trip, cut)
    assert metrics["accuracy"] == 1.0
    assert math.isfinite(metrics["nll"])
