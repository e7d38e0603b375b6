"""Kubernetes: the pods of steps with a model get GPUs, those of all other steps none.

The tag `dagster-k8s/config` does nothing outside Kubernetes. It is set only with HOSER_KD_K8S_GPUS, so that definitions
are the same everywhere else.
"""

import os
from collections.abc import Mapping
from typing import Any

from hoser_kd.common.errors import ConfigError

VARIABLE = "HOSER_KD_K8S_GPUS"
"""Environment variable: GPUs of a pod with a model, such as `1`, or a resource with a number (`amd.com/gpu=2`)."""
TAG = "dagster-k8s/config"
_DEFAULT_RESOURCE = "nvidia.com/gpu"


def gpu_tags_of_step() -> dict[str, Any]:
    """Return the tags of a step with a model, for the executor `k8s`, which starts a pod for each step.

    Raises ConfigError if HOSER_KD_K8S_GPUS is not a number of GPUs.
    """
    return _limits(os.environ)


def gpu_tags_of_run() -> dict[str, Any]:
    """Return the tags of a job with a model, for the other executors, with which all steps run in the pod of the run.

    Raises ConfigError if HOSER_KD_K8S_GPUS is not a number of GPUs.
    """
    return {} if os.environ.get("HOSER_KD_EXECUTOR") == "k8s" else _limits(os.environ)


def _limits(environment: Mapping[str, str]) -> dict[str, Any]:
    given = environment.get(VARIABLE)
    if not given:
        return {}
    resource, _, number = given.rpartition("=")
    if not number.isdecimal() or "=" in resource:
        raise ConfigError(f"{VARIABLE}={given}: expected a number of GPUs, such as 1 or amd.com/gpu=2.")
    if int(number) == 0:
        return {}
    limits = {resource or _DEFAULT_RESOURCE: str(int(number))}
    return {TAG: {"container_config": {"resources": {"limits": limits}}}}
