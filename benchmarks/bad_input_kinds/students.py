"""Bundles of students that are damaged, and requests to a server that it cannot answer."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput

BUNDLE = Path(__file__).resolve().parents[2] / "tests" / "sharing" / "bundle_1"
"""A bundle as a past release wrote it."""
FILES = ("connections.parquet", "model.json", "model.safetensors", "roads.parquet", "student.json")


def bad_bundles() -> Iterator[BadInput]:
    """Yield bundles with a damaged file, or a manifest that does not fit."""

    def bundle(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            from hoser_kd.sharing import load_student

            copy = folder / "bundle"
            shutil.copytree(BUNDLE, copy)
            change(copy)
            return load_student(copy).num_roads

        return read

    def content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))

    def manifest(**values: Any) -> Callable[[Path], Any]:
        return content("manifest.json", lambda text: json.dumps({**json.loads(text), **values}).encode())

    yield BadInput("bundles", "README.md missing", bundle(lambda folder: (folder / "README.md").unlink()), 127)
    for name in FILES:
        yield BadInput("bundles", f"{name}: missing", bundle(lambda folder, name=name: (folder / name).unlink()))
    for name in (*FILES, "manifest.json"):
        for label, change in (
            ("zeros", lambda data: bytes(len(data))),
            ("cut", lambda data: data[: len(data) // 2]),
            ("empty", lambda _: b""),
            ("a bit flipped", lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:]),
        ):
            yield BadInput("bundles", f"{name}: {label}", bundle(content(name, change)))
    for label, values in (
        ("another format", {"format": "other"}),
        ("a newer format", {"format_version": 99}),
        ("a format that is text", {"format_version": "1"}),
        ("another version", {"version": "0" * 16}),
        ("no files", {"files": {}}),
        ("files as a list", {"files": ["model.json"]}),
        ("a file outside", {"files": {"../x": {"sha256": "0", "bytes": 1}}}),
        ("digests that are numbers", {"files": {name: {"sha256": 1, "bytes": 1} for name in FILES}}),
    ):
        yield BadInput("bundles", f"manifest: {label}", bundle(manifest(**values)))


@functools.cache
def _client() -> Any:
    from hoser_kd.serving.app import create_app
    from hoser_kd.serving.predictor import Predictor
    from hoser_kd.serving.requests import Limits
    from hoser_kd.sharing import load_student

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which HTTP client starlette prefers
        from starlette.testclient import TestClient
    limits = Limits(body_bytes=20_000, trips=8, expansions=100, path_roads=16)
    app = create_app(Predictor(load_student(BUNDLE).model), limits, hosts=["testserver"])
    client = TestClient(app, raise_server_exceptions=False)
    return client.__enter__()  # the server's queue runs until this process ends


def bad_requests() -> Iterator[BadInput]:
    """Yield bodies that the server must refuse with a status below 500 and a JSON error."""
    trip = {"origin": 0, "destination": 5, "start_time": 1_700_000_000}
    path = {"roads": [0], "times": [1_700_000_000], "destination": 5}

    def post(address: str, body: Any) -> Callable[[Path], Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return lambda _: _answer(address, raw)

    yield BadInput("serving", "a valid request", post("/generate", {"trips": [trip]}), 200)
    yield BadInput("serving", "UTF-16", post("/generate", json.dumps({"trips": [trip]}).encode("utf-16")), 200)
    for label, body in (
        ("empty", b""),
        ("no JSON", b"{"),
        ("a list", [trip]),
        ("a number", 5),
        ("nested deeply", b"[" * 15_000),
        ("too large", b'{"trips": "' + b"x" * 30_000 + b'"}'),
        ("NaN", b'{"trips": [{"origin": NaN, "destination": 5, "start_time": 0}]}'),
        ("5,000 digits", b'{"trips": [{"origin": ' + b"9" * 5000 + b', "destination": 5, "start_time": 0}]}'),
        ("no trips", {"trips": []}),
        ("9 trips", {"trips": [trip] * 9}),
        ("an unknown key", {"trips": [trip], "decodr": "beam"}),
        ("an unknown decoder", {"trips": [trip], "decoder": "serach"}),
        ("a decoder of 50 letters", {"trips": [trip], "decoder": "x" * 50}),
        ("max_steps 0", {"trips": [trip], "max_steps": 0}),
        ("max_steps 10^9", {"trips": [trip], "max_steps": 10**9}),
        ("a seed of 2^40", {"trips": [trip], "decoder": "sampling", "seed": 2**40}),
        *(
            (f"origin {value!r}", {"trips": [{**trip, "origin": value}]})
            for value in (-1, 999, 1.5, "0", True, None, [0])
        ),
        *(
            (f"start_time {value!r}", {"trips": [{**trip, "start_time": value}]})
            for value in (-1, 1e300, "2013-07-01", 1_700_000_000_000, 0.5, None)
        ),
    ):
        yield BadInput("serving", f"generate: {label}", post("/generate", body))
    for label, values in (
        ("no roads", {"roads": [], "times": []}),
        ("fewer times", {"roads": [0, 1]}),
        ("times that decrease", {"roads": [0, 1], "times": [5, 4]}),
        ("an unknown road", {"roads": [999]}),
        ("17 roads", {"roads": [0] * 17, "times": [0] * 17}),
        ("a destination of -1", {"destination": -1}),
    ):
        yield BadInput("serving", f"next_step: {label}", post("/next_step", {"paths": [{**path, **values}]}))
    yield BadInput("serving", "an unknown address", post("/generat", {"trips": [trip]}))


def _answer(address: str, body: bytes) -> int:
    from hoser_kd.common.errors import HoserKdError

    answer = _client().post(address, content=body, headers={"content-type": "application/json"})
    if 400 <= answer.status_code < 500:
        raise HoserKdError(answer.json()["error"])
    assert answer.status_code == 200, answer.text
    return int(answer.status_code)
