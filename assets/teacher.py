"""Teacher group: LM-TAD and what it says about every step.

Belongs here: corpus, teacher, its evaluation and its labels. Does not: how a student uses the labels.
"""

from __future__ import annotations

from assets.stage_asset import stage_asset

teacher_corpus = stage_asset(
    "teacher_corpus",
    kinds={"arrow"},
    description="Trips as sequences of grid tokens, a token a road, for train, validation and test (Arrow IPC).",
)
teacher = stage_asset(
    "teacher",
    kinds={"pytorch", "safetensors"},
    description=(
        "LM-TAD, a causal language model over grid tokens: imported where `distill.ckpt_path` names a checkpoint, "
        "trained on the corpus otherwise (best epoch by validation loss)."
    ),
)
teacher_evaluation = stage_asset(
    "teacher_evaluation",
    kinds={"pytorch"},
    description=(
        "The teacher's perplexity on validation and test trips, the published outlier test (route switch and detour), "
        "and the cells that surprise it most, on a map."
    ),
)
teacher_soft_labels = stage_asset(
    "teacher_soft_labels",
    kinds={"pytorch", "arrow"},
    description=(
        "The teacher's scores of the candidates of every step, from one causal pass a trip, at temperature 1 and not "
        "normalized: any temperature, weight and sharing rule is applied when a student trains. A sample is scored "
        "over the whole vocabulary to see how much of the teacher's mass lies on the candidates."
    ),
)
