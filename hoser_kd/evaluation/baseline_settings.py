"""Settings of the trip baselines that follow from the evaluation: the score of validation trips and the OD cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hoser_kd.config.evaluation import EvaluationConfig
from hoser_kd.evaluation.metrics import evaluate
from hoser_kd.evaluation.pairing import od_cells
from hoser_kd.generation.baselines import BaselineSettings

if TYPE_CHECKING:
    from hoser_kd.network.road_network import RoadNetwork
    from hoser_kd.network.trajectories import Trajectories


def baseline_settings(network: RoadNetwork, config: EvaluationConfig | None = None) -> BaselineSettings:
    """Return settings with EDR of the same request (lower is better) as the score and the OD cells of the metrics."""
    settings = config or EvaluationConfig()

    def edr(real: Trajectories, generated: Trajectories) -> float:
        return float(evaluate(real, generated, network, settings, paired=True)["paired"]["edr"])

    return BaselineSettings(score=edr, od_cell=od_cells(network, settings))
