"""The Dagster code location: definitions, resources, IO manager, jobs and automation.

What belongs here: how and when assets run, and where their results lie. What does not: what they compute.
"""
