"""Dagster's view of the stages: one module a group, in the order of the lineage.

What belongs here: which assets there are, what a person is told about them, which checks guard them.
What does not: computing (that is `hoser_kd`), resources, jobs and automation (that is `dagster_project`).
"""
