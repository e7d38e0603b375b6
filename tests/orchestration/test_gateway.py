"""The gateway of `make dev`: three servers at one address, for pages of that address only."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ports import free_ports

from dagster_project.gateway import Gateway
from dagster_project.storage import require_database
from hoser_kd.common.errors import StoreError


class Behind(BaseHTTPRequestHandler):
    """Answers with its server's name, the path and the body."""

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = f"{self.server.title} {self.path} {body.decode()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_):
        pass


async def close(serving):
    """Close a server and wait for its connections."""
    serving.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=10)


@pytest.fixture(scope="module")
def port():
    """The port of a gateway over three servers."""
    with contextlib.ExitStack() as stack:
        numbers = {}
        for name in ("dagster", "files", "tensorboard"):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Behind))
            server.title = name
            numbers[name] = server.server_address[1]
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        serving = asyncio.run_coroutine_threadsafe(Gateway(**numbers).serve(0), loop).result(10)
        yield serving.sockets[0].getsockname()[1]
        asyncio.run_coroutine_threadsafe(close(serving), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(port, path="/", method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {"Host": f"localhost:{port}", **headers})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("path", "name"),
    [("/assets", "dagster"), ("/files/a?b=1", "files"), ("/filesystem", "dagster"), ("/tensorboard/", "tensorboard")],
)
def test_the_path_selects_the_server(port, path, name):
    assert ask(port, path) == (200, f"{name} {path} ")


def test_bodies_pass_whole(port):
    body = "x" * 300_000
    assert ask(port, "/graphql", "POST", body) == (200, f"dagster /graphql {body}")


OTHER = "http://evil.example"


@pytest.mark.parametrize(
    ("request_of", "allowed"),
    [
        ({"Host": "evil.example"}, False),  # a name of another site that points to this machine
        ({"Host": "localhost.evil.example:3000"}, False),
        ({"Host": "localhost:4000"}, True),  # a forwarded port
        ({"Host": "[::1]:3000"}, True),
        ({"method": "POST", "Origin": OTHER}, False),
        ({"method": "POST", "Origin": "null"}, False),
        ({"method": "POST", "Host": "localhost:1", "Origin": "http://localhost:2"}, False),
        ({"method": "POST", "Host": "localhost:1", "Origin": "http://localhost:1"}, True),
        ({"method": "POST"}, True),  # a program, not a page
        ({"Connection": "Upgrade", "Upgrade": "websocket", "Origin": OTHER}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),  # an image of another page
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),  # a link on another page
        ({"path": "/graphql?query=x", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
    ],
)
def test_requests_of_other_sites_and_for_other_names_are_refused(port, request_of, allowed):
    status, text = ask(port, **request_of)
    assert (status == 200) == allowed
    assert allowed or (status == 403 and text.startswith("Refused: "))


def test_a_server_that_does_not_answer_is_said(port):
    [unused] = free_ports(1)

    async def run():
        serving = await Gateway(unused, unused, unused).serve(0)
        result = await asyncio.to_thread(ask, serving.sockets[0].getsockname()[1])
        await close(serving)
        return result

    assert asyncio.run(run()) == (
        502,
        "This server is still starting, or it has ended. The page loads again every second.\n",
    )


def test_a_web_socket_passes_in_both_directions():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo():
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(4096)
                assert b"Connection: Upgrade" in head
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                while piece := connection.recv(100):
                    connection.sendall(piece.upper())

        thread = threading.Thread(target=echo)
        thread.start()

        async def run():
            behind = listener.getsockname()[1]
            serving = await Gateway(behind, behind, behind).serve(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.sockets[0].getsockname()[1])
            writer.write(
                b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            for word in (b"one", b"two"):
                writer.write(word)
                assert await reader.readexactly(3) == word.upper()
            writer.close()
            await writer.wait_closed()
            await close(serving)

        asyncio.run(run())
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("address", ["postgresql+psycopg2://me:secret@127.0.0.1:{port}/runs", "postgres//x"])
def test_a_database_that_cannot_be_reached_is_one_error(monkeypatch, address):
    [unused] = free_ports(1)
    monkeypatch.setenv("HOSER_KD_POSTGRES", address.format(port=unused))
    with pytest.raises(StoreError, match=r"HOSER_KD_POSTGRES: .* cannot be reached .*Start the database") as error:
        require_database()
    assert "secret" not in str(error.value)
