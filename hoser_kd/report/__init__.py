"""Report of a city: one self-contained HTML file over all seeds."""

from __future__ import annotations

from hoser_kd.report.data import Baselines, ReportData, StudentResult
from hoser_kd.report.page import render, verdict, write_report

__all__ = ["Baselines", "ReportData", "StudentResult", "render", "verdict", "write_report"]
