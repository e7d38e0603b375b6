"""Progress lines: their rate, the remaining time and metrics."""

from __future__ import annotations

import pytest

from hoser_kd.common.progress import TimedLines, duration


@pytest.fixture
def clock(monkeypatch):
    """The time that TimedLines reads; tests set it."""
    now = {"s": 100.0}
    monkeypatch.setattr("hoser_kd.common.progress.time.monotonic", lambda: now["s"])
    return now


def test_lines_are_rare_and_have_remaining_time_and_metrics(clock):
    lines = []
    progress = TimedLines(lines.append, every_s=10)
    for second in range(21):
        clock["s"] = 100.0 + second
        progress("training", second, 80, {"loss": 0.123456})
    assert lines == ["training: 10/80, 1 min 10 s left, loss 0.1235", "training: 20/80, 1 min 0 s left, loss 0.1235"]


def test_a_resumed_stage_counts_only_its_own_units(clock):
    lines = []
    progress = TimedLines(lines.append, every_s=10)
    progress("labels", 50, 80)
    clock["s"] += 10
    progress("labels", 60, 80)
    assert lines == ["labels: 60/80, 20 s left"]


def test_the_last_line_is_written_once(clock):
    lines = []
    progress = TimedLines(lines.append)
    progress("trips", 1, 2)
    progress("trips", 2, 2)
    progress("trips", 2, 2)
    assert lines == ["trips: 2/2"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
