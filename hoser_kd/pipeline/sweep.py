"""Sweeps: a study varies settings of a city and judges the artifacts of a stage by a metric of validation trips.

Trials are stages of the pipeline, so the artifact store keeps what they compute, and settings that a stage does not
read cost nothing: all trials on the same labels share the labels. The study is an Optuna study in a journal file
beside the artifacts. Any number of processes can work on one study at a time: each takes the next trial until the
study has all. A trial whose process was killed is taken over by the next process with the same settings, and its
training resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hoser_kd.common.errors import ConfigError, HoserKdError
from hoser_kd.common.hashing import digest_json
from hoser_kd.common.progress import Progress, silent
from hoser_kd.config.loading import with_changes
from hoser_kd.config.study import Range, StudyConfig
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.stage import Stage
from hoser_kd.pipeline.sweep_checks import check_sweep

if TYPE_CHECKING:
    from hoser_kd.config.schema import CityConfig
    from hoser_kd.pipeline.store import Artifact, Store

FOLDER = "sweep"
"""Folder of the studies of a city in the store."""
JOURNAL = "journal.log"

OnTrial = Callable[[optuna.trial.FrozenTrial], object]
"""Called with each finished trial."""


class Sweep:
    """A study on a city in a store. Opening it reads no trips and computes nothing."""

    def __init__(self, name: str, study: StudyConfig, config: CityConfig, store: Store) -> None:
        """Open a study, or create it. A study with other settings or on another city's YAML is another study.

        Raises ConfigError where the study does not fit the city or the stage, or no value of a searched key can matter.
        """
        check_sweep(name, study, config)
        self.name, self.study, self.config, self.store = name, study, config, store
        self.folder = store.local_root / config.city / FOLDER / name / _version(study, config)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._distributions = {key: _distribution(values) for key, values in study.search.items()}
        self._values = {
            key: {_label(value): value for value in values}
            for key, values in study.search.items()
            if not isinstance(values, Range)
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._lock():
            storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
            self.trials = optuna.create_study(
                storage=storage, study_name=name, direction=study.direction, load_if_exists=True
            )
            if study.sampler == "grid" and not self.trials.get_trials(deepcopy=False):
                for combination in product(*self._values.values()):
                    self.trials.enqueue_trial(dict(zip(self._values, combination, strict=True)))

    @property
    def num_trials(self) -> int:
        """Number of trials that the study has when it is finished."""
        if self.study.sampler != "grid":
            return self.study.trials
        count = 1
        for values in self._values.values():
            count *= len(values)
        return count

    def work(
        self,
        *,
        progress: Progress = silent,
        device: str = "auto",
        on_trial: OnTrial = lambda _: None,
        on_stage: Callable[[Stage], object] = lambda _: None,
    ) -> int:
        """Run trials until the study has all; returns how many this process ran. Other processes may work too.

        An error of the settings or of a training fails the trial alone; it is kept with the trial.
        """
        count = 0
        while (taken := self._next_trial()) is not None:
            trial, lock = taken
            try:
                self._run(trial, progress, device, on_stage)
            finally:
                lock.release()
            on_trial(self.trials.get_trials(deepcopy=False)[trial.number])
            count += 1
        return count

    def settings_of(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """Return the searched settings of a trial by key."""
        return {key: self._value(key, trial.params[key]) for key in self._distributions if key in trial.params}

    def _value(self, key: str, value: Any) -> Any:
        """Return the value of a setting; a study stores listed values by their label."""
        return self._values[key][value] if key in self._values else value

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with FileLock(self.folder / "study.lock"):
            yield

    def _trial_lock(self, number: int) -> FileLock:
        return FileLock(self.folder / f"trial-{number}.lock")

    def _next_trial(self) -> tuple[optuna.Trial, FileLock] | None:
        """Return a new trial with its lock held; None if all trials are finished or being run by other processes."""
        with self._lock():
            self._take_over()
            existing = self.trials.get_trials(deepcopy=False)
            started = [trial for trial in existing if _counts(trial)]
            if len(started) >= self.num_trials:
                return None
            self.trials.sampler = _sampler(self.study, len(existing))
            trial = self.trials.ask(self._distributions)
            lock = self._trial_lock(trial.number)
            lock.acquire()
            return trial, lock

    def _take_over(self) -> None:
        """Put the trials of killed processes in the queue again; a running process holds the lock of its trial."""
        for trial in self.trials.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            try:
                with self._trial_lock(trial.number).acquire(timeout=0):
                    self.trials.enqueue_trial(trial.params)
                    self.trials.tell(trial.number, state=TrialState.FAIL)
            except Timeout:
                continue

    def _run(self, trial: optuna.Trial, progress: Progress, device: str, on_stage: Callable[[Stage], object]) -> None:
        """Compute a trial and record its metric."""
        started = time.monotonic()
        searched = {key: self._value(key, value) for key, value in trial.params.items()}
        values = []
        try:
            config = with_changes(self.config, {**self.study.settings, **searched})
            for seed in self.study.seeds:
                artifact = make_with_inputs(
                    self.study.stage,
                    config,
                    self.store,
                    seed=seed,
                    progress=progress,
                    device=device,
                    on_stage=on_stage,
                    stop_at_checks=False,
                )
                values.append(self._metric(artifact))
                trial.set_user_attr(f"version_{seed}", artifact.version)
        except HoserKdError as error:
            trial.set_user_attr("error", str(error))
            self.trials.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        trial.set_user_attr("by_seed", values)
        self.trials.tell(trial, sum(values) / len(values))

    def _metric(self, artifact: Artifact) -> float:
        """Return the metric of an artifact. Raises ConfigError where its summary has no such number."""
        value = artifact.summary.get(self.study.metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            known = [key for key, each in artifact.summary.items() if type(each) in (int, float)]
            raise ConfigError(
                f"study {self.name}: {artifact.stage} has no number `{self.study.metric}`. Known: {', '.join(known)}."
            )
        return float(value)


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Return whether a trial is one of the study's: not one in the queue, and not one that was taken over."""
    if trial.state == TrialState.FAIL:
        return "error" in trial.user_attrs
    return trial.state != TrialState.WAITING


def _version(study: StudyConfig, config: CityConfig) -> str:
    """Return the digest of what the trials depend on; their number and the description can change."""
    content = study.model_dump(mode="json", exclude={"trials", "description"})
    return digest_json([content, config.model_dump(mode="json", exclude={"description"})])[:16]


def _sampler(study: StudyConfig, num_existing: int) -> BaseSampler:
    """Return a sampler whose values follow from the study and its earlier trials, also in another process."""
    seed = study.sampler_seed * 1_000_003 + num_existing
    return TPESampler(seed=seed) if study.sampler == "tpe" else RandomSampler(seed=seed)


def _distribution(values: tuple[Any, ...] | Range) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution([_label(value) for value in values])
    if values.is_whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _label(value: Any) -> Any:
    """Return a value as Optuna stores it: lists and sections as text."""
    if isinstance(value, str | int | float | None):
        return value
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).strip()
