"""Serves the artifact store to a browser, read only, so that reports and pictures open from the UI at a click.

`make dev` starts it beside Dagster; a page from http may not open a file of the disk. Only this machine can reach it.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from assets.showing import files_address
from dagster_project.definitions import DEFAULT_STORE

HOST = "127.0.0.1"


class _Files(SimpleHTTPRequestHandler):
    """The files below a folder; what leads out of it or is hidden is not there."""

    def send_head(self) -> IO[bytes] | None:
        root = Path(self.directory).resolve()
        place = Path(self.translate_path(self.path)).resolve()
        hidden = any(part.startswith(".") for part in place.parts[len(root.parts) :])
        own = (self.headers.get("Host") or "").rsplit(":", 1)[0] in {HOST, "localhost"}
        if hidden or not own or not place.is_relative_to(root):
            self.send_error(404)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        # a report holds everything it shows; whatever else a page would load or send is refused
        self.send_header("Content-Security-Policy", "default-src 'self' data: 'unsafe-inline'")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """A line a picture helps nobody."""


def server(root: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the files below `root`, not yet running. Port 0 takes any free one."""
    root.mkdir(parents=True, exist_ok=True)
    return ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(root)))


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the artifact store to a browser, read only.")
    parser.add_argument("--port", type=int, default=urlsplit(files_address()).port or 3001)
    store = os.environ.get("HOSER_KD_STORE") or str(DEFAULT_STORE)
    if "://" in store:
        raise SystemExit(f"{store} is no folder of this machine; open its files with its own tools.")
    with server(Path(store), parser.parse_args().port) as serving:
        serving.serve_forever()


if __name__ == "__main__":
    main()
