"""A check of finished artifacts, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hoser_kd.pipeline.check_evidence import Evidence
from hoser_kd.pipeline.store import Artifact

Verdict = tuple[bool, str, dict[str, Any]]
"""Whether a check passed, its message, and its metrics."""


@dataclass(frozen=True)
class CheckResult:
    """Result of a check."""

    name: str
    passed: bool
    message: str
    """The result in one or two sentences and, after a failure, how to fix it."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = None
    """Where the artifact is wrong; None if the check passed."""


@dataclass(frozen=True)
class Check:
    """A condition on every version of an artifact."""

    name: str
    description: str
    run: Callable[[Artifact, Mapping[str, Any]], Verdict]
    """Judges the artifact, given its inputs."""
    collect_evidence: Callable[[Artifact, Mapping[str, Any]], Evidence]
    """Collects, given the same, where the artifact is wrong; called only after a failure."""
    blocking: bool = True
