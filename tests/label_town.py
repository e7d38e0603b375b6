"""A synthetic town with a teacher of random weights, for tests of the soft labels."""

from __future__ import annotations

from pathlib import Path

import torch

from hoser_kd.common.files import write_json
from hoser_kd.config.schema import CityConfig
from hoser_kd.lmtad import LMTAD, LMTADCheckpoint, LMTADConfig
from hoser_kd.lmtad.checkpoint import save
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.run import make_all
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.store import Artifact, Store, read_artifact
from hoser_kd.teacher.soft_labels import SoftLabels

STAGE = STAGES["teacher_soft_labels"]


def town(**distill) -> CityConfig:
    """Return the town's settings."""
    return CityConfig.model_validate(
        {
            "city": "town",
            "source": {"kind": "synthetic", "synthetic": {"blocks": [6, 6], "num_trips": 60}},
            "grid": {"bounds": "roads", "cell_size_m": 80},
            "distill": distill,
        }
    )


def teacher_inputs(root: Path) -> dict[str, Artifact]:
    """Create the inputs of labels; the teacher's weights are random, and large enough to take their time."""
    made = make_all(["grid_token_table"], town(), Store(root))
    made["teacher"] = random_teacher(root, made["grid_token_table"])
    return {name: made[name] for name in STAGE.inputs if name in made}


def random_teacher(root: Path, tokens: Artifact, n_layer: int = 4, n_embd: int = 64) -> Artifact:
    """Write a teacher of random weights for a token table."""
    shape = LMTADConfig(128, tokens.summary["num_labels"] + 3, n_layer=n_layer, n_head=2, n_embd=n_embd)
    torch.manual_seed(0)
    save(LMTADCheckpoint(LMTAD(shape).eval(), shape, {}), root / "teacher")
    record = {
        "stage": "teacher",
        "city": "town",
        "seed": None,
        "version": "0",
        "code_version": "1",
        "inputs": {},
        "settings": {},
        "created_at": "",
        "seconds": 0.0,
        "summary": {},
    }
    write_json(root / "teacher" / "artifact.json", record)
    return read_artifact(root / "teacher")


def labels_of(inputs: dict[str, Artifact], config: CityConfig, folder: Path, **more) -> dict[str, SoftLabels]:
    """Run the stage in a folder and return the labels of each split."""
    folder.mkdir(exist_ok=True)
    STAGE.function()(StageRun(STAGE, config, None, inputs, folder, device="cpu", **more))
    assert not list(folder.glob(".*"))
    return {split: SoftLabels.load(folder / f"{split}.arrow") for split in ("train", "val", "test")}
