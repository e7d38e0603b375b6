"""The model behind the server: generated trips and next-step predictions of many requests at once.

Shapes: B paths, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import HOSER, IncrementalHOSER
from hoser_kd.serving.requests import Candidate, PathRequest, Trip, TripRequest


class Predictor:
    """A student in eval mode, on its device."""

    def __init__(self, model: HOSER) -> None:
        """Raises ValueError for a student without a time scale, which can predict no times."""
        self.model = model.eval()
        self._scale = model.time_scale
        self._incremental = IncrementalHOSER(model)

    @property
    def num_roads(self) -> int:
        """Number of roads of the network."""
        return self.model.config.num_roads

    def generate(self, trips: Sequence[TripRequest], decoding: Decoding) -> list[Trip]:
        """Return the generated trips in the order of the requests."""
        generated = generate(
            self.model,
            [trip.origin for trip in trips],
            [trip.start_time for trip in trips],
            [trip.destination for trip in trips],
            decoding=decoding,
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
        """Return the candidates of each path, the most probable first.

        All paths advance together, a road per call of the model; a path is done at its last road.
        """
        tree = self._incremental.tree()
        lengths = np.array([len(path.roads) for path in paths])
        slots = np.full(len(paths), -1, np.int64)
        starts, destinations = (
            np.array(values, np.int64)
            for values in ([path.times[0] for path in paths], [path.destination for path in paths])
        )
        answers: list[list[Candidate]] = [[] for _ in paths]
        for position in range(int(lengths.max())):
            rows = np.flatnonzero(lengths > position)
            active = [paths[row] for row in rows.tolist()]
            roads = np.array([path.roads[position] for path in active], np.int64)
            times = np.array([path.times[position] for path in active], np.int64)
            decoded = self._incremental.step(tree, slots[rows], roads, times, starts[rows], destinations[rows])
            slots[rows] = decoded.slots
            last = np.flatnonzero(lengths[rows] == position + 1)
            probabilities = decoded.logits.softmax(1).cpu().numpy()
            seconds = self._scale.seconds(decoded.times).clamp(min=0).cpu().numpy()
            candidates = decoded.candidates.cpu().numpy()
            for at in last:
                answers[rows[at]] = _candidates(candidates[at], probabilities[at], seconds[at])
        return answers


def _candidates(
    roads: np.ndarray,  # (C,) int64, -1 where there is none
    probabilities: np.ndarray,  # (C,) float32
    seconds: np.ndarray,  # (C,) float32
) -> list[Candidate]:
    order = [place for place in np.argsort(-probabilities, kind="stable") if roads[place] >= 0]
    return [
        Candidate(road=int(roads[place]), probability=float(probabilities[place]), seconds=float(seconds[place]))
        for place in order
    ]
