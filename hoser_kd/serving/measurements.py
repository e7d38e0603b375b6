"""Measurements of the server in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter

BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Upper bounds of the histogram of answer times, seconds."""


class Measurements:
    """Counts of answers by path and status, and a histogram of their times."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def record(self, path: str, status: int, seconds: float) -> None:
        """Record an answer."""
        self._answers[path, status] += 1
        self._seconds += seconds
        for bound in BUCKETS_S:
            self._buckets[bound] += seconds <= bound

    def text(self, **gauges: float) -> str:
        """Return all measurements, and gauges by name."""
        lines = ["# TYPE hoser_kd_answers_total counter"]
        lines += [
            f'hoser_kd_answers_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._answers.items())
        ]
        lines.append("# TYPE hoser_kd_answer_seconds histogram")
        lines += [f'hoser_kd_answer_seconds_bucket{{le="{bound}"}} {self._buckets[bound]}' for bound in BUCKETS_S]
        count = sum(self._answers.values())
        lines += [
            f'hoser_kd_answer_seconds_bucket{{le="+Inf"}} {count}',
            f"hoser_kd_answer_seconds_sum {self._seconds:.6f}",
            f"hoser_kd_answer_seconds_count {count}",
        ]
        for name, value in gauges.items():
            lines += [f"# TYPE hoser_kd_{name} gauge", f"hoser_kd_{name} {value:g}"]
        return "\n".join(lines) + "\n"
