"""Guard before the application: host names, size and duration of bodies, and measurement of answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hoser_kd.serving.requests import Limits


class Guard:
    """ASGI middleware that reads the body of a request within limits before the application sees it."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        hosts: Iterable[str],
        paths: Container[str],
        record: Callable[[str, int, float], None],
    ) -> None:
        """`hosts` are the host names that requests may use; `*` stands for any text."""
        self._app, self._limits, self._hosts, self._paths, self._record = app, limits, tuple(hosts), paths, record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 400, 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.monotonic(), scope["path"]
        name = path if path in self._paths else "other"  # any other text would be a new series

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._record(name, message["status"], time.monotonic() - started)
            await send(message)

        # a page elsewhere must not reach the server through a name of its own that resolves to this machine
        body = self._foreign_host(scope) or await self._body(scope, receive)
        if isinstance(body, JSONResponse):
            await body(scope, receive, send_recorded)
            return
        sent = False

        async def receive_body() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # the client disconnects
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send_recorded)

    def _foreign_host(self, scope: Scope) -> JSONResponse | None:
        """Return the answer that refuses a host name which requests may not use; None for any other."""
        header = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        try:
            host = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            host = ""
        if any(fnmatchcase(host, pattern.lower()) for pattern in self._hosts):
            return None
        return _refusal(
            400, f"requests to the host {header[:100]!r} are refused. Start with --allow-host NAME.", "Host"
        )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | JSONResponse:
        """Return the whole body, or the answer that refuses it."""
        most = self._limits.body_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        parts, size = [], int(declared) if declared.isdigit() else 0
        if size > most:
            return _refusal(413, f"the body has {size} bytes, and {most} are allowed. Split the request.")
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b""
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        return _refusal(413, f"the body has more than {most} bytes. Split the request.")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            return _refusal(408, f"the body did not arrive within {self._limits.body_seconds:g} s.")


def _refusal(status: int, error: str, place: str = "body") -> JSONResponse:
    return JSONResponse({"error": error, "place": place}, status, headers={"Connection": "close"})
