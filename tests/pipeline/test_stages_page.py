"""The tables of docs/stages.md agree with STAGES."""

from __future__ import annotations

import re
from pathlib import Path

from hoser_kd.pipeline.checks import CHECKS
from hoser_kd.pipeline.graph import STAGES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "stages.md").read_text(encoding="utf-8")


def names(cell):
    return tuple(re.findall(r"`([a-z_]+)`", cell))


def sections():
    """The text below each second-level heading."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_stage_has_its_row_in_the_table_of_its_group():
    rows = {}
    for group, text in sections().items():
        for line in text.splitlines():
            if line.startswith("| `"):
                stage, inputs, settings, writes = cells(line)
                rows[names(stage)[0]] = (group, names(inputs), names(settings), "(per seed)" in stage)
                assert writes
    assert rows == {
        stage.name: (stage.group, stage.inputs, stage.settings, stage.per_seed) for stage in STAGES.values()
    }


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_check_is_named_in_the_section_of_its_stage():
    text = sections()
    for stage, checks in CHECKS.items():
        for check in checks:
            assert f"`{check.name}`" in text[STAGES[stage].group]
