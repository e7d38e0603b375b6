"""Student group: HOSER, vanilla and distilled, one of each per seed.

What belongs here: training of students. What does not: evaluation on whole trips (the evaluation group).
"""

from __future__ import annotations

from assets.stage_asset import stage_assets

ASSETS = stage_assets("student")
