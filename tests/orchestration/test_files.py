"""The file server gives a browser the files of the store, and nothing else of this machine."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.request

import pytest

from dagster_project.files import server


@contextlib.contextmanager
def threading_of(serving):
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield
    serving.shutdown()
    thread.join()


@pytest.fixture
def get(tmp_path):
    (tmp_path / "store" / ".work").mkdir(parents=True)
    (tmp_path / "store" / "report.html").write_text("<h1>report</h1>")
    (tmp_path / "store" / ".work" / "half").write_text("half")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    with server(tmp_path / "store", 0) as serving, threading_of(serving):

        def ask(path, method="GET", host="localhost"):
            connection = http.client.HTTPConnection("127.0.0.1", serving.server_address[1], timeout=10)
            connection.request(method, path, headers={"Host": host})
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, body

        yield ask


def test_files_of_the_store_are_served(get):
    assert get("/report.html") == (200, b"<h1>report</h1>")


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/link", "/.work/half", "/none"])
def test_files_outside_and_hidden_files_are_not_found(get, path):
    assert get(path)[0] == 404


def test_other_host_names_and_writing_are_refused(get):
    assert get("/report.html", host="evil.example")[0] == 404
    assert get("/report.html", method="PUT")[0] == 501


def test_only_pages_with_scripts_may_run_them(tmp_path):
    (tmp_path / "report.html").write_text("<h1>report</h1>")
    (tmp_path / "trips.html").write_text("<h1>map</h1>\n<script>draw()</script>")
    with server(tmp_path, 0) as serving, threading_of(serving):
        address = f"http://127.0.0.1:{serving.server_address[1]}/files"
        policies = {}
        for name in ("report.html", "trips.html", ""):
            with urllib.request.urlopen(f"{address}/{name}", timeout=10) as answer:
                policies[name] = answer.headers["Content-Security-Policy"]
    assert "script-src 'unsafe-inline'" in policies.pop("trips.html")
    assert all("script-src 'none'" in policy for policy in policies.values())
