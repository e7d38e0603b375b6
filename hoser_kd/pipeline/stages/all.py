"""Imports the functions of all stages: preloaded in the process from which those of steps are forked."""

from hoser_kd.pipeline.graph import STAGES

for _stage in STAGES.values():
    _stage.function()
