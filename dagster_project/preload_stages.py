"""What steps import, without the definitions of this project, which each run imports itself.

Belongs here: imports that most steps need. Does not belong here: anything that starts a thread or uses a GPU, because
neither survives a fork.
"""

import importlib

from hoser_kd.common.forked_imports import imports_before_fork

with imports_before_fork():
    importlib.import_module("hoser_kd.pipeline.stages.all")
    # what a step imports only when it opens the instance, writes a figure or a curve
    for _name in (
        "dagster._core.launcher.default_run_launcher",
        "dagster._core.run_coordinator.queued_run_coordinator",
        "dagster._core.storage.local_compute_log_manager",
        "dagster._core.storage.sqlite_storage",
        "matplotlib.backends.backend_agg",
        "torch.utils.tensorboard",
    ):
        importlib.import_module(_name)
