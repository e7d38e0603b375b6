"""Teacher group: LM-TAD and its labels.

What belongs here: corpus, teacher, its evaluation and its soft labels. What does not: the use of labels by students.
"""

from __future__ import annotations

from assets.stage_asset import stage_assets

ASSETS = stage_assets("teacher")
