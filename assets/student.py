"""Student group: HOSER, plain and distilled, one of each for every seed.

Belongs here: training of students. Does not: judging them by whole trips (that is the evaluation group).
"""

from __future__ import annotations

from assets.stage_asset import stage_asset

vanilla_student = stage_asset(
    "vanilla_student",
    kinds={"pytorch", "safetensors"},
    description="HOSER trained as published, without a teacher; the best epoch by `student.select_by`.",
)
distilled_student = stage_asset(
    "distilled_student",
    kinds={"pytorch", "safetensors"},
    description=(
        "HOSER trained with the distillation term on the teacher's labels; everything else, the order of batches "
        "included, is as for the plain student of the same seed."
    ),
)
