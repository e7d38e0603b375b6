"""The program of `torch.export` predicts what the library predicts, without the library."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import hoser_kd as hk
from hoser_kd.sharing.next_step_program import DESCRIPTION_FILE, NextStepModel

START = 1_683_000_000


@pytest.fixture(scope="module")
def paths(student):
    """Random paths of 1 to 20 roads, over midnights and weekends: (roads, times, destinations)."""
    rng = np.random.default_rng(5)
    start, successor = student.model.tables.successor_start.numpy(), student.model.tables.successor.numpy()
    roads, times = [], []
    for length in range(1, 21):
        path = [int(rng.integers(student.num_roads))]
        while len(path) < length and start[path[-1]] < start[path[-1] + 1]:
            path.append(int(rng.choice(successor[start[path[-1]] : start[path[-1] + 1]])))
        roads.append(path)
        times.append((START + rng.integers(7 * 86_400) + rng.integers(0, 400, len(path)).cumsum()).tolist())
    return roads, times, rng.integers(student.num_roads, size=20)


@pytest.fixture(scope="module")
def arguments(paths):
    roads, times, destinations = paths
    padded = [torch.zeros(len(roads), max(map(len, roads)), dtype=torch.int64) for _ in range(2)]
    for array, rows in zip(padded, (roads, times), strict=True):
        for place, row in enumerate(rows):
            array[place, : len(row)] = torch.tensor(row)
    return *padded, torch.tensor([len(row) for row in roads]), torch.tensor(destinations)


def check(result, expected):
    candidates, probabilities, seconds = (part.numpy() for part in result)
    there = candidates >= 0
    np.testing.assert_array_equal(there.sum(1), np.diff(expected.offsets))
    np.testing.assert_array_equal(candidates[there], expected.road_ids)
    np.testing.assert_allclose(probabilities[there], expected.probabilities, atol=2e-6)
    np.testing.assert_allclose(seconds[there], expected.seconds, rtol=1e-5)
    assert not probabilities[~there].any()
    assert not seconds[~there].any()


def test_the_program_predicts_as_the_library(student, paths, arguments, tmp_path):
    hk.export_next_step(student, tmp_path / "next_step.pt2")
    extra = {DESCRIPTION_FILE: ""}
    program = torch.export.load(tmp_path / "next_step.pt2", extra_files=extra).module()
    check(program(*arguments), hk.next_step(student, *paths))
    one = [part[3:4] for part in arguments]
    check(program(*one), hk.next_step(student, *(part[3:4] for part in paths)))
    description = json.loads(extra[DESCRIPTION_FILE])
    assert (description["num_roads"], description["student"]["city"]) == (student.num_roads, "town")
    assert [path.name for path in tmp_path.iterdir()] == ["next_step.pt2"]
    assert (tmp_path / "next_step.pt2").stat().st_size < 500_000


def test_a_dead_end_has_no_candidates(student, arguments):
    model = NextStepModel(student.model)
    model.candidates[arguments[0][0, 0]] = -1
    candidates, probabilities, seconds = model(*(part[:1] for part in arguments))
    assert (candidates == -1).all()
    assert not probabilities.any()
    assert not seconds.any()


def test_wrong_arguments_are_refused(student, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.pt2\. Call export_next_step\("):
        hk.export_next_step(student, tmp_path / "next_step.onnx")
    with pytest.raises(TypeError, match=r"student is of type str, not a student"):
        hk.export_next_step("student", tmp_path / "next_step.pt2")
    assert list(tmp_path.iterdir()) == []
