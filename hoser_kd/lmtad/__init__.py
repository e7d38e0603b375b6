"""LM-TAD, the teacher network, and its checkpoints (Mbuya et al., SIGSPATIAL 2024)."""

from hoser_kd.lmtad.checkpoint import LMTADCheckpoint, check_grid, load_checkpoint, save
from hoser_kd.lmtad.loading import load_teacher
from hoser_kd.lmtad.model import LMTAD, LMTADConfig

__all__ = ["LMTAD", "LMTADCheckpoint", "LMTADConfig", "check_grid", "load_checkpoint", "load_teacher", "save"]
