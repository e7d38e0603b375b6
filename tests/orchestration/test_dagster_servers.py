"""Dagster's servers: started as forks of one process, and ended together."""

from __future__ import annotations

import signal
import socket
import time
from functools import partial
from multiprocessing import active_children

import pytest
from ports import free_ports

from dagster_project import dagster_servers
from dagster_project.dagster_servers import _command, _Servers, python_module
from dagster_project.paths import ROOT

MODULE = "load_from: [{python_module: {module_name: a.b, location_name: c}}]"


def fail():
    raise SystemExit(3)


def test_all_servers_end_when_one_ends_by_itself():
    with _Servers() as servers:
        servers.start("web server", partial(time.sleep, 60))
        servers.start("daemon", fail)
        assert servers.wait() == "the daemon has ended with status 3"
        assert len(active_children()) == 1
    assert not active_children()


def test_an_interrupt_is_an_end_without_error_that_the_servers_get_only_once(tmp_path):
    """The terminal sends it to them too, and one that gets it twice does not clean up."""

    def serve() -> None:
        signal.signal(signal.SIGINT, lambda *_: (tmp_path / "interrupted").touch())
        (tmp_path / "serves").touch()
        time.sleep(0.3)

    with _Servers() as servers:
        servers.start("web server", serve)
        while not (tmp_path / "serves").exists():
            assert servers.wait(0.01) is None
        raise KeyboardInterrupt
    assert not active_children()
    assert not (tmp_path / "interrupted").exists()


def test_waiting_for_a_server_ends_when_it_ends():
    with _Servers() as servers:
        servers.start("code server", fail)
        servers.wait_for(socket.AF_INET, ("127.0.0.1", free_ports(1)[0]))
        assert servers.wait(0) == "the code server has ended with status 3"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (MODULE, True),
        (MODULE.replace("c}", "c, working_directory: d}"), True),
        (MODULE.replace("c}", "c, executable_path: python3.9}"), False),
        ("load_from: [{python_module: a.b}]", False),
        ("load_from: [{python_file: {relative_path: a.py, location_name: c}}]", False),
        (f"{MODULE[:-1]}, {{python_file: b.py}}]", False),
    ],
)
def test_only_a_workspace_with_one_named_module_is_not_left_to_dagster_dev(tmp_path, text, known):
    (tmp_path / "workspace.yaml").write_text(text)
    assert (python_module(tmp_path / "workspace.yaml") is not None) == known


def test_the_workspaces_of_the_checkout_and_of_a_project_are_one_named_module():
    for folder in (ROOT, ROOT / "hoser_kd/cli/skeleton"):
        assert python_module(folder / "workspace.yaml")


@pytest.mark.parametrize(
    ("package", "name"),
    [("dagster", "dagster"), ("dagster", "dagster-daemon"), ("dagster-webserver", "dagster-webserver")],
)
def test_dagster_has_the_commands(package, name):
    assert callable(_command(package, name))


def test_the_servers_keep_the_engines_of_their_files(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(dagster_servers, "keep_engines", lambda: kept.append(list(tmp_path.iterdir())))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    dagster_servers._create_instance()
    assert kept == [[]]  # before the first statement
    assert (tmp_path / "history" / "runs.db").is_file()
