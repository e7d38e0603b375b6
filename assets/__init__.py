"""Dagster assets for the stages of `hoser_kd.pipeline`: one module per asset group, in the order of the lineage.

Belongs here: asset definitions, their descriptions, metadata and checks.
Does not belong here: computation (`hoser_kd`); resources, jobs, sensors and schedules (`dagster_project`).
"""
