"""The Dagster code location: definitions, resources, IO manager, jobs, sensors and schedules.

Belongs here: how and when assets run, and where their results are stored.
Does not belong here: what the assets compute (`hoser_kd`) and how they appear in the UI (`assets`).
"""

from hoser_kd.common.threads import choose_threads

# every process of Dagster that loads this package, and those it starts
choose_threads()
