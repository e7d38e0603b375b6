"""A seeded part of the table of bad inputs: each is refused, warned about, or read correctly."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SAMPLE = 190


@pytest.fixture(scope="module")
def bad_inputs():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bad_inputs

        yield bad_inputs
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_bad_inputs_are_refused_or_warned_about(bad_inputs):
    cases = bad_inputs.all_inputs(seed=1)
    assert len(cases) >= 2000
    by_kind = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append(case)
    assert len(by_kind) == 19
    rng = random.Random(1)
    share = SAMPLE // len(by_kind)
    outcomes = [
        bad_inputs.try_input(case) for kind in by_kind.values() for case in rng.sample(kind, min(share, len(kind)))
    ]
    bad = [outcome for outcome in outcomes if outcome.result in {bad_inputs.SILENT, bad_inputs.TRACEBACK}]
    assert not bad, "\n".join(f"{outcome.case.kind}: {outcome.case.label}: {outcome.message}" for outcome in bad)
    assert {outcome.result for outcome in outcomes} == {bad_inputs.REFUSED, bad_inputs.WARNED, bad_inputs.CORRECT}


def test_wrong_results_and_tracebacks_are_told_from_refusals(bad_inputs):
    def fails(_folder):
        raise KeyError("x")

    case = bad_inputs.BadInput
    for read, same_as, result in (
        (lambda _: 1, None, bad_inputs.SILENT),
        (lambda _: 1, 2, bad_inputs.SILENT),
        (lambda _: 2, 2, bad_inputs.CORRECT),
        (fails, None, bad_inputs.TRACEBACK),
    ):
        assert bad_inputs.try_input(case("kind", "label", read, same_as)).result == result
