"""The run launcher of `make dev`: a run is forked from a process that has imported torch and the stages.

Where no such process is, as in `dagster dev`, or the code has changed since it started, it is Dagster's own launcher.
"""

from __future__ import annotations

import os

import dagster as dg
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from dagster_project.run_server import FORKED, INTERRUPTED, VARIABLE, ask

SERVER_TAG = "hoser_kd/run_server"
"""Run tag: socket of the server that has forked the run."""
NOT_LISTENING = (ConnectionRefusedError, FileNotFoundError)
"""Errors of `ask` after which the server has done nothing. Another one fails the launch, as the run may have begun."""


class ForkingRunLauncher(DefaultRunLauncher):
    """Launches runs in the run server of `make dev`, others as Dagster does."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork a run, or start a Python process for it."""
        if not self._is_forked(context.dagster_run):
            super().launch_run(context)

    def _is_forked(self, run: dg.DagsterRun) -> bool:
        server = os.environ.get(VARIABLE)
        if not server or run.job_code_origin is None:
            return False
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        self._instance.add_run_tags(run.run_id, {SERVER_TAG: server})
        try:
            answer = ask(server, {"run": run.run_id, "execute": serialize_value(arguments)})
        except NOT_LISTENING as error:
            answer = str(error)
        if answer == FORKED:
            self._run_ids.add(run.run_id)
            return True
        self._instance.add_run_tags(run.run_id, {SERVER_TAG: ""})
        self._instance.report_engine_event(f"Starts a Python process (run server: {answer}).", run, cls=type(self))
        return False

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run. Returns False if it does not run any more."""
        run = self._instance.get_run_by_id(run_id)
        server = run.tags.get(SERVER_TAG) if run is not None else None
        if run is None or not server:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        if run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        try:
            return ask(server, {"run": run_id}) == INTERRUPTED
        except NOT_LISTENING:
            self._instance.report_run_canceled(run, "Its process has ended with `make dev`.")
            return True
