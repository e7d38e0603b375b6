"""Running the steps of a plan side by side: each in a separate process, as soon as its dependencies are finished.

Results equal those of `hoser_kd.pipeline.run.make_steps`, because a step sees nothing of the others. One step with a
model runs at a time on a GPU, as in Dagster's pool `gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import cast

from hoser_kd.common.progress import Progress, silent
from hoser_kd.common.side_by_side import Message, Send, SideBySide
from hoser_kd.config.schema import CityConfig
from hoser_kd.pipeline.graph import STAGES
from hoser_kd.pipeline.plan import Step, StepKey
from hoser_kd.pipeline.run import check_steps, find_step, make, require_checks
from hoser_kd.pipeline.stage import Inputs, Stage
from hoser_kd.pipeline.store import Artifact, Store

OnWarning = Callable[[str], object]
"""Called with a warning, as by `make_steps`."""

PRELOAD = "hoser_kd.pipeline.stages.all"


def make_steps_side_by_side(
    steps: Sequence[Step],
    config: CityConfig,
    store: Store,
    *,
    jobs: int,
    on_start: Callable[[Step], Progress] = lambda _: silent,
    device: str = "auto",
    on_warning: OnWarning = lambda _: None,
) -> dict[StepKey, Artifact]:
    """Run the steps of a plan, up to `jobs` at the same time, and return their artifacts.

    `on_start` is called with each step before it is computed, and returns the callback for its progress. Steps that
    most others wait for come first. Steps run in this process until two of them can run side by side. An error or an
    interrupt ends all steps; the same call resumes.

    Raises:
        HoserKdError: as `make_steps`; ProcessError if the process of a step was killed.
    """
    check_steps(steps, config, on_warning)
    with SideBySide([PRELOAD]) as processes:
        return _Run(steps, config, store, processes, jobs, on_start, device, on_warning).finish()


class _Run:
    """State of a run: the steps that wait, those that run, and the artifacts of those that are finished."""

    def __init__(
        self,
        steps: Sequence[Step],
        config: CityConfig,
        store: Store,
        processes: SideBySide,
        jobs: int,
        on_start: Callable[[Step], Progress],
        device: str,
        on_warning: OnWarning,
    ) -> None:
        self.steps = {step.key: step for step in steps}
        self.config, self.store, self.device = config, store, device
        self.processes, self.jobs = processes, jobs
        self.on_start, self.on_warning = on_start, on_warning
        self.artifacts: dict[StepKey, Artifact] = {}
        self.progress: dict[StepKey, Progress] = {}
        self.waiting: list[StepKey] = []
        self.is_forked = False
        self.on_gpu: bool | None = None
        self.remaining = remaining_steps(steps)
        self.order = TopologicalSorter({step.key: step.dependencies for step in steps})
        self.order.prepare()

    def finish(self) -> dict[StepKey, Artifact]:
        """Run all steps and return their artifacts."""
        while self.order.is_active():
            self._take_ready()
            if len(self.waiting) == 1 and not self.is_forked:
                self._run_here(self.waiting.pop())
                continue
            for key in list(self.waiting):
                if self.processes.num_running < self.jobs and self._may_start(key):
                    self.waiting.remove(key)
                    self._start(key)
            if self.processes.num_running:
                self._handle(self.processes.receive())
        return self.artifacts

    def _take_ready(self) -> None:
        """Queue the steps that can run now, those first that most others wait for."""
        while ready := self.order.get_ready():
            self.waiting += [key for key in ready if not self._is_found(key)]
        self.waiting.sort(key=lambda key: -self.remaining[key])

    def _is_found(self, key: StepKey) -> bool:
        """Take the artifact of a step from the store, if it is there."""
        step = self.steps[key]
        artifact = find_step(step, self.config, self.store, self.artifacts)
        if artifact is None:
            return False
        require_checks(artifact, step.inputs(self.artifacts), self.on_warning)
        self._done(key, artifact)
        return True

    def _may_start(self, key: StepKey) -> bool:
        """Return whether a step may run beside those that run: on a GPU, one with a model at a time."""
        running = [self.steps[cast("StepKey", other)].stage for other in self.processes.running]
        if not self.steps[key].stage.uses_model or not any(stage.uses_model for stage in running):
            return True
        if self.on_gpu is None:
            from hoser_kd.common.device import pick_device  # imports torch

            self.on_gpu = pick_device(self.device).type == "cuda"
        return not self.on_gpu

    def _run_here(self, key: StepKey) -> None:
        step = self.steps[key]
        inputs, progress = step.inputs(self.artifacts), self.on_start(step)
        arguments = step.stage, self.config, self.store, inputs, step.seed, self.device, self.on_warning
        self._done(key, _make(progress, *arguments))

    def _start(self, key: StepKey) -> None:
        step, self.is_forked = self.steps[key], True
        self.progress[key] = self.on_start(step)
        inputs = step.inputs(self.artifacts)
        # by name, because the conditions of its optional inputs cannot be sent to another process
        arguments = step.stage.name, self.config, self.store, inputs, step.seed, self.device
        self.processes.start(key, _make_in_process, *arguments)

    def _handle(self, message: Message) -> None:
        key = cast("StepKey", message.key)
        if message.is_result:
            artifact, warnings = message.content
            for warning in warnings:
                self.on_warning(warning)
            self._done(key, artifact)
        else:
            self.progress[key](*message.content)

    def _done(self, key: StepKey, artifact: Artifact) -> None:
        self.artifacts[key] = artifact
        self.order.done(key)


def remaining_steps(steps: Sequence[Step]) -> dict[StepKey, int]:
    """Return for each step the number of steps on the longest chain from it to the end of the plan."""
    longest = {step.key: 1 for step in steps}
    for step in reversed(steps):  # a plan has each step after its dependencies
        for key in step.dependencies & longest.keys():
            longest[key] = max(longest[key], longest[step.key] + 1)
    return longest


def _make_in_process(
    send: Send,
    name: str,
    config: CityConfig,
    store: Store,
    inputs: Inputs,
    seed: int | None,
    device: str,
) -> tuple[Artifact, list[str]]:
    """Return the artifact, and the warnings about it."""
    warnings: list[str] = []

    def progress(task: str, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        send((task, done, total, None if metrics is None else dict(metrics)))

    artifact = _make(progress, STAGES[name], config, store, inputs, seed, device, warnings.append)
    return artifact, warnings


def _make(
    progress: Progress,
    stage: Stage,
    config: CityConfig,
    store: Store,
    inputs: Inputs,
    seed: int | None,
    device: str,
    on_warning: OnWarning,
) -> Artifact:
    artifact = make(stage, config, store, inputs, seed=seed, progress=progress, device=device, on_warning=on_warning)
    require_checks(artifact, inputs, on_warning)
    return artifact
