"""A body in chunks of two bytes takes no more memory than a body in one chunk."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI, Request

from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.gateway.requests.handler import RequestHandler
from llmariner.gateway.responses.messages import Receive
from llmariner.gateway.state import Gateway
from llmariner.http.schemas.bodies import JsonRoute

SIZE = 400_000
WHOLE = json.dumps({"field": "é" * (SIZE // 2)}, ensure_ascii=False).encode()


def in_parts() -> Receive:
    """A body as the server delivers it to an application, two bytes at a time."""
    places = iter(range(0, len(WHOLE), 2))

    async def receive() -> Any:
        place = next(places)
        return {"type": "http.request", "body": WHOLE[place : place + 2], "more_body": place + 2 < len(WHOLE)}

    return receive


def peak(reading: Any) -> tuple[bytes, float]:
    """The bytes that are read, and the peak number of bytes in memory per byte of them."""
    tracemalloc.start()
    try:
        body = asyncio.run(reading())
        return body, tracemalloc.get_traced_memory()[1] / len(body)
    finally:
        tracemalloc.stop()


async def no_send(_message: Any) -> None:
    raise AssertionError


def test_chunked_bodies_on_the_token_path() -> None:
    budget = BodyBudget(10 * SIZE, 10 * SIZE)
    settings = SimpleNamespace(body_limit=10 * SIZE, write_timeout=10.0)
    gateway = cast(Gateway, SimpleNamespace(settings=settings, body_budget=budget))
    handler = RequestHandler(gateway, cast(Any, None), {}, in_parts(), no_send)

    body, held = peak(lambda: handler._read_body({}))
    assert body == WHOLE
    assert held < 10


def test_chunked_bodies_on_administrative_routes() -> None:
    seen: list[bytes] = []
    app = FastAPI()
    app.router.route_class = JsonRoute

    @app.post("/")
    async def take(request: Request) -> None:
        seen.append(await request.body())

    async def ignore(_message: Any) -> None:
        pass

    async def reading() -> bytes:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
        await app(scope, in_parts(), ignore)
        return seen[0]

    body, held = peak(reading)
    assert body == WHOLE
    assert held < 10
