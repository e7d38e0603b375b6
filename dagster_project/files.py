"""Serve the artifact store to a browser, read-only, so that the UI can link to reports, figures and files.

`make dev` starts it behind its gateway, at the path `/files`, since a page loaded over HTTP may not open local files.
It listens on this machine only, and answers below `/files` and below `/`. An artifact of a bucket is copied to the
local cache when one of its files is requested.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from assets.addresses import files_address
from dagster_project.bucket_files import BucketFiles
from dagster_project.paths import FILES_PREFIX, HOST, local_store, store_root
from hoser_kd.pipeline.store import Store


class _Files(SimpleHTTPRequestHandler):
    """The files below a folder. Hidden files, links out of the folder and foreign host names give status 404."""

    def __init__(self, *arguments: Any, provide: Callable[[str], None], **options: Any) -> None:
        """`provide` is called with the path below the folder before a file is read."""
        self._provide = provide
        super().__init__(*arguments, **options)

    def send_head(self) -> BytesIO | BinaryIO | None:
        root = Path(self.directory).resolve()
        target = Path(self.translate_path(self.path)).resolve()
        hidden = any(part.startswith(".") for part in target.parts[len(root.parts) :])
        local = (self.headers.get("Host") or "").rsplit(":", 1)[0] in {HOST, "localhost"}
        if hidden or not local or not target.is_relative_to(root):
            self.send_error(404)
            return None
        self._provide(target.relative_to(root).as_posix())
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Return the file of a path, which may begin with the prefix of the gateway."""
        return super().translate_path(path.removeprefix(FILES_PREFIX) if _is_below(path, FILES_PREFIX) else path)

    def end_headers(self) -> None:
        # a report is self-contained; anything else that a page would load or send is blocked
        scripts = "'unsafe-inline'" if _has_script(Path(self.translate_path(self.path))) else "'none'"
        policy = f"default-src 'self' data: 'unsafe-inline'; script-src {scripts}; object-src 'none'; base-uri 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing; a line per request would bury Dagster's output in the same terminal."""


def _is_below(path: str, prefix: str) -> bool:
    return f"{urlsplit(path).path}/".startswith(f"{prefix}/")


def _has_script(file: Path) -> bool:
    """Return whether a file is a page of this project with scripts, such as the map of trips."""
    if file.suffix != ".html" or not file.is_file():
        return False
    with file.open("rb") as page:
        return any(b"<script" in line for line in page)


def server(root: Path, port: int, provide: Callable[[str], None] = lambda _: None) -> ThreadingHTTPServer:
    """Return a server of the files below `root`, not yet running. Port 0 takes any free port.

    `provide` is called with the path below `root` before a file is read.
    """
    root.mkdir(parents=True, exist_ok=True)
    return ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(root), provide=provide))


def store_server(port: int) -> ThreadingHTTPServer:
    """Return a server of the artifact store, not yet running; also copies the curves of a bucket for TensorBoard."""
    if "://" not in store_root():
        return server(local_store(), port)
    store = Store(store_root())
    files = BucketFiles(store)
    files.follow_curves()
    return server(store.local_root, port, files.provide)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the artifact store to a browser, read-only.")
    parser.add_argument("--port", type=int, default=urlsplit(files_address()).port or 3001)
    options = parser.parse_args()
    with store_server(options.port) as running:
        running.serve_forever()


if __name__ == "__main__":
    main()
