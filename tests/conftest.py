"""Fixtures shared by all tests: where the published code's outputs and the real city lie, if they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine may be busy with other things; how long a property takes says nothing about whether it holds.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def _shared(name: str) -> Path:
    root = Path(os.environ.get("HOSER_KD_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"{name} fixtures are absent: set HOSER_KD_SHARED to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs of the published code."""
    return _shared("golden")


@pytest.fixture(scope="session")
def porto() -> Path:
    """Porto in HOSER's format: 22,843 roads, 1,865 trips."""
    return _shared("data") / "porto"
