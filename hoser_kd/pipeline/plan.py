"""The plan of a run without Dagster: the artifacts that a stage depends on, in topological order, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.stage import Inputs, Stage
from hoser_kd.pipeline.store import Artifact

StepKey = tuple[str, int | None]
"""Name of a stage, and the seed; the seed is None for a stage with one artifact per city."""


@dataclass(frozen=True)
class Step:
    """One artifact of a plan. Steps that do not depend on each other can run in any order, or in parallel."""

    stage: Stage
    seed: int | None
    needs: Mapping[str, tuple[StepKey, ...]]
    """Steps whose artifacts it reads, by stage: several where it reads all seeds, one otherwise."""

    @property
    def key(self) -> StepKey:
        """Return the key of the step's artifact."""
        return self.stage.name, self.seed

    @property
    def dependencies(self) -> frozenset[StepKey]:
        """Return the keys of all steps that must be finished before this one."""
        return frozenset(key for keys in self.needs.values() for key in keys)

    def inputs(self, artifacts: Mapping[StepKey, Artifact]) -> Inputs:
        """Return the inputs of the stage, from the artifacts of finished steps."""
        inputs: dict[str, Artifact | Mapping[int, Artifact]] = {}
        for name, keys in self.needs.items():
            if _reads_all_seeds(self.stage, STAGES[name]):
                inputs[name] = {seed: artifacts[name, seed] for _, seed in keys if seed is not None}
            else:
                inputs[name] = artifacts[keys[0]]
        return inputs


def plan(
    names: Sequence[str], seed: int = 0, seeds: Sequence[int] = (), config: CityConfig | None = None
) -> list[Step]:
    """Return the steps for the named stages and all they depend on, each after its dependencies.

    `seed` is that of the named stages; a stage that reads all seeds reads `seeds`, or `seed` alone if there are none.
    Inputs that a stage does not read under the settings of `config` are left out; None: all inputs are planned.
    """
    steps: dict[StepKey, Step] = {}

    def add(name: str, of_seed: int | None) -> None:
        stage = STAGES[name]
        key = (name, of_seed if stage.per_seed else None)
        if key in steps:
            return
        needs = {
            upstream: tuple((upstream, one) for one in seeds_read(stage, STAGES[upstream], of_seed))
            for upstream in (stage.inputs if config is None else stage.inputs_read(config))
        }
        for keys in needs.values():
            for upstream_key in keys:
                add(*upstream_key)
        steps[key] = Step(stage, key[1], needs)

    def seeds_read(stage: Stage, upstream: Stage, of_seed: int | None) -> tuple[int | None, ...]:
        if _reads_all_seeds(stage, upstream):
            return tuple(dict.fromkeys(seeds)) or (seed,)
        return (of_seed if upstream.per_seed else None,)

    for name in names:
        add(name, seed)
    return list(steps.values())


def _reads_all_seeds(stage: Stage, upstream: Stage) -> bool:
    return upstream.per_seed and not stage.per_seed
