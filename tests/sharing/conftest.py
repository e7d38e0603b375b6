"""A bundle of format 1, as a past release wrote it, and its student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hoser_kd.sharing import Student

BUNDLE = Path(__file__).with_name("bundle_1")


@pytest.fixture(scope="session")
def old_bundle() -> Path:
    """Never written again: bundles of every release must stay readable."""
    return BUNDLE


@pytest.fixture(scope="session")
def student(old_bundle) -> Student:
    from hoser_kd.sharing import load_student

    return load_student(old_bundle)
