"""Imported once per run, in the process from which the steps of the run are forked, so that each step starts at once.

Belongs here: imports that most steps need. Does not belong here: anything that starts a thread or uses a GPU, because
neither survives a fork.
"""

import importlib

import dagster_project.definitions  # noqa: F401
from hoser_kd.pipeline.graph import STAGES

for _stage in STAGES.values():
    _stage.function()

# what a step imports only when it opens the instance, draws a figure, or writes a curve
for _name in (
    "dagster._core.launcher.default_run_launcher",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "matplotlib.backends.backend_agg",
    "torch.utils.tensorboard",
):
    importlib.import_module(_name)
