"""The speed in the summary of `generated_trajectories` is that of a warm search."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_city import random_trips

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.stages import generation


class Measured(Exception):
    """Ends the stage at its first measured search."""


def test_a_few_trips_are_generated_before_the_speed_is_measured(tmp_path, monkeypatch, small_city):
    calls = []

    def timed(_file, _parts, model, origins, *_, **__):
        calls.append(("measured", len(origins)))
        raise Measured

    trips = random_trips(small_city.network, 20)
    monkeypatch.setattr(generation, "load_network", lambda _: small_city.network)
    monkeypatch.setattr(generation, "load_trips", lambda *_: trips)
    monkeypatch.setattr(generation, "student_folders", lambda _: {"vanilla": tmp_path})
    monkeypatch.setattr(generation.hoser, "load", lambda _: torch.nn.Identity())
    monkeypatch.setattr(generation, "generate", lambda _, origins, *__, **___: calls.append(("warm", len(origins))))
    monkeypatch.setattr(generation, "generate_to", timed)
    config = CityConfig(city="town", source={"kind": "synthetic"})
    run = SimpleNamespace(folder=tmp_path, config=config, progress=lambda *_: None, device="cpu")
    with pytest.raises(Measured):
        generation.generated_trajectories(run)
    assert calls == [("warm", 8), ("measured", 20)]
