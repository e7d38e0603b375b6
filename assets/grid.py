"""Grid group: how roads become the teacher's tokens.

Belongs here: the grid, its coverage and how well it tells candidates apart. Does not: the teacher's own vocabulary.
"""

from __future__ import annotations

from assets.stage_asset import stage_asset

grid_token_table = stage_asset(
    "grid_token_table",
    kinds={"geopandas", "parquet"},
    description=(
        "Row, column and token of every road in the teacher's grid, whether it was clamped into it, and the occupied "
        "cells as polygons. Figures: coverage, crowding, and resolution: of the steps with at least two candidates, "
        "the share where the cells tell them apart. The teacher is silent on the rest."
    ),
)
