"""Trained students for use outside the pipeline: load, generate, predict, export, bundle, publish.

`hoser_kd.sharing.trip_map`, which loads matplotlib and Bokeh, is imported from its module.
"""

from __future__ import annotations

from hoser_kd.sharing.bundle import write_bundle
from hoser_kd.sharing.generation import generate
from hoser_kd.sharing.hub import pull, push
from hoser_kd.sharing.loading import load_student
from hoser_kd.sharing.predictions import NextSteps, next_step, travel_times
from hoser_kd.sharing.student import Student
from hoser_kd.sharing.student_trips import StudentTrips

__all__ = [
    "NextSteps",
    "Student",
    "StudentTrips",
    "generate",
    "load_student",
    "next_step",
    "pull",
    "push",
    "travel_times",
    "write_bundle",
]
