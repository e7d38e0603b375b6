"""Trips that a student samples during its training, for `hoser_kd.student.off_path`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hoser_kd.common.progress import Progress, silent
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.generation.search_trees import random_paths, search_trees

if TYPE_CHECKING:
    from hoser_kd.hoser import HOSER
    from hoser_kd.network.trajectories import Trajectories

STAGE = "sampling off-path trips"


def sample_trips(
    model: HOSER,
    requests: Trajectories,
    *,
    states: Literal["sampled", "expanded"] = "sampled",
    temperature: float = 1.0,
    seed: int = 0,
    max_steps: int = 120,
    progress: Progress = silent,
) -> Trajectories:
    """Sample a trip for the origin, start time and destination of each trip of `requests`.

    `sampled`: the decoder `sampling`. A trip that has not arrived after `max_steps` roads, or cannot continue, ends at
    its road closest to the destination. `expanded`: a random path of the tree that the published search expands in at
    most `max_steps` expansions, with logits divided by the temperature (`hoser_kd.generation.search_trees`).
    """

    def report(*arguments: Any, **named: Any) -> None:
        progress(STAGE, *arguments[1:], **named)

    if states == "expanded":
        trees = search_trees(model, requests, temperature=temperature, max_steps=max_steps, progress=report)
        return random_paths(trees, requests, seed)
    decoding = Decoding("sampling", max_steps, temperature=temperature, seed=seed)
    return generate(
        model, requests.origins, requests.start_times, requests.destinations, decoding=decoding, progress=report
    )
