"""Freshness of the report: where the schedule `weekly_retraining` is on, the report of last week is overdue."""

from __future__ import annotations

import os
from datetime import timedelta

import dagster as dg

WEEKLY = "HOSER_KD_WEEKLY"
"""Environment variable: `1` turns the schedule on and gives the report its freshness policy."""


def retrains_weekly() -> bool:
    """Return whether the schedule is on from the start."""
    return os.environ.get(WEEKLY) == "1"


def freshness_of(stage: str) -> dg.FreshnessPolicy | None:
    """Return the freshness policy of a stage's asset: eight days for the report, a day more than the schedule's week.

    Without the schedule nothing renews the report, so no asset has a policy.
    """
    if stage != "distillation_report" or not retrains_weekly():
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8))
