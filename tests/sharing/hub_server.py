"""A stand-in of Hugging Face: the requests that publishing and downloading a repository need, over HTTP, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator


class Repository:
    """Commits of a repository by their id, and the revisions that name them."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, str] = {}

    def commit(self, changes: dict[str, bytes]) -> str:
        files = {**self.commits.get(self.revisions.get("main", ""), {}), **changes}
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[oid] = files
        self.revisions["main"] = oid
        return oid


def etag(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    repositories: dict[str, Repository]
    served: list[str]

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/"):
            user, name, *more = path.removeprefix("/api/models/").split("/")
            return self._answer_info(f"{user}/{name}", more[1] if more else "main", path)
        if "/resolve/" not in path:
            return self._send(404, b"{}")
        user, name, _, revision, file = path.strip("/").split("/", 4)
        repository = self.repositories[f"{user}/{name}"]
        oid = repository.revisions.get(revision, revision)
        content = repository.commits[oid][file]
        self.served.append(file)
        return self._send(200, content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": oid})

    def _answer_info(self, name, revision, path):
        repository = self.repositories.get(name)
        if repository is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        oid = repository.revisions.get(revision, revision)
        if oid not in repository.commits:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[oid]
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": file, "size": len(body), "oid": etag(body)} for file, body in files.items()
            ]
            return self._send(200, json.dumps(rows).encode())
        info = {
            "id": name,
            "sha": oid,
            "private": repository.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": file} for file in files],
        }
        return self._send(200, json.dumps(info).encode())

    def do_POST(self):
        path = unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer secret":
            return self._send(401, b'{"error": "Invalid username or password."}')
        if path == "/api/validate-yaml":
            return self._send(200, b'{"errors": [], "warnings": []}')
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'people'}/{wanted['name']}"
            exists = name in self.repositories
            self.repositories.setdefault(
                name, Repository(private="private" in (wanted.get("visibility"), wanted.get("private") and "private"))
            )
            url = json.dumps({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name}).encode()
            return self._send(409 if exists else 200, url)
        user, name, action, revision = path.removeprefix("/api/models/").split("/")[:4]
        repository = self.repositories[f"{user}/{name}"]
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, json.dumps({"files": files}).encode())
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            changes = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            oid = repository.commit(changes)
            address = f"http://{self.headers['Host']}/{user}/{name}/commit/{oid}"
            return self._send(200, json.dumps({"commitUrl": address, "commitOid": oid, "hookOutput": ""}).encode())
        assert action == "tag", path
        tag = json.loads(body)["tag"]
        exists = tag in repository.revisions
        repository.revisions.setdefault(tag, repository.revisions.get(revision, revision))
        return self._send(409 if exists else 200, b"{}")

    def _send(self, status, body, headers=None):
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[ThreadingHTTPServer]:
    """Serve an empty hub; the handler class holds its repositories and the names of the files it served."""
    Handler.repositories, Handler.served = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
