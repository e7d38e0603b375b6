"""Defaults of every stage's settings, with its code version, as committed in `stage_defaults.json`.

Versions hash only the settings that differ from their defaults. A changed default value therefore changes results under
an unchanged version unless the stage's code version is raised too. Update the snapshot with

    python tests/pipeline/test_stage_defaults.py

which refuses while a default has changed and the code version has not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.settings import SETTINGS

FILE = Path(__file__).with_name("stage_defaults.json")
UPDATE = "update the snapshot with `python tests/pipeline/test_stage_defaults.py`"


def defaults():
    """Code version and default settings of every stage that reads settings."""
    return {
        stage.name: {
            "code_version": stage.code_version,
            "settings": {name: SETTINGS[name].defaults() for name in stage.settings},
        }
        for stage in STAGES.values()
        if stage.settings
    }


def flat(settings, place=""):
    if not isinstance(settings, dict) or not settings:
        return {place: settings}
    return {
        key: value
        for name, inner in settings.items()
        for key, value in flat(inner, f"{place}.{name}".lstrip(".")).items()
    }


def silent_changes(before, now):
    """Sentences on defaults that were changed or removed while the stage's code version stayed."""
    messages = []
    for stage in before.keys() & now.keys():
        if before[stage]["code_version"] != now[stage]["code_version"]:
            continue
        old, new = flat(before[stage]["settings"]), flat(now[stage]["settings"])
        messages += [
            f"{stage}: the default of {key} was {old[key]!r} and is {new.get(key, 'removed')!r}: raise the stage's "
            f"code_version in hoser_kd/pipeline/graph.py and {UPDATE}"
            for key in sorted(old)
            if key not in new or old[key] != new[key]
        ]
    return messages


def test_no_default_changes_under_an_unchanged_code_version():
    assert silent_changes(json.loads(FILE.read_text()), defaults()) == []


def test_the_snapshot_is_current():
    assert json.loads(FILE.read_text()) == defaults(), f"keys or code versions differ: {UPDATE}"


@pytest.mark.parametrize(
    ("code_version", "max_epochs", "num_messages"), [("1", 25, 0), ("1", 30, 1), ("2", 30, 0), ("1", None, 1)]
)
def test_a_changed_default_needs_a_raised_code_version(code_version, max_epochs, num_messages):
    def one(version, settings):
        return {"vanilla_student": {"code_version": version, "settings": {"student": settings}}}

    kept = {} if max_epochs is None else {"max_epochs": max_epochs}
    now = one(code_version, {**kept, "a_new_key": False})
    messages = silent_changes(one("1", {"max_epochs": 25}), now)
    assert len(messages) == num_messages
    assert all(
        "student.max_epochs was 25" in message and "raise the stage's code_version" in message for message in messages
    )


if __name__ == "__main__":
    if FILE.is_file() and (problems := silent_changes(json.loads(FILE.read_text()), defaults())):
        sys.exit("\n".join(problems))
    FILE.write_text(json.dumps(defaults(), indent=1) + "\n")
