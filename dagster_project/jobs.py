"""Jobs: the steps a person runs, each over the partitions its assets have in common."""

from __future__ import annotations

import dagster as dg

from assets.raw_files import RAW

prepare_city = dg.define_asset_job(
    "prepare_city",
    selection=dg.AssetSelection.groups("settings", "network", "grid") | dg.AssetSelection.assets(*RAW),
    description="Take note of a city's settings; from raw files to roads, trips, zones and the grid token table.",
)
train_teacher = dg.define_asset_job(
    "train_teacher",
    selection=dg.AssetSelection.groups("teacher"),
    description="Train or import the teacher of a city, judge it, and make its labels.",
)
distil = dg.define_asset_job(
    "distil",
    selection=dg.AssetSelection.groups("student"),
    description="Train the plain and the distilled student of a city with one seed.",
)
evaluate = dg.define_asset_job(
    "evaluate",
    selection=dg.AssetSelection.assets("generated_trajectories", "trajectory_metrics"),
    description="Generate trips with both students of one seed and measure them.",
)
report = dg.define_asset_job(
    "report",
    selection=dg.AssetSelection.assets("distillation_report"),
    description="Write the report of a city over all seeds that exist.",
)

JOBS = (prepare_city, train_teacher, distil, evaluate, report)
"""All jobs, in the order in which they make a city from nothing."""
