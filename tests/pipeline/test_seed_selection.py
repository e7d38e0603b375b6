"""A report averages seeds only if they differ by the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hoser_kd.common.errors import StoreError
from hoser_kd.pipeline.seed_selection import select_seeds
from hoser_kd.pipeline.store import Artifact

LABELS = Artifact("labels", "town", None, "labels-1", Path())


def artifacts_of(seed, *, lambda_kl=0.1, labels="labels-1", metrics_of=None, code="1", at="2026-01-01"):
    """A student and its metrics, as the store returns them."""
    student = Artifact(
        "student",
        "town",
        seed,
        f"student-{seed}-{lambda_kl}",
        Path(),
        code,
        {"labels": labels},
        {"distillation": {"lambda_kl": lambda_kl}},
        at,
    )
    metrics = Artifact(
        "metrics",
        "town",
        seed,
        f"metrics-{seed}",
        Path(),
        "1",
        {f"student/seed-{seed}": metrics_of or student.version},
        {"evaluation": {"bins": 10}},
        at,
    )
    return student, metrics


def select(*pairs):
    per_seed = {
        "student": {student.seed: student for student, _ in pairs},
        "metrics": {metrics.seed: metrics for _, metrics in pairs if metrics},
    }
    return select_seeds(per_seed, {"labels": LABELS})


def test_seeds_that_differ_by_the_seed_alone_are_selected():
    chosen = select(artifacts_of(2), artifacts_of(0), artifacts_of(1, at="2026-02-02"))
    assert chosen.seeds == (0, 1, 2)
    assert chosen.left_out == ()


def test_a_seed_of_another_lambda_is_left_out_and_the_difference_named():
    chosen = select(artifacts_of(0), artifacts_of(1), artifacts_of(2, lambda_kl=0.7))
    assert chosen.seeds == (0, 1)
    assert chosen.left_out == ({"seed": 2, "reason": "distillation.lambda_kl is 0.7, not 0.1"},)


def test_the_latest_seed_decides_and_the_larger_group_breaks_a_tie():
    more = artifacts_of(1, lambda_kl=0.7), artifacts_of(2, lambda_kl=0.7)
    assert select(artifacts_of(0), *more).seeds == (1, 2)
    assert select(artifacts_of(0, at="2026-03-03"), *more).seeds == (0,)
    # an older artifact of the same settings is selected too
    assert select(artifacts_of(0), artifacts_of(1, at="2026-02-02"), artifacts_of(2)).seeds == (0, 1, 2)


def test_a_seed_evaluated_before_its_student_was_trained_again_is_left_out():
    chosen = select(artifacts_of(0), artifacts_of(1, metrics_of="student-1-before"))
    assert chosen.seeds == (0,)
    assert "metrics was computed from another version of student/seed-1" in chosen.left_out[0]["reason"]


def test_a_seed_of_other_labels_or_code_or_without_metrics_is_left_out():
    chosen = select(
        artifacts_of(0),
        artifacts_of(1),
        artifacts_of(2, labels="labels-0"),
        artifacts_of(3, code="0"),
        (artifacts_of(4)[0], None),
    )
    assert chosen.seeds == (0, 1)
    assert [(row["seed"], row["reason"].split(" is ")[0].split(":")[0]) for row in chosen.left_out] == [
        (2, "student was computed from another version of labels than the current one"),
        (3, "the code version of student"),
        (4, "not materialized"),
    ]


def test_without_a_complete_seed_the_error_names_each():
    with pytest.raises(
        StoreError, match=r"no seed to report on. Seed 0: student was.*seed 1: not materialized: metrics"
    ):
        select(artifacts_of(0, labels="labels-0"), (artifacts_of(1)[0], None))
