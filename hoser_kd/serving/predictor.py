"""The student behind the server: generated trips and next-step predictions of many requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hoser_kd.common.arrays import offsets_of, row_of_value
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import HOSER
from hoser_kd.network.trajectories import Trajectories
from hoser_kd.serving.requests import Candidate, PathRequest, Trip, TripRequest
from hoser_kd.sharing.predictions import predict_next_steps
from hoser_kd.sharing.student import Student, student_of


class Predictor:
    """A student in eval mode, on its device."""

    def __init__(self, student: Student | HOSER) -> None:
        """Raises ValueError for a student without a time scale, which can predict no times."""
        self.student = student_of(student, "Predictor(student)")
        self.model = self.student.model.eval()
        self.model.time_scale  # noqa: B018  raises ValueError without a time scale
        self.student.decoder  # noqa: B018  encodes the roads before the first request

    @property
    def num_roads(self) -> int:
        """Number of roads of the network."""
        return self.student.num_roads

    def generate(self, trips: Sequence[TripRequest], decoding: Decoding) -> list[Trip]:
        """Return the generated trips in the order of the requests."""
        generated = generate(
            self.model,
            [trip.origin for trip in trips],
            [trip.start_time for trip in trips],
            [trip.destination for trip in trips],
            decoding=decoding,
            encoded=self.student.decoder,
        )
        return [
            Trip(
                roads=generated.roads(row).tolist(),
                times=generated.times[generated.offsets[row] : generated.offsets[row + 1]].tolist(),
                reached=bool(generated.reached[row]),
            )
            for row in range(len(trips))
        ]

    def next_steps(self, paths: Sequence[PathRequest]) -> list[list[Candidate]]:
        """Return the candidates of each path, the most probable first."""
        offsets = offsets_of(np.array([len(path.roads) for path in paths], np.int64))
        roads, times = (
            np.fromiter((value for path in paths for value in getattr(path, name)), np.int64, int(offsets[-1]))
            for name in ("roads", "times")
        )
        destinations = np.array([path.destination for path in paths], np.int64)
        steps = predict_next_steps(self.student, Trajectories(offsets, roads, times), destinations)
        order = np.lexsort((-steps.probabilities, row_of_value(steps.offsets)))
        columns = (values[order].tolist() for values in (steps.road_ids, steps.probabilities, steps.seconds))
        candidates = [
            Candidate(road=road, probability=probability, seconds=seconds)
            for road, probability, seconds in zip(*columns, strict=True)
        ]
        return [candidates[start:end] for start, end in pairwise(steps.offsets.tolist())]
