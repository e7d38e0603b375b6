"""The HTTP application over a student: generated trips, next steps, health, measurements, and its description."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as AnyHTTPException

from hoser_kd.common.errors import ConfigError, HoserKdError
from hoser_kd.config.messages import nearest
from hoser_kd.generation.decoding import Decoding
from hoser_kd.serving.batching import BatchQueue, Compute, QueueFullError
from hoser_kd.serving.guard import Guard
from hoser_kd.serving.measurements import Measurements
from hoser_kd.serving.predictor import Predictor
from hoser_kd.serving.requests import (
    DEFAULT_EXPANSIONS,
    GenerateAnswer,
    GenerateRequest,
    Limits,
    NextStepAnswer,
    NextStepRequest,
    Problem,
)
from hoser_kd.sharing.student import Student

PATHS = ("/", "/docs", "/generate", "/health", "/metrics", "/next_step", "/openapi.json")
"""Paths that are counted by name."""
_MERGED = ("search", "beam")
"""Decoders whose result depends on the request alone; sampling draws by the row of a trip, so it runs by itself."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        408: "The body arrives too slowly.",
        413: "The body is too large.",
        422: "The request is not valid.",
        503: "Too many requests wait. Try again later.",
        504: "The request waited too long.",
    }.items()
}


def create_app(
    predictor: Predictor, limits: Limits | None = None, *, name: str = "student", hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """Return the application. `hosts` are the host names that requests may give; others are refused."""
    limits = limits or Limits()
    measurements = Measurements()
    queue = BatchQueue(limits.waiting, limits.batch)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        queue.start()
        yield
        await queue.close()

    app = FastAPI(title=f"hoser-kd: {name}", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.queue = queue
    _add_predictions(app, predictor, limits, queue)
    _add_descriptions(app, predictor, name)
    _add_measurements(app, measurements, queue)
    _explain_errors(app)
    app.add_middleware(Guard, limits=limits, hosts=hosts, paths=PATHS, record=measurements.record)
    return app


def _add_predictions(app: FastAPI, predictor: Predictor, limits: Limits, queue: BatchQueue) -> None:
    """Add the requests that the model answers, within the limits."""

    @app.post("/generate", responses=_REFUSALS)
    async def generate(request: GenerateRequest) -> GenerateAnswer:
        """Generate a trip for each origin, destination and start time."""
        decoding = _decoding(request, predictor.num_roads, limits)
        key = ("generate", decoding) if request.decoder in _MERGED else object()
        trips = await _answer(queue, limits, key, request.trips, lambda trips: predictor.generate(trips, decoding))
        return GenerateAnswer(trips=trips)

    @app.post("/next_step", responses=_REFUSALS)
    async def next_step(request: NextStepRequest) -> NextStepAnswer:
        """Predict the next road of each path: probabilities of the successors and times until they are entered."""
        _at_most(len(request.paths), limits.trips, "paths")
        for number, path in enumerate(request.paths):
            _at_most(len(path.roads), limits.path_roads, f"paths.{number}.roads")
            _exist(path.roads, predictor.num_roads, f"paths.{number}.roads.{{}}")
            _exist([path.destination], predictor.num_roads, f"paths.{number}.destination")
            _follow(path.roads, predictor.student, f"paths.{number}.roads")
        return NextStepAnswer(steps=await _answer(queue, limits, "next_step", request.paths, predictor.next_steps))


def _add_descriptions(app: FastAPI, predictor: Predictor, name: str) -> None:
    """Add what says which student is served, and how to ask it."""

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Say that the server runs, and what it serves."""
        device = str(predictor.model.device)
        return {"status": "ok", "student": name, "num_roads": predictor.num_roads, "device": device}

    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app), headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"})


def _add_measurements(app: FastAPI, measurements: Measurements, queue: BatchQueue) -> None:
    """Add what a monitoring system reads."""

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Return measurements in the text format of Prometheus."""
        gauges = {"waiting_requests": queue.num_waiting, "batches": queue.batches, "computed_items": queue.items}
        return measurements.text(**gauges)


async def _answer(queue: BatchQueue, limits: Limits, key: Any, items: Sequence[Any], compute: Compute) -> list[Any]:
    """Return what the model computes for the items, or refuse: the server is full, slow or ending."""
    try:
        async with asyncio.timeout(limits.seconds):
            return await queue.submit(key, items, compute)
    except QueueFullError:
        text = f"{limits.waiting} requests wait already. Try again in a second."
        raise HTTPException(503, text, headers={"Retry-After": "1"}) from None
    except TimeoutError:
        raise HTTPException(504, f"not answered within {limits.seconds:g} s. Ask for fewer trips.") from None
    except asyncio.CancelledError:
        if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # this request itself is canceled
            raise
        raise HTTPException(503, "the server is shutting down.") from None


def _decoding(request: GenerateRequest, num_roads: int, limits: Limits) -> Decoding:
    """Return the decoder of a request. Refuses what exceeds the limits, or roads that do not exist."""
    _at_most(len(request.trips), limits.trips, "trips")
    max_steps = request.max_steps or min(DEFAULT_EXPANSIONS, limits.expansions)
    _at_most(max_steps, limits.expansions, "max_steps")
    for end in ("origin", "destination"):
        _exist([getattr(trip, end) for trip in request.trips], num_roads, f"trips.{{}}.{end}")
    try:
        return Decoding(request.decoder, max_steps, seed=request.seed)
    except ConfigError as error:
        raise _RefusedError(str(error), "decoder") from None


def docs_page(app: FastAPI) -> str:
    """Return the description of the application as one HTML page, which loads nothing."""
    environment = Environment(
        loader=PackageLoader("hoser_kd.serving"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    schema = app.openapi()
    schemas = {name: json.dumps(each, indent=2) for name, each in schema["components"]["schemas"].items()}
    return environment.get_template("docs.html").render(schema=schema, schemas=schemas)


def _at_most(value: int, limit: int, place: str) -> None:
    if value > limit:
        raise _RefusedError(f"{value} is more than the {limit} that a request may have.", place)


def _exist(roads: Sequence[int], num_roads: int, place: str) -> None:
    """Refuse roads that the network does not have; `place` holds braces for the number of the road."""
    for number, road in enumerate(roads):
        if road >= num_roads:
            raise _RefusedError(f"road {road} does not exist. Ids run from 0 to {num_roads - 1}.", place.format(number))


def _follow(roads: Sequence[int], student: Student, place: str) -> None:
    """Refuse a path with a road that is no successor of the one before."""
    path = np.array(roads, np.int64)
    gaps = np.flatnonzero(~student.is_connected(path[:-1], path[1:]))
    if len(gaps):
        at = int(gaps[0])
        text = f"road {roads[at + 1]} does not follow road {roads[at]}. Give connected roads."
        raise _RefusedError(text, f"{place}.{at + 1}")


class _RefusedError(Exception):
    """A request exceeds a limit of the server."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


def _explained(errors: Sequence[Any]) -> tuple[str, str]:
    """Return message and place of the first error of a body; an unknown key comes before the one that is missing."""
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}", "body"
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    if first["type"] == "extra_forbidden":
        missing = [str(each["loc"][-1]) for each in errors if each["type"] == "missing"]
        return f"unknown key.{nearest(str(first['loc'][-1]), missing)}", place
    value = first.get("input")
    given = f" (given: {value!r:.80})" if isinstance(value, int | float | str) else ""
    return f"{str(first['msg']).removeprefix('Value error, ')}{given}", place


def _explain_errors(app: FastAPI) -> None:
    """Give every error the same JSON: `error` and `place`."""

    def problem(status: int, error: str, place: str = "", headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": error, "place": place}, status, headers=headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        content_type = request.headers.get("Content-Type", "")
        if "json" not in content_type:  # what curl sends without a header
            return problem(422, f"the Content-Type is {content_type!r}. Send application/json.", "Content-Type")
        return problem(422, *_explained(error.errors()))

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        return problem(422, str(error), getattr(error, "place", ""))

    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHTTPException)
        return problem(error.status_code, str(error.detail), headers=error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(_RefusedError, refused)
    app.add_exception_handler(HoserKdError, refused)
    app.add_exception_handler(AnyHTTPException, http)
