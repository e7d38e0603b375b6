"""Serve the artifact store to a browser, read-only, so that the UI can link to reports, figures and files.

`make dev` starts it behind its gateway, at the path `/files`, since a page loaded over HTTP may not open local files.
It listens on this machine only, and answers below `/files` and below `/`.
"""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from assets.showing import files_address
from dagster_project.paths import FILES_PREFIX, HOST, local_store


class _Files(SimpleHTTPRequestHandler):
    """The files below a folder. Hidden files, links out of the folder and foreign host names give status 404."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        root = Path(self.directory).resolve()
        target = Path(self.translate_path(self.path)).resolve()
        hidden = any(part.startswith(".") for part in target.parts[len(root.parts) :])
        local = (self.headers.get("Host") or "").rsplit(":", 1)[0] in {HOST, "localhost"}
        if hidden or not local or not target.is_relative_to(root):
            self.send_error(404)
            return None
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


def server(root: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the files below `root`, not yet running. Port 0 takes any free port."""
    root.mkdir(parents=True, exist_ok=True)
    return ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(root)))


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the artifact store to a browser, read-only.")
    parser.add_argument("--port", type=int, default=urlsplit(files_address()).port or 3001)
    options = parser.parse_args()
    with server(local_store(), options.port) as running:
        running.serve_forever()


if __name__ == "__main__":
    main()
