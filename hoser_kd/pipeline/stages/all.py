"""Imports the stages and what they draw with: preloaded in the process from which those of steps are forked."""

import importlib

from hoser_kd.common.forked_imports import imports_before_fork
from hoser_kd.pipeline.graph import STAGES

with imports_before_fork():
    for _stage in STAGES.values():
        _stage.function()
    importlib.import_module("hoser_kd.plots")
