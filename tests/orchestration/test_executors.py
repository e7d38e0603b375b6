"""The executor of the jobs, by HOSER_KD_EXECUTOR or as an argument."""

import sys

import dagster as dg
import pytest

from dagster_project.definitions import build_defs
from dagster_project.executors import VARIABLE, executor_of
from hoser_kd.common.errors import ConfigError


def test_the_variable_names_the_executor_of_all_jobs(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    job = build_defs().resolve_job_def("distill")
    assert job.executor_def.name == "multiprocess"
    for name, found in {"in_process": "in_process", "dagster:multiprocess_executor": "multiprocess"}.items():
        monkeypatch.setenv(VARIABLE, name)
        assert executor_of().name == found
    monkeypatch.setenv(VARIABLE, "in_process")
    assert build_defs().resolve_job_def("distill").executor_def.name == "in_process"


def test_an_argument_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv(VARIABLE, "unknown")

    @dg.executor(name="of_a_test")
    def other(_):
        return dg.in_process_executor

    assert build_defs(executor=other).resolve_job_def("distill").executor_def is other
    assert executor_of("in_process") is dg.in_process_executor


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multi", "'multi' is not an executor. Use in_process, multiprocess, celery, k8s, or package.module:name"),
        ("no_such_package:executor", "cannot be imported"),
        (":executor", "cannot be imported"),
        ("dagster:asset", "is a function, not an executor"),
        ("dagster:no_such_executor", "does not exist"),
    ],
)
def test_another_value_is_refused(name, message):
    with pytest.raises(ConfigError, match=f"^{VARIABLE}: ") as raised:
        executor_of(name)
    assert message in str(raised.value)


@pytest.mark.parametrize(("name", "package"), [("celery", "dagster_celery"), ("k8s", "dagster_k8s")])
def test_an_executor_without_its_package_says_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"cannot be imported .* Fix: pip install"):
        executor_of(name)
