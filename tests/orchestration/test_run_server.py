"""The server that forks the runs of `make dev`: what it answers, and how its runs end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
from homes import wait_until

from dagster_project import run_server
from dagster_project.dagster_servers import _Servers
from dagster_project.run_launcher import SERVER_TAG, ForkingRunLauncher
from dagster_project.run_server import FORKED, INTERRUPTED, STALE, UNKNOWN, VARIABLE, ask, report_end, serve

HOME = """\
telemetry: {enabled: false}
run_launcher: {module: dagster_project.run_launcher, class: ForkingRunLauncher}
"""


def run_until_interrupted(folder: Path) -> None:
    """Stand for a run: write a file for its process and one for each interrupt."""
    interrupts = []

    def interrupted(*_: object) -> None:
        interrupts.append(1)
        (folder / f"interrupt-{len(interrupts)}").touch()

    signal.signal(signal.SIGINT, interrupted)
    assert run_server.is_forked_run()
    (folder / "run.part").write_text(f"{os.getpid()} {' '.join(sys.argv)}")
    (folder / "run.part").rename(folder / "run")
    while not interrupts:
        time.sleep(0.02)
    time.sleep(0.3)  # a second interrupt would come now


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An instance with the run launcher of `make dev`."""
    (tmp_path / "dagster.yaml").write_text(HOME)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "runs"))
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def server(home, tmp_path):
    """A run server whose runs wait for an interrupt; its address."""
    with _Servers() as servers:
        servers.start(
            "run server",
            partial(serve, str(tmp_path / "runs"), partial(run_until_interrupted, tmp_path)),
            ends_with=signal.SIGTERM,
        )
        servers.wait_for(socket.AF_UNIX, str(tmp_path / "runs"))
        yield str(tmp_path / "runs")


def started(folder):
    return wait_until(lambda: (folder / "run").is_file() and (folder / "run").read_text(), 30, "the run")


def ended(process):
    return wait_until(lambda: not Path(f"/proc/{process}").exists(), 30, "the end of the run")


def run_of(instance, status=dg.DagsterRunStatus.STARTED, **tags):
    job = dg.GraphDefinition(name="empty").to_job()
    return instance.create_run_for_job(job, status=status, tags=tags)


def test_a_run_is_forked_with_its_arguments_and_interrupted_once(server, tmp_path):
    assert ask(server, {"run": "a", "execute": '{"some": "arguments"}'}) == FORKED
    process, *words = started(tmp_path).split(" ", 1)
    assert words == ['dagster api execute_run {"some": "arguments"}']
    assert ask(server, {"run": "b"}) == UNKNOWN
    assert ask(server, {"run": "a"}) == INTERRUPTED
    ended(process)
    assert (tmp_path / "interrupt-1").exists()
    assert not (tmp_path / "interrupt-2").exists()
    assert ask(server, {"run": "a"}) == UNKNOWN


def test_a_client_that_sends_something_else_does_not_end_the_server(server):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server)
        client.sendall(b"no request\n")
        assert client.recv(100) == b""
    with pytest.raises(ConnectionError, match="without an answer"):
        ask(server, {"no": "run"})
    assert ask(server, {"run": "a"}) == UNKNOWN


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_end_of_the_server_interrupts_its_runs_unless_the_terminal_has(home, tmp_path, sent):
    """SIGTERM is for the server alone; an interrupt of the terminal reaches its runs too."""
    address = str(tmp_path / "runs")
    with _Servers() as servers:
        servers.start("run server", partial(serve, address, partial(run_until_interrupted, tmp_path)))
        servers.wait_for(socket.AF_UNIX, address)
        assert ask(address, {"run": "a", "execute": "{}"}) == FORKED
        process = int(started(tmp_path).split()[0])
        os.kill(servers._processes[0].pid, sent)
        if sent == signal.SIGINT:
            time.sleep(0.2)
            assert not (tmp_path / "interrupt-1").exists()
            os.kill(process, signal.SIGINT)
        assert servers.wait(20) == "the run server has ended with status 0"
        assert not Path(f"/proc/{process}").exists()
        assert (tmp_path / "interrupt-1").exists()
        assert not (tmp_path / "interrupt-2").exists()


def test_a_run_whose_process_is_killed_has_failed_and_one_to_be_canceled_is_canceled(server, home, tmp_path):
    run = run_of(home)
    assert ask(server, {"run": run.run_id, "execute": "{}"}) == FORKED
    os.kill(int(started(tmp_path).split()[0]), signal.SIGKILL)
    wait_until(lambda: home.get_run_by_id(run.run_id).is_finished, 30, "the report")
    assert home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert any("signal 9 (SIGKILL)" in event.message for event in home.all_logs(run.run_id))

    canceling = run_of(home, dg.DagsterRunStatus.CANCELING)
    report_end(canceling.run_id, 1)
    assert home.get_run_by_id(canceling.run_id).status == dg.DagsterRunStatus.CANCELED


def test_a_finished_run_is_left_alone(home):
    run = run_of(home, dg.DagsterRunStatus.SUCCESS)
    report_end(run.run_id, 0)
    assert home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS


def test_code_that_has_changed_is_not_forked(tmp_path, monkeypatch):
    module = tmp_path / "changed_module.py"
    module.write_text("a = 1")
    monkeypatch.setattr(run_server, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("changed_module")
    forking = run_server._RunServer(lambda: None)
    module.write_text("a = 22")
    assert forking._answer({"run": "a", "execute": "{}"}) == STALE
    assert not forking._runs
    assert forking._answer({"run": "a"}) == UNKNOWN


def test_a_launcher_without_a_server_starts_a_python_process(home, monkeypatch):
    launched = []
    monkeypatch.setattr(ForkingRunLauncher.__base__, "launch_run", lambda _, context: launched.append(context))
    origin = dg.reconstructable(a_job).get_python_origin()
    run = home.create_run_for_job(a_job, job_code_origin=origin)
    context = type("Context", (), {"dagster_run": run})
    home.run_launcher.launch_run(context)
    assert launched == [context]
    assert any("Starts a Python process" in event.message for event in home.all_logs(run.run_id))
    assert not home.get_run_by_id(run.run_id).tags.get(SERVER_TAG)
    monkeypatch.delenv(VARIABLE)
    home.run_launcher.launch_run(context)
    assert len(launched) == 2


@dg.job
def a_job():
    pass


def closes_next(listener):
    """Accept a connection and close it without an answer."""
    listener.accept()[0].close()


def test_a_server_that_does_not_answer_is_not_taken_for_one_that_is_gone(home, tmp_path, monkeypatch):
    """It may have forked the run, which another process would run twice."""
    monkeypatch.setattr(ForkingRunLauncher.__base__, "launch_run", lambda *_: pytest.fail("started twice"))
    run = home.create_run_for_job(a_job, job_code_origin=dg.reconstructable(a_job).get_python_origin())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "runs"))
        listener.listen()
        for ask_it in (
            lambda: home.run_launcher.launch_run(type("Context", (), {"dagster_run": run})),
            lambda: home.run_launcher.terminate(run.run_id),
        ):
            silent = threading.Thread(target=closes_next, args=(listener,))
            silent.start()
            with pytest.raises(OSError, match=r"without an answer|Broken pipe|reset|not connected"):
                ask_it()
            silent.join()
    assert home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELING


def test_canceling_a_run_whose_server_is_gone_cancels_it(home, tmp_path):
    run = run_of(home, **{SERVER_TAG: str(tmp_path / "gone")})
    assert home.run_launcher.terminate(run.run_id)
    assert home.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED
    assert not home.run_launcher.terminate(run.run_id)
