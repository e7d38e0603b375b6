"""The one address of `make dev`: Dagster's UI, the files of the store and TensorBoard, for pages of this address only.

Dagster and TensorBoard answer any host name and any web page. A page that the user visits could so read their answers
(through a host name of its own that it points to this machine) or start runs. The gateway passes a request on only
if it names this machine and does not come from another site. It reads the head of a request and passes everything
else on as it is, so uploads, streams and web sockets need no code; a connection carries one request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import io
import os
import sys
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

from dagster_project.paths import FILES_PREFIX, HOST, TENSORBOARD_PREFIX

_MOST_HEAD = 1 << 16
_PIECE = 1 << 16
_CONNECT_S = 10.0


def allowed_hosts() -> frozenset[str]:
    """Return the host names that the gateway answers to: those of this machine, and those in HOSER_KD_HOSTS."""
    more = os.environ.get("HOSER_KD_HOSTS", "").replace(",", " ").split()
    return frozenset({HOST, "localhost", "::1", *more})


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: Message

    @classmethod
    def parse(cls, head: bytes) -> Request | None:
        """Return the request; None if its head is not one of HTTP/1."""
        line, _, rest = head.partition(b"\r\n")
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return None
        try:
            return cls(words[0], words[1], http.client.parse_headers(io.BytesIO(rest)))
        except http.client.HTTPException:
            return None

    @property
    def is_upgrade(self) -> bool:
        """Return whether the connection becomes a web socket."""
        return "upgrade" in self.headers.get("Connection", "").lower()

    def refusal(self, hosts: frozenset[str]) -> str | None:
        """Return why the request is refused; None if it may pass."""
        names = self.headers.get_all("Host") or []
        if len(names) != 1 or _hostname(names[0]) not in hosts:
            return "this host name is not served. Use http://localhost, or add the name to HOSER_KD_HOSTS."
        origin = self.headers.get("Origin")
        if origin is not None and origin not in (f"http://{names[0]}", f"https://{names[0]}"):
            return "it comes from another site."
        # a link on another page may open a page here, but nothing else; GraphQL answers plain links too
        is_page = self.method == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        is_page = is_page and urlsplit(self.target).path != "/graphql"
        if not is_page and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "it comes from another site."
        return None

    def head(self) -> bytes:
        """Return the head to pass on; the server behind closes the connection after its answer."""
        fields = [(name, value) for name, value in self.headers.items() if name.lower() != "connection"]
        fields.append(("Connection", "Upgrade" if self.is_upgrade else "close"))
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")


def _hostname(name: str) -> str | None:
    """Return the host of a Host header, without its port; None if it is not valid."""
    try:
        return urlsplit(f"//{name}").hostname
    except ValueError:
        return None


class Gateway:
    """Routes requests to the servers behind by the beginning of their path."""

    def __init__(self, dagster: int, files: int, tensorboard: int) -> None:
        """Take the ports of the three servers."""
        self._ports = {FILES_PREFIX: files, TENSORBOARD_PREFIX: tensorboard}
        self._dagster = dagster
        self._hosts = allowed_hosts()

    async def serve(self, port: int) -> asyncio.Server:
        """Start to listen on a port of this machine; 0 takes any free one."""
        return await asyncio.start_server(self._answer, HOST, port, limit=_MOST_HEAD)

    def port_of(self, target: str) -> int:
        """Return the port of the server for a path."""
        path = urlsplit(target).path
        return next(
            (port for prefix, port in self._ports.items() if f"{path}/".startswith(f"{prefix}/")), self._dagster
        )

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
            refusal = "it is not a request of HTTP/1." if request is None else request.refusal(self._hosts)
            if request is None or refusal is not None:
                await _say(writer, "403 Forbidden", f"Refused: {refusal}")
            else:
                await self._pass_on(request, reader, writer)
        await _close(writer)

    async def _pass_on(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            opening = asyncio.open_connection(HOST, self.port_of(request.target))
            answer, behind = await asyncio.wait_for(opening, _CONNECT_S)
        except (OSError, TimeoutError):
            text = "This server is still starting, or it has ended. The page loads again every second."
            await _say(writer, "502 Bad Gateway", text, "Refresh: 1")
            return
        behind.write(request.head())
        body = asyncio.create_task(_pump(reader, behind))
        try:
            await _pump(answer, writer)
        finally:
            body.cancel()
            await _close(behind)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then end the target's direction."""
    with contextlib.suppress(OSError):
        while piece := await source.read(_PIECE):
            target.write(piece)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


async def _say(writer: asyncio.StreamWriter, status: str, text: str, *fields: str) -> None:
    body = f"{text}\n".encode()
    known = ("Content-Type: text/plain", f"Content-Length: {len(body)}", "Connection: close")
    head = "\r\n".join([f"HTTP/1.1 {status}", *known, *fields, "", ""])
    writer.write(head.encode() + body)
    await writer.drain()


async def _announce(port: int, dagster: int) -> None:
    """Print the address when Dagster listens, after the line in which it names its own port."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, dagster)
            await _close(writer)
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(1)
    sys.stderr.write(f"\nOpen http://localhost:{port}: UI, files and TensorBoard. Ports named above are internal.\n\n")


async def _run(options: argparse.Namespace) -> None:
    announcement = asyncio.create_task(_announce(options.port, options.dagster))
    server = await Gateway(options.dagster, options.files, options.tensorboard).serve(options.port)
    async with server:
        await server.serve_forever()
    announcement.cancel()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="One address for Dagster, the files of the store and TensorBoard.")
    for name in ("port", "dagster", "files", "tensorboard"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
