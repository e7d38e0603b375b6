"""HOSER, the student network (Cao et al., AAAI 2025): features, model, checkpoints and incremental inference."""

from hoser_kd.hoser.batches import Batch, collate, time_label_statistics
from hoser_kd.hoser.checkpoint import export_checkpoint, load, load_checkpoint, save
from hoser_kd.hoser.config import HoserConfig
from hoser_kd.hoser.features import GraphFeatures, build_graph_features
from hoser_kd.hoser.incremental import Decoded, IncrementalHOSER, PathTree
from hoser_kd.hoser.loading import load_student
from hoser_kd.hoser.model import HOSER, TimeScale
from hoser_kd.hoser.output import StudentOutput

__all__ = [
    "HOSER",
    "Batch",
    "Decoded",
    "GraphFeatures",
    "HoserConfig",
    "IncrementalHOSER",
    "PathTree",
    "StudentOutput",
    "TimeScale",
    "build_graph_features",
    "collate",
    "export_checkpoint",
    "load",
    "load_checkpoint",
    "load_student",
    "save",
    "time_label_statistics",
]
