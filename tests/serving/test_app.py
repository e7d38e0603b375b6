"""The server's application: answers equal those of the library, and hostile requests are refused with JSON errors."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import warnings

import numpy as np
import pytest
import torch

from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.hoser import collate
from hoser_kd.serving.app import create_app
from hoser_kd.serving.batching import BatchQueue
from hoser_kd.serving.predictor import Predictor
from hoser_kd.serving.requests import Limits, PathRequest
from hoser_kd.sharing import next_step

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which HTTP client starlette prefers
    from starlette.testclient import TestClient

LIMITS = Limits(body_bytes=20_000, trips=8, expansions=100, path_roads=16, waiting=2)
TRIP = {"origin": 0, "destination": 5, "start_time": 1_700_000_000}
PATH = {"roads": [0], "times": [1_700_000_000], "destination": 5}


@pytest.fixture
def predictor(small_model):
    return Predictor(small_model)


@pytest.fixture
def client(predictor):
    with TestClient(create_app(predictor, LIMITS, hosts=["testserver"]), raise_server_exceptions=False) as client:
        yield client


def test_trips_equal_those_of_the_library(client, small_model):
    trips = [TRIP, TRIP | {"destination": 9}, TRIP | {"origin": 3}]
    answer = client.post("/generate", json={"trips": trips, "decoder": "beam", "max_steps": 50})
    assert answer.status_code == 200, answer.text
    columns = ([trip[name] for trip in trips] for name in ("origin", "start_time", "destination"))
    expected = generate(small_model, *columns, decoding=Decoding("beam", 50))
    for row, trip in enumerate(answer.json()["trips"]):
        assert trip["roads"] == expected.roads(row).tolist()
        assert trip["times"] == expected.times[expected.offsets[row] : expected.offsets[row + 1]].tolist()
        assert trip["reached"] == expected.reached[row]


def test_next_steps_equal_those_of_the_whole_model(predictor, small_city, small_model):
    """Paths of different lengths in one batch, against the model's own forward pass on the same trips."""
    trips = small_city.trips["test"]
    rows = np.flatnonzero(np.diff(trips.offsets) > 5)[:3]
    trips = trips.take(rows)
    paths = [
        PathRequest(
            roads=trips.roads(row)[: row + 2].tolist(),
            times=trips.times[trips.offsets[row] :][: row + 2].tolist(),
            destination=int(trips.destinations[row]),
        )
        for row in range(3)
    ]
    with torch.no_grad():
        output = small_model(collate(trips, np.arange(3)), all_times=True)
    seconds = small_model.time_scale.seconds(output.all_times).clamp(min=0)
    for row, candidates in enumerate(predictor.next_steps(paths)):
        at = row, row + 1
        roads, shares = output.candidates[at].tolist(), output.logits[at].softmax(0).tolist()
        expected = dict(zip(roads, zip(shares, seconds[at].tolist(), strict=True), strict=True))
        expected.pop(-1, None)
        assert {each.road for each in candidates} == set(expected)
        for each in candidates:
            assert (each.probability, each.seconds) == pytest.approx(expected[each.road], rel=1e-4)
        assert sorted((each.probability for each in candidates), reverse=True) == [
            each.probability for each in candidates
        ]


def test_next_steps_over_http_equal_those_of_the_library(client, small_city, small_model):
    trip = small_city.trips["test"].roads(0)[:3].tolist()
    times = [1_700_000_000, 1_700_000_010, 1_700_000_020]
    answer = client.post("/next_step", json={"paths": [PATH, PATH | {"roads": trip, "times": times}]})
    assert answer.status_code == 200, answer.text
    expected = next_step(small_model, [[0], trip], [times[:1], times], [5, 5])
    for row, candidates in enumerate(answer.json()["steps"]):
        part = slice(*expected.offsets[row : row + 2])
        columns = (values[part].tolist() for values in (expected.road_ids, expected.probabilities, expected.seconds))
        by_probability = sorted(zip(*columns, strict=True), key=lambda each: -each[1])
        assert [(each["road"], each["probability"], each["seconds"]) for each in candidates] == by_probability


@pytest.mark.parametrize(
    ("path", "body", "status", "place", "message"),
    [
        ("/generate", {"trips": []}, 422, "trips", "at least 1 item"),
        ("/generate", {"trips": [TRIP] * 9}, 422, "trips", "9 is more than the 8"),
        ("/generate", {"trips": [TRIP], "max_steps": 101}, 422, "max_steps", "101 is more than the 100"),
        ("/generate", {"trips": [TRIP], "max_steps": 10**30}, 422, "max_steps", "more than the 100"),
        ("/generate", {"trips": [TRIP], "decoder": "bean"}, 422, "decoder", "Did you mean 'beam'?"),
        ("/generate", {"trips": [TRIP | {"origin": 120}]}, 422, "trips.0.origin", "road 120 does not exist."),
        ("/generate", {"trips": [TRIP | {"origin": -1}]}, 422, "trips.0.origin", "greater than or equal to 0"),
        ("/generate", {"trips": [TRIP | {"origin": "3"}]}, 422, "trips.0.origin", "valid integer"),
        ("/generate", {"trips": [TRIP | {"origin": 1.5}]}, 422, "trips.0.origin", "valid integer"),
        ("/generate", {"trips": [TRIP | {"origin": True}]}, 422, "trips.0.origin", "valid integer"),
        ("/generate", {"trips": [TRIP | {"start_time": 10**13}]}, 422, "trips.0.start_time", "less than or equal"),
        ("/generate", {"trips": [TRIP], "prior": 1}, 422, "prior", "unknown key."),
        ("/generate", {"trip": [TRIP]}, 422, "trip", "unknown key. Did you mean `trips`?"),
        ("/generate", "{", 422, "body", "the body is not JSON: Expecting property name"),
        ("/generate", "[" * 9000, 400, "", "error parsing the body"),
        ("/generate", '{"trips": [{"origin": NaN}]}', 422, "trips.0.origin", "valid integer"),
        ("/generate", b"{\xff\xfe", 400, "", "error parsing the body"),
        ("/generate", "x" * 20_001, 413, "body", "20000 are allowed"),
        ("/next_step", {"paths": [PATH | {"times": []}]}, 422, "paths.0.times", "at least 1 item"),
        ("/next_step", {"paths": [PATH | {"roads": [0, 1]}]}, 422, "paths.0", "2 roads but 1 times"),
        ("/next_step", {"paths": [PATH | {"roads": [0, 1], "times": [9, 8]}]}, 422, "paths.0", "times decrease"),
        ("/next_step", {"paths": [PATH | {"roads": [0] * 17, "times": [0] * 17}]}, 422, "paths.0.roads", "17 is more"),
        (
            "/next_step",
            {"paths": [PATH, PATH | {"roads": [0, 77], "times": [0, 0]}]},
            422,
            "paths.1.roads.1",
            "road 77 does not follow road 0. Give connected roads.",
        ),
        (
            "/next_step",
            {"paths": [PATH | {"destination": 999}]},
            422,
            "paths.0.destination",
            "road 999 does not exist.",
        ),
        ("/nowhere", {}, 404, "", "Not Found"),
    ],
)
def test_hostile_requests_are_refused_with_json(client, path, body, status, place, message):
    content = json.dumps(body) if isinstance(body, dict) else body
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["place"]) == (status, place), answer.text
    assert message in answer.json()["error"]
    assert client.post("/next_step", json={"paths": [PATH]}).status_code == 200  # and the server still answers


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_declared_as_json_is_refused_with_the_header(client, content_type):
    answer = client.post("/generate", content=json.dumps({"trips": [TRIP]}), headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["place"]) == (422, "Content-Type")
    assert answer.json()["error"] == f"the Content-Type is {content_type!r}. Send application/json."


def test_a_body_without_a_declared_size_is_limited_too(client):
    answer = client.post("/generate", content=(b"x" * 1000 for _ in range(30)))
    assert answer.status_code == 413
    assert "more than 20000 bytes" in answer.json()["error"]


def test_foreign_host_names_are_refused(client):
    """A page elsewhere cannot reach the server through a name that resolves to this machine."""
    for host in ("evil.example", "testserver.evil.example", "[", ""):
        answer = client.get("/health", headers={"Host": host})
        assert (answer.status_code, answer.json()["place"]) == (400, "Host")
        assert f"requests to the host {host!r} are refused" in answer.json()["error"]
    for host in ("testserver", "TESTSERVER:8000"):
        assert client.get("/health", headers={"Host": host}).json()["num_roads"] == 120


def test_a_host_may_be_an_ipv6_address_or_a_pattern(predictor):
    app = create_app(predictor, LIMITS, hosts=["::1", "*.example"])
    with TestClient(app) as client:
        for host, status in (("[::1]:8000", 200), ("a.example", 200), ("example", 400)):
            assert client.get("/health", headers={"Host": host}).status_code == status


def test_a_full_queue_refuses_and_similar_requests_share_a_batch(predictor, monkeypatch):
    started, release = threading.Event(), threading.Event()
    batches = []
    compute = predictor.next_steps

    def slow(paths):
        batches.append(len(paths))
        started.set()
        assert release.wait(30)
        return compute(paths)

    monkeypatch.setattr(predictor, "next_steps", slow)
    with TestClient(create_app(predictor, LIMITS)) as client:
        answers = []
        clients = [
            threading.Thread(target=lambda: answers.append(client.post("/next_step", json={"paths": [PATH]})))
            for _ in range(3)
        ]
        clients[0].start()
        assert started.wait(30)
        for thread in clients[1:]:
            thread.start()
        waiting = client.app.state.queue
        while waiting.num_waiting < 2:
            pass
        refused = client.post("/next_step", json={"paths": [PATH]})
        release.set()
        for thread in clients:
            thread.join(30)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "2 requests wait already" in refused.json()["error"]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert batches == [1, 2]


def test_a_request_that_waits_too_long_is_refused(predictor, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(predictor, "next_steps", lambda paths: release.wait(30) and [[] for _ in paths])
    with TestClient(create_app(predictor, Limits(seconds=0.05))) as client:
        answer = client.post("/next_step", json={"paths": [PATH]})
        release.set()
    assert answer.status_code == 504
    assert "not answered within 0.05 s" in answer.json()["error"]


def test_requests_that_wait_at_shutdown_are_refused():
    async def close_while_one_waits():
        queue = BatchQueue(4, 4)
        queue.start()
        release = threading.Event()
        first = asyncio.ensure_future(queue.submit("a", [1], lambda items: release.wait(30) and items))
        second = asyncio.ensure_future(queue.submit("b", [2], lambda items: items))
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(queue.close())
        release.set()
        await closing
        return await asyncio.gather(first, second, return_exceptions=True)

    outcomes = asyncio.run(asyncio.wait_for(close_while_one_waits(), 30))
    assert isinstance(outcomes[1], asyncio.CancelledError)


def test_measurements_count_answers_by_known_path(client):
    client.post("/next_step", json={"paths": [PATH]})
    client.post("/next_step", json={})
    client.get("/anything-else")
    text = client.get("/metrics").text
    assert 'hoser_kd_answers_total{path="/next_step",status="200"} 1' in text
    assert 'hoser_kd_answers_total{path="/next_step",status="422"} 1' in text
    assert 'hoser_kd_answers_total{path="other",status="404"} 1' in text
    assert re.search(r"^hoser_kd_answer_seconds_count 3$", text, re.MULTILINE)
    assert "hoser_kd_computed_items 1" in text


def test_the_description_loads_nothing_and_names_every_path(client):
    page = client.get("/docs").text
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/generate", "/next_step", "/health", "/metrics"}
    assert all(path in page for path in schema["paths"])
    assert not re.search(r"(?:src|href)=\"https?:", page)
    assert 'id="GenerateRequest"' in page


def test_sampling_does_not_depend_on_other_requests(client, small_model):
    one = {"trips": [TRIP], "decoder": "sampling", "max_steps": 40, "seed": 3}
    first = client.post("/generate", json=one).json()
    client.post("/generate", json=one | {"trips": [TRIP] * 3})
    assert client.post("/generate", json=one).json() == first
