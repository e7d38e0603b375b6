"""Grid group: from roads to the teacher's tokens.

What belongs here: the grid, its coverage and its resolution. What does not: the teacher's own vocabulary.
"""

from __future__ import annotations

from assets.stage_asset import stage_assets

ASSETS = stage_assets("grid")
