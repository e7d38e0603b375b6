"""Labels equal the teacher's distribution at each step, for any window; files carry a fingerprint of their inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_city import grid_network, random_trips

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import CheckpointError, StoreError
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig, load_checkpoint
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.teacher.history_encoding import step_vectors
from hoser_kd.teacher.label_diagnostics import diagnose
from hoser_kd.teacher.label_scoring import SoftLabelScorer
from hoser_kd.teacher.soft_labels import SoftLabels, fingerprint, label, write_labels

NETWORK = grid_network(5)
NUM_CELLS = 12
CELLS = np.random.default_rng(0).integers(0, NUM_CELLS, NETWORK.num_roads)


def teacher_with(block_size=40, seed=0, num_labels=NUM_CELLS, **changes):
    torch.manual_seed(seed)
    config = LMTADConfig(block_size, num_labels + 3, **{"n_layer": 2, "n_head": 2, "n_embd": 16, **changes})
    model = LMTAD(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform, so that a wrong history shows
    return model


TEACHER = teacher_with()
SHORT, SHORT_OF_ROADS = teacher_with(block_size=20), teacher_with(block_size=20, num_labels=NETWORK.num_roads)
TRIPS = random_trips(NETWORK, 12, seed=1, lengths=(1, 18))


def distributions(teacher, trips, window, tokens=CELLS):
    """Reference: one call of the teacher per step."""
    at, row = trips.step_positions()
    rows = []
    for position, trip in zip(at, row, strict=True):
        history = [teacher.config.sot_token, *tokens[trips.road_ids[trips.offsets[trip] : position + 1]]]
        if teacher.config.destination_prefix:
            history[1:1] = [tokens[trips.road_ids[trips.offsets[trip + 1] - 1]]]
            if window is not None and len(history) > window:
                history[2:] = history[len(history) - window + 2 :]
        rows.append(teacher.predict_next_distribution(history, window).double().numpy())
    return np.array(rows), trips.road_ids[at]


def assert_labels_equal_the_reference(labels, teacher, trips, window, tokens=CELLS):
    probabilities, roads = distributions(teacher, trips, window, tokens)
    assert len(labels) == len(roads) == trips.num_steps
    for step, road in enumerate(roads):
        scores = labels.scores[labels.offsets[step] : labels.offsets[step + 1]].astype(float)
        cells = tokens[NETWORK.successors.row(road)]
        np.testing.assert_allclose(
            log_softmax(scores), log_softmax(np.log(probabilities[step][cells])), atol=1e-5, rtol=0
        )
        if labels.outside_mass is not None:
            inside = probabilities[step][np.unique(cells)].sum()
            assert labels.outside_mass[step] + inside == pytest.approx(1, abs=1e-5)


def log_softmax(scores):
    return scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()


@pytest.mark.parametrize("window", ["full", 1, 2, 5, 8, 19, 64])
def test_labels_equal_one_call_a_step(window):
    labels = label(TEACHER, CELLS, TRIPS, NETWORK, window, batch_tokens=30)
    assert labels.scores.dtype == np.float32
    assert_labels_equal_the_reference(labels, TEACHER, TRIPS, None if window == "full" else window)


@pytest.mark.parametrize("window", ["full", 3, 5, 19, 64])
@pytest.mark.parametrize("block_size", [12, 40])
def test_labels_know_the_destination(window, block_size):
    teacher = teacher_with(block_size, destination_prefix=True)
    labels = label(teacher, CELLS, TRIPS, NETWORK, window, batch_tokens=30)
    reached = block_size if window == "full" else min(window, block_size)
    assert_labels_equal_the_reference(labels, teacher, TRIPS, reached)
    with pytest.raises(ValueError, match="at least 3"):
        label(teacher, CELLS, TRIPS, NETWORK, 2)


def test_an_option_that_is_off_leaves_fingerprints_unchanged():
    assert "destination_prefix" not in TEACHER.config.fields()
    assert teacher_with(destination_prefix=True).config.fields()["destination_prefix"] is True


ROADS = np.arange(NETWORK.num_roads)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["cells", "roads"]),
    st.integers(0, 10_000),
    st.integers(1, 30) | st.just("full"),
    st.integers(1, 200),
    st.integers(1, 5),
)
def test_any_window_equals_one_call_a_step_on_any_trips(kind, seed, window, batch_tokens, num_trips):
    """Trips shorter and longer than window and context, tokens of cells and of roads: scores of the candidates, and
    with the outside mass their share of the full distribution."""
    teacher, tokens = (SHORT, CELLS) if kind == "cells" else (SHORT_OF_ROADS, ROADS)
    trips = random_trips(NETWORK, num_trips, seed, lengths=(1, 34))
    labels = label(teacher, tokens, trips, NETWORK, window, batch_tokens=batch_tokens, outside_mass=True)
    assert_labels_equal_the_reference(labels, teacher, trips, None if window == "full" else window, tokens)


def test_histories_beyond_the_context_are_its_window():
    short = teacher_with(block_size=7)
    labels = label(short, CELLS, TRIPS, NETWORK, "full")
    assert_labels_equal_the_reference(labels, short, TRIPS, None)
    np.testing.assert_array_equal(labels.scores, label(short, CELLS, TRIPS, NETWORK, 7).scores)


def test_published_weights(golden):
    teacher = load_checkpoint(golden / "lmtad_ckpt.pt").model
    labels = label(teacher, CELLS, TRIPS, NETWORK, 4)
    assert_labels_equal_the_reference(labels, teacher, TRIPS, 4)


def test_each_step_is_computed_once_and_whole_trips_cost_their_length():
    seen, tokens = [], 0
    hidden = TEACHER.hidden

    def counting(tokens_BT, **options):
        nonlocal tokens
        tokens += tokens_BT.numel()
        return hidden(tokens_BT, **options)

    TEACHER.hidden = counting
    try:
        for steps, _ in step_vectors(TEACHER, TRIPS.offsets, CELLS[TRIPS.road_ids], batch_tokens=1):
            seen.append(steps)
    finally:
        del TEACHER.hidden
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(TRIPS.num_steps))
    assert tokens == TRIPS.lengths[TRIPS.lengths > 1].sum()


def test_outside_mass_and_diagnosis_equal_one_call_a_step(monkeypatch):
    for module in ("label_scoring", "label_diagnostics"):
        monkeypatch.setattr(f"hoser_kd.teacher.{module}.LOGITS_AT_ONCE", 7 * (NUM_CELLS + 3))
    labels = label(TEACHER, CELLS, TRIPS, NETWORK, 5, outside_mass=True)
    probabilities, roads = distributions(TEACHER, TRIPS, 5)
    inside = np.array(
        [p[np.unique(CELLS[NETWORK.successors.row(r)])].sum() for p, r in zip(probabilities, roads, strict=True)]
    )
    np.testing.assert_allclose(labels.outside_mass, 1 - inside, atol=1e-5)
    found = diagnose(TEACHER, CELLS, TRIPS, NETWORK, 5, sample=None)
    at, _ = TRIPS.step_positions()
    true = CELLS[TRIPS.road_ids[at + 1]]
    np.testing.assert_array_equal(found["step"], np.arange(len(at)))
    np.testing.assert_allclose(found["candidate_mass"], inside, atol=1e-5)
    np.testing.assert_allclose(found["entropy_nats"], -(probabilities * np.log(probabilities)).sum(1), atol=1e-4)
    np.testing.assert_allclose(found["true_probability"], probabilities[np.arange(len(at)), true], atol=1e-5)
    np.testing.assert_array_equal(found["top_is_true"], probabilities.argmax(1) == true)
    assert (found["candidate_top_is_true"] >= found["top_is_true"]).all()
    assert (found["num_cells"] <= found["num_candidates"]).all()
    assert found["means"]["candidate_mass"] == pytest.approx(inside.mean(), abs=1e-5)


def test_a_tiny_outside_mass_is_accurate():
    certain = teacher_with()
    with torch.no_grad():
        certain.lm_head.weight.mul_(60)
    mass = label(certain, CELLS, TRIPS, NETWORK, outside_mass=True).outside_mass
    assert (mass > 0).any()
    assert mass.min() < 1e-9


def test_a_sample_is_drawn_by_the_seed():
    whole = diagnose(TEACHER, CELLS, TRIPS, NETWORK, sample=None)
    some = diagnose(TEACHER, CELLS, TRIPS, NETWORK, sample=4, seed=3)
    again = diagnose(TEACHER, CELLS, TRIPS, NETWORK, sample=4, seed=3)
    np.testing.assert_array_equal(some["step"], again["step"])
    np.testing.assert_allclose(some["entropy_nats"], whole["entropy_nats"][some["step"]], atol=1e-5)
    assert 0 < len(some["step"]) < len(whole["step"])


def test_file_keeps_everything_and_is_mapped(tmp_path):
    labels = label(TEACHER, CELLS, TRIPS, NETWORK, outside_mass=True)
    labels.save(tmp_path / "new" / "labels.arrow")
    made_from = fingerprint(TEACHER, CELLS, TRIPS, NETWORK)
    loaded = SoftLabels.load(tmp_path / "new" / "labels.arrow", expect=made_from)
    for name in ("offsets", "scores", "outside_mass"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(labels, name))
        assert not getattr(loaded, name).flags.writeable
    assert loaded.fingerprint == labels.fingerprint == made_from


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("teacher", "the teacher's weights"),
        ("grid", "the roads' tokens"),
        ("roads", "the road graph"),
        ("trajectories", "the trips"),
        ("window", "the window"),
    ],
)
def test_labels_of_other_inputs_are_refused(tmp_path, part, message):
    labels = label(TEACHER, CELLS, TRIPS, NETWORK)
    labels.save(tmp_path / "labels.arrow")
    args = {"teacher": TEACHER, "grid": CELLS, "roads": NETWORK, "trajectories": TRIPS, "window": "full"}
    args[part] = {
        "teacher": teacher_with(seed=9),
        "grid": np.roll(CELLS, 1),
        "roads": grid_network(4),
        "trajectories": TRIPS.take(np.arange(5)),
        "window": 64,
    }[part]
    expect = fingerprint(args["teacher"], args["grid"], args["trajectories"], args["roads"], args["window"])
    with pytest.raises(StoreError, match=f"computed from other inputs: {message} differ"):
        SoftLabels.load(tmp_path / "labels.arrow", expect=expect)
    SoftLabels.load(tmp_path / "labels.arrow")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "labels.arrow"
    with pytest.raises(StoreError, match="no such file"):
        SoftLabels.load(path)
    label(TEACHER, CELLS, TRIPS, NETWORK).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match="not a readable file of soft labels"):
        SoftLabels.load(path)


class Killed(Exception):
    pass


def test_a_killed_run_resumes_after_the_last_complete_shard(tmp_path):
    whole = label(TEACHER, CELLS, TRIPS, NETWORK, 6, outside_mass=True)
    reported = []

    def kill(stage, done, total, figures=None):
        reported.append(done)
        if len(list(tmp_path.glob("shard-*.arrow"))) == 2:
            raise Killed

    options = {"shards_folder": tmp_path, "shard_steps": 20, "outside_mass": True}
    with pytest.raises(Killed):
        label(TEACHER, CELLS, TRIPS, NETWORK, 6, progress=kill, **options)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.arrow")}
    resumed = label(TEACHER, CELLS, TRIPS, NETWORK, 6, **options)
    assert len(kept) == 2 < len(list(tmp_path.iterdir()))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    np.testing.assert_array_equal(resumed.offsets, whole.offsets)
    np.testing.assert_allclose(resumed.scores, whole.scores, atol=1e-5)
    np.testing.assert_allclose(resumed.outside_mass, whole.outside_mass, atol=1e-6)
    assert reported == sorted(reported)


def test_shards_of_other_settings_are_recomputed(tmp_path):
    label(TEACHER, CELLS, TRIPS, NETWORK, 6, shards_folder=tmp_path, shard_steps=20)
    other = label(TEACHER, CELLS, TRIPS, NETWORK, 3, shards_folder=tmp_path, shard_steps=20)
    plain = label(TEACHER, CELLS, TRIPS, NETWORK, 3)
    np.testing.assert_allclose(other.scores, plain.scores, atol=1e-5)
    larger = label(TEACHER, CELLS, TRIPS, NETWORK, 3, shards_folder=tmp_path, shard_steps=33)
    np.testing.assert_allclose(larger.scores, plain.scores, atol=1e-5)


def test_progress_ends_with_all_steps():
    calls = []
    label(TEACHER, CELLS, TRIPS, NETWORK, batch_tokens=20, progress=lambda *call: calls.append(call[:3]))
    assert calls[-1] == ("labels", TRIPS.num_steps, TRIPS.num_steps)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert sum(done == TRIPS.num_steps for _, done, _ in calls) == 1


def test_no_trips_and_trips_of_one_road():
    for trips in (
        TRIPS.take(np.zeros(0, np.int64)),
        Trajectories(offsets_of(np.ones(3, np.int64)), np.zeros(3, np.int64), np.zeros(3, np.int64)),
    ):
        labels = label(TEACHER, CELLS, trips, NETWORK, 3, outside_mass=True)
        assert (len(labels), len(labels.scores), len(labels.outside_mass)) == (0, 0, 0)


def test_a_teacher_in_training_is_labeled_without_dropout_and_left_as_it_was():
    busy = teacher_with(dropout=0.5).train()
    first, second = (label(busy, CELLS, TRIPS, NETWORK).scores for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert busy.training


def test_half_precision_is_ignored_on_a_cpu():
    plain = label(TEACHER, CELLS, TRIPS, NETWORK)
    half = label(TEACHER, CELLS, TRIPS, NETWORK, half=True, device="cpu")
    np.testing.assert_array_equal(half.scores, plain.scores)


def test_tokens_outside_the_vocabulary_are_refused():
    wrong = CELLS.copy()
    wrong[7] = NUM_CELLS
    with pytest.raises(CheckpointError, match=r"token 12 of road 7 is out of range \[0, 11\]"):
        label(TEACHER, wrong, TRIPS, NETWORK)
    with pytest.raises(CheckpointError, match=f"{NETWORK.num_roads} roads"):
        label(TEACHER, CELLS[:-1], TRIPS, NETWORK)


@pytest.mark.parametrize("window", [0, -3, "5", "all", 2.5, None])
def test_a_bad_window_is_refused(window):
    with pytest.raises(ValueError, match="must be 'full' or an integer of at least 1"):
        label(TEACHER, CELLS, TRIPS, NETWORK, window)


def test_a_loaded_checkpoint_is_a_teacher():
    checkpoint = LMTADCheckpoint(TEACHER, TEACHER.config, {})
    expected = label(TEACHER, CELLS, TRIPS, NETWORK)
    np.testing.assert_array_equal(label(checkpoint, CELLS, TRIPS, NETWORK).scores, expected.scores)
    np.testing.assert_array_equal(label(TEACHER, CELLS.tolist(), TRIPS, NETWORK).scores, expected.scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("teacher.pt", CELLS, TRIPS, NETWORK),
            r"teacher is of type str.* with teacher = hoser_kd\.load_teacher\(path\)",
        ),
        (
            (TEACHER, CELLS, NETWORK, TRIPS),
            r"trips is of type RoadNetwork, not Trajectories\. Call label\(teacher, tokens, tri",
        ),
        ((TEACHER, TRIPS, CELLS, NETWORK), r"trips is of type ndarray.*= hoser_kd\.read_trips\(csv, network\)"),
        (
            (TEACHER, CELLS, TRIPS, "porto"),
            r"network is of type str, not RoadNetwork.*= hoser_kd\.read_network\(folder\)",
        ),
        (
            (TEACHER, CELLS / 2, TRIPS, NETWORK),
            r"tokens is of type ndarray with dtype float64\. .*token_table\(grid, network\)",
        ),
        (
            (TEACHER, NETWORK, TRIPS, NETWORK),
            r"tokens is of type RoadNetwork with dtype object\. Give the token of each road",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_call(arguments, message):
    with pytest.raises(TypeError, match=message):
        label(*arguments)


def test_trips_of_a_larger_network_are_refused():
    small = grid_network(3)
    with pytest.raises(ValueError, match=rf"but the network has roads 0 to {small.num_roads - 1}\. Give the network"):
        label(TEACHER, CELLS[: small.num_roads], TRIPS, small)


def test_a_shard_with_a_flipped_bit_is_recomputed(tmp_path):
    whole = label(TEACHER, CELLS, TRIPS, NETWORK, 6, shards_folder=tmp_path, shard_steps=20)
    shard = tmp_path / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    place = content.index(SoftLabels.load(shard).scores[3].tobytes())
    content[place] ^= 1
    shard.write_bytes(content)
    again = label(TEACHER, CELLS, TRIPS, NETWORK, 6, shards_folder=tmp_path, shard_steps=20)
    np.testing.assert_array_equal(again.scores, whole.scores)


@pytest.mark.parametrize("outside_mass", [False, True])
def test_labels_written_shard_by_shard_are_the_file_of_all_labels(tmp_path, outside_mass):
    scorer = SoftLabelScorer(TEACHER, CELLS, NETWORK, outside_mass=outside_mass)
    steps = []
    options = {"shards_folder": tmp_path / "shards", "shard_steps": 20}
    written = write_labels(
        scorer, TRIPS, tmp_path / "a.arrow", progress=lambda _, done, total: steps.append((done, total)), **options
    )
    label(TEACHER, CELLS, TRIPS, NETWORK, outside_mass=outside_mass, **options).save(tmp_path / "b.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert not written.scores.flags.writeable
    assert steps[-1] == (TRIPS.num_steps, TRIPS.num_steps)
    assert not list((tmp_path / "shards").glob("*.joined"))
