"""The executor of the jobs: how the steps of a run are started, chosen by HOSER_KD_EXECUTOR.

Belongs here: executors. Does not belong here: run launchers, which choose the machine of a whole run (docs/engines.md).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from dagster_project.run_server import is_forked_run
from hoser_kd.common.errors import ConfigError

VARIABLE = "HOSER_KD_EXECUTOR"
DEFAULT = "multiprocess"


@dg.executor(name="multiprocess", requirements=multiple_process_executor_requirements())
def _multiprocess(_: dg.InitExecutorContext) -> MultiprocessExecutor:
    """Return the executor with a process per step, forked from one that has imported what steps need.

    That is the process of the run itself, if it was forked from such a process, else a server of `multiprocessing`.
    """
    return MultiprocessExecutor(
        retries=RetryMode.ENABLED,
        max_concurrent=1,
        start_method="fork" if is_forked_run() else "forkserver",
        explicit_forkserver_preload=["dagster_project.preload"],
    )


_EXECUTORS: Mapping[str, Callable[[], dg.ExecutorDefinition] | str] = {
    "in_process": lambda: dg.in_process_executor,
    "multiprocess": lambda: _multiprocess,
    "celery": "dagster_celery:celery_executor",
    "k8s": "dagster_k8s:k8s_job_executor",
}
_PACKAGES = {"celery": "pip install '.[celery]'", "k8s": "pip install '.[k8s]'"}
"""How to install what an executor needs."""


def executor_of(executor: dg.ExecutorDefinition | str | None = None) -> dg.ExecutorDefinition:
    """Return an executor: itself, by name, as `package.module:name`, or None for that of HOSER_KD_EXECUTOR.

    Raises:
        ConfigError: the name is unknown, its module cannot be imported, or what it names is not an executor.
    """
    if isinstance(executor, dg.ExecutorDefinition):
        return executor
    name = executor or os.environ.get(VARIABLE) or DEFAULT
    known = _EXECUTORS.get(name, name)
    if not isinstance(known, str):
        return known()
    if ":" not in known:
        raise ConfigError(
            f"{VARIABLE}: {name!r} is not an executor. Use {', '.join(_EXECUTORS)}, or package.module:name for another."
        )
    return _imported(name, *known.split(":", 1))


def _imported(name: str, module: str, attribute: str) -> dg.ExecutorDefinition:
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, ValueError) as error:  # ValueError: an empty name of a module
        hint = _PACKAGES.get(name, "Install its package, or correct the name")
        raise ConfigError(f"{VARIABLE}: {name!r} cannot be imported ({error}). Fix: {hint}.") from None
    if not isinstance(found, dg.ExecutorDefinition):
        what = "does not exist" if found is None else f"is a {type(found).__name__}, not an executor"
        raise ConfigError(f"{VARIABLE}: {attribute!r} of {module} {what}. Name a dagster.ExecutorDefinition.")
    return found
