"""Scores equal the model's own; outliers are generated as described, and detected among normal trips."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.errors import CheckpointError, StoreError, TrainingError
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.lmtad import LMTAD, LMTADConfig, load_checkpoint
from hoser_kd.teacher.corpus import Corpus
from hoser_kd.teacher.outliers import OutlierSetting, _as_tokens, detours, outlier_test, route_switches
from hoser_kd.teacher.scoring import score
from hoser_kd.teacher.training import train

HEIGHT, WIDTH = 6, 7
VOCABULARY = HEIGHT * WIDTH + 3


def rows_of_the_grid(num, seed):
    """Trips along a row or a column of the grid, one cell per step."""
    rng = np.random.default_rng(seed)
    trips = []
    for _ in range(num):
        if rng.random() < 0.5:
            trips.append(rng.integers(HEIGHT) * WIDTH + np.arange(WIDTH))
        else:
            trips.append(np.arange(HEIGHT) * WIDTH + rng.integers(WIDTH))
    return Corpus(offsets_of(np.array([len(trip) for trip in trips])), np.concatenate(trips))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LMTAD(LMTADConfig(block_size=12, vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=16)).eval()


def corpora(longest=10):
    return st.lists(
        st.lists(st.integers(0, HEIGHT * WIDTH - 1), min_size=1, max_size=longest), min_size=1, max_size=8
    ).map(lambda trips: Corpus(offsets_of(np.array([len(t) for t in trips])), np.concatenate(trips).astype(np.int64)))


@given(corpora(), st.integers(1, 5))
def test_scores_equal_the_models_own(model, corpus, batch_size):
    scores = score(model, corpus, batch_size=batch_size)
    alone = [
        model.log_perplexity(torch.from_numpy(corpus.batch(np.array([i]), model.config)))[0]
        for i in range(corpus.num_sequences)
    ]
    np.testing.assert_allclose(scores.log_perplexity, alone, atol=1e-5)
    whole = torch.from_numpy(corpus.batch(np.arange(corpus.num_sequences), model.config))
    with torch.no_grad():
        assert scores.loss == pytest.approx(float(model.loss(whole)), abs=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    np.testing.assert_array_equal(np.delete(scores.tokens, scores.offsets[1:] - 1), corpus.tokens)
    assert (scores.tokens[scores.offsets[1:] - 1] == model.config.eot_token).all()


@given(corpora())
def test_a_destination_is_scored_as_the_first_token(corpus):
    torch.manual_seed(2)
    teacher = LMTAD(
        LMTADConfig(block_size=12, vocab_size=VOCABULARY, n_layer=1, n_head=2, n_embd=16, destination_prefix=True)
    ).eval()
    scores = score(teacher, corpus)
    fitting = corpus.take(scores.rows)
    assert (corpus.lengths[scores.rows] <= 12 - 3).all()
    np.testing.assert_array_equal(np.diff(scores.offsets), fitting.lengths + 2)
    np.testing.assert_array_equal(scores.tokens[scores.offsets[:-1]], fitting.tokens[fitting.offsets[1:] - 1])
    alone = [
        teacher.log_perplexity(torch.from_numpy(fitting.batch(np.array([i]), teacher.config)))[0]
        for i in range(fitting.num_sequences)
    ]
    np.testing.assert_allclose(scores.log_perplexity, alone, atol=1e-5)


def test_published_log_perplexities(golden):
    published = np.load(golden / "lmtad_io.npz")
    teacher = load_checkpoint(golden / "lmtad_ckpt.pt").model
    trips = [row[(row < 100)] for row in published["ids"]]
    corpus = Corpus(offsets_of(np.array([len(trip) for trip in trips])), np.concatenate(trips))
    np.testing.assert_allclose(score(teacher, corpus).log_perplexity, published["lmtad_ckpt_log_perplexity"], atol=1e-5)


def test_nll_by_cell(model):
    corpus = Corpus(np.array([0, 2, 3]), np.array([5, 6, 5]))
    scores = score(model, corpus)
    mean, visits = scores.by_cell(model.config.num_labels)
    assert visits[[5, 6, 7]].tolist() == [2, 1, 0]
    assert mean[6] == pytest.approx(scores.nats[1])
    assert mean[5] == pytest.approx((scores.nats[0] + scores.nats[3]) / 2)
    assert np.isnan(mean[7])


def test_sequences_beyond_the_context_are_left_out(model):
    corpus = Corpus(np.array([0, 11, 13, 23]), np.arange(23) % 40)
    scores = score(model, corpus)
    assert scores.rows.tolist() == [1, 2]
    assert len(scores.log_perplexity) == 2
    with pytest.raises(TrainingError, match="scored sequence 1 holds token 42"):
        score(model, Corpus(np.array([0, 1, 2]), np.array([0, 42])))


def test_nothing_scored_is_not_a_number(model):
    scores = score(model, Corpus(np.array([0, 11]), np.arange(11)))
    assert len(scores.rows) == 0
    assert math.isnan(scores.loss)
    assert math.isnan(scores.perplexity)


def cells(tokens):
    return np.stack(np.divmod(tokens, WIDTH), 1)


@given(corpora(), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_route_switches_move_inner_points_by_whole_levels(corpus, level, prob, seed):
    changed = route_switches(corpus, (HEIGHT, WIDTH), level, prob, np.random.default_rng(seed))
    step = cells(changed.tokens) - cells(corpus.tokens)
    assert set(np.unique(np.abs(step))) <= {0, level}
    assert ((changed.tokens >= 0) & (changed.tokens < HEIGHT * WIDTH)).all()
    ends = np.concatenate([corpus.offsets[:-1], corpus.offsets[1:] - 1])
    assert (step[ends] == 0).all()
    if prob == 0:
        assert (step == 0).all()


def test_route_switches_move_the_requested_share_in_all_directions():
    middle = Corpus(np.array([0, 20_000]), np.full(20_000, 2 * WIDTH + 3))
    changed = route_switches(middle, (HEIGHT, WIDTH), 2, 0.3, np.random.default_rng(0))
    moved = changed.tokens != middle.tokens
    assert moved.mean() == pytest.approx(0.3, abs=0.02)
    directions, counts = np.unique(cells(changed.tokens[moved]) - [2, 3], axis=0, return_counts=True)
    assert len(directions) == 8
    assert counts.min() > 0.8 * counts.max()


@given(corpora(), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_detours_move_one_part_one_way(corpus, level, prob, seed):
    changed = detours(corpus, (HEIGHT, WIDTH), level, prob, np.random.default_rng(seed))
    assert ((changed.tokens >= 0) & (changed.tokens < HEIGHT * WIDTH)).all()
    for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        step = cells(changed.tokens[start:end]) - cells(corpus.tokens[start:end])
        moved = np.flatnonzero(step.any(1))
        if len(moved) == 0:
            continue
        assert moved[0] > 0
        assert moved[-1] < end - start - 1
        assert moved[-1] - moved[0] < int((end - start - 2) * prob)
        assert len(np.unique(step[moved], axis=0)) == 1
        assert set(np.abs(step[moved]).flat) <= {0, level}


def test_detours_lie_across_a_diagonal_part():
    diagonal = Corpus(np.array([0, 4]), np.array([1 * WIDTH + 1, 2 * WIDTH + 2, 3 * WIDTH + 3, 4 * WIDTH + 4]))
    seen = set()
    for seed in range(20):
        changed = detours(diagonal, (HEIGHT, WIDTH), 1, 1.0, np.random.default_rng(seed))
        seen.add(tuple(map(tuple, cells(changed.tokens) - cells(diagonal.tokens))))
    still, up, down = (0, 0), (1, -1), (-1, 1)
    assert seen == {(still, up, up, still), (still, down, down, still)}


def test_points_that_would_leave_the_grid_stay():
    corner = Corpus(np.array([0, 500]), np.zeros(500, np.int64))
    changed = route_switches(corner, (HEIGHT, WIDTH), 5, 1.0, np.random.default_rng(0))
    assert set(np.unique(changed.tokens)) == {0, 5, 5 * WIDTH, 5 * WIDTH + 5}


def test_moved_points_of_a_teacher_of_occupied_cells_land_on_cells_with_a_token():
    """A point whose new cell has no token moves to the nearest other cell with a token."""
    occupied = np.array([8, 10, 22, 24, 38])  # (1, 1) (1, 3) (3, 1) (3, 3) (5, 3) of 7 columns
    trips = Corpus(np.array([0, 4]), np.array([8, 10, 24, 38]))
    changed = Corpus(trips.offsets, np.array([8, 3 * WIDTH + 3, 3 * WIDTH + 4, 38]))
    tokens = _as_tokens(changed, trips, occupied, WIDTH).tokens
    assert tokens[[0, 1, 3]].tolist() == [0, 3, 4]  # unmoved, moved onto a cell with a token, unmoved
    assert tokens[2] != 3  # the nearest is where it came from
    assert occupied[tokens[2]] in (10, 22, 38)
    assert _as_tokens(trips, trips, occupied, WIDTH).tokens.tolist() == [0, 1, 3, 4]
    assert _as_tokens(changed, trips, None, WIDTH) is changed


def test_a_teacher_of_occupied_cells_detects_outliers_as_well(tmp_path):
    """Most cells of a fine grid contain no road: if points did not move there, there would be no outliers."""
    rng = np.random.default_rng(0)
    height, width = 24, 24
    lines = np.arange(0, 24, 4)

    def streets(num):
        trips = []
        for _ in range(num):
            line, start = rng.choice(lines), rng.integers(0, 8)
            along = np.arange(start, start + rng.integers(8, 16))
            trips.append(line * width + along if rng.random() < 0.5 else along * width + line)
        return Corpus(offsets_of(np.array([len(trip) for trip in trips])), np.concatenate(trips))

    train_trips, val_trips, test_trips = streets(300), streets(40), streets(100)
    row, column = np.divmod(np.arange(height * width), width)
    occupied = np.flatnonzero((row % 4 == 0) | (column % 4 == 0))

    def as_tokens(trips):
        return Corpus(trips.offsets, np.searchsorted(occupied, trips.tokens))

    config = TeacherConfig(preset="tiny", n_embd=32, max_epochs=6, batch_size=16, learning_rate=1e-2, dropout=0.0)
    teacher = train(as_tokens(train_trips), as_tokens(val_trips), len(occupied) + 3, config, tmp_path, "cpu").checkpoint
    for result in outlier_test(
        teacher.model, as_tokens(test_trips), (height, width), settings=[(0.3, 3, 0.3)], cells=occupied
    ):
        figures = result.metrics()
        assert figures["share_changed"] > 0.8
        assert figures["roc_auc"] > 0.9
        assert figures["pr_auc"] > 2 * figures["chance"]


def test_a_trained_teacher_detects_outliers(tmp_path):
    config = TeacherConfig(preset="tiny", n_embd=32, max_epochs=8, batch_size=16, learning_rate=1e-2, dropout=0.0)
    teacher = train(rows_of_the_grid(200, 0), rows_of_the_grid(30, 1), VOCABULARY, config, tmp_path, "cpu").checkpoint
    trips = rows_of_the_grid(60, 2)
    options = {"settings": [(0.2, 2, 0.5)], "seed": 3}
    switched, detoured = outlier_test(teacher.model, trips, (HEIGHT, WIDTH), **options)
    assert (switched.kind, detoured.kind) == ("route_switch", "detour")
    for result in (switched, detoured):
        figures = result.metrics()
        json.dumps(figures)
        assert (figures["num_normal"], figures["num_outliers"], figures["level"]) == (60, 12, 2)
        assert figures["threshold"] == pytest.approx(result.normal.mean() + 3 * result.normal.std(ddof=1))
        assert figures["pr_auc"] > 0.8
        assert figures["average_precision"] > 0.8
        assert figures["roc_auc"] == pytest.approx((result.outliers[:, None] > result.normal).mean(), abs=0.02)
        assert figures["chance"] == pytest.approx(12 / 72)
        truth = [False] * 60 + [True] * 12
        told = np.concatenate([result.normal, result.outliers]) > figures["threshold"]
        for name, metric in (
            ("accuracy", accuracy_score),
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            assert figures[name] == pytest.approx(metric(truth, told))
    again = outlier_test(teacher.model, trips, (HEIGHT, WIDTH), **options)
    np.testing.assert_array_equal(again[1].outliers, detoured.outliers)
    other = outlier_test(teacher.model, trips, (HEIGHT, WIDTH), settings=[(0.2, 2, 0.5)], seed=4)
    assert not np.array_equal(other[1].outliers, detoured.outliers)


def test_published_settings_and_grids_that_do_not_fit(model):
    results = outlier_test(model, rows_of_the_grid(40, 0), (HEIGHT, WIDTH))
    assert [(r.kind, *r.setting) for r in results] == [
        ("route_switch", 0.05, 3, 0.1),
        ("detour", 0.05, 3, 0.1),
        ("route_switch", 0.05, 3, 0.3),
        ("detour", 0.05, 3, 0.3),
        ("route_switch", 0.05, 5, 0.1),
        ("detour", 0.05, 5, 0.1),
    ]
    assert all(len(r.outliers) == 2 for r in results)
    assert isinstance(results[0].setting, OutlierSetting)
    with pytest.raises(CheckpointError, match="7 × 7 = 49 cells does not fit"):
        outlier_test(model, rows_of_the_grid(4, 0), (7, 7))


def test_corpus_file(tmp_path):
    corpus = rows_of_the_grid(5, 0)
    corpus.save(tmp_path / "train.arrow")
    loaded = Corpus.load(tmp_path / "train.arrow")
    np.testing.assert_array_equal(loaded.offsets, corpus.offsets)
    np.testing.assert_array_equal(loaded.tokens, corpus.tokens)
    (tmp_path / "train.arrow").write_bytes(b"spoilt")
    with pytest.raises(StoreError, match="not a readable corpus"):
        Corpus.load(tmp_path / "train.arrow")
    with pytest.raises(StoreError, match="no such file"):
        Corpus.load(tmp_path / "val.arrow")
