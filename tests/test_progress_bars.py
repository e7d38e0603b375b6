"""Progress bars of stages that run one after the other and side by side."""

from __future__ import annotations

import io
import sys

from hoser_kd.cli.progress_bars import Bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_stages_side_by_side_have_a_bar_each(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = Bars()
    one, other = bars.of("teacher"), bars.of("vanilla_student (seed 1)")
    one("teacher", 1, 3)
    other("training", 1, 2, {"loss": 0.5})
    one("teacher", 3, 3)
    bars.write("town: baseline_trips")
    other("training", 2, 2)
    other("training", 2, 2)  # a report after the end opens no bar
    other("evaluation", 1, 2)
    bars.close()
    text = terminal.getvalue()
    assert "teacher: 100%" in text
    assert "vanilla_student (seed 1): training: 100%" in text
    assert "vanilla_student (seed 1): evaluation:  50%" in text
    assert "town: baseline_trips" in text
    assert not bars._bars


def test_without_a_terminal_lines_name_the_stage(capsys):
    bars = Bars()
    one, other = bars.of("teacher"), bars.of("vanilla_student")
    for done in (1, 2):
        one("teacher", done, 2)
        other("training", done, 2, {"loss": 0.5})
    assert capsys.readouterr().err == "  teacher: 2/2\n  vanilla_student: training: 2/2, loss 0.5\n"
