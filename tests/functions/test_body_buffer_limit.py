"""Bodies of unauthenticated callers have a total limit per process, which small bodies do not count against."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from llmariner.http.middleware import errors as error_middleware
from llmariner.http.schemas.bodies import JsonRoute

LARGE = b" " * 1_000_000
HELD = 64 * 1024 * 1024 // (len(LARGE) - 16 * 1024)


def application() -> FastAPI:
    app = FastAPI()
    app.router.route_class = JsonRoute
    error_middleware.install_error_handling(app, body_limit=1024 * 1024)

    @app.post("/")
    async def take(request: Request) -> None:
        await request.body()

    return app


async def ask(app: FastAPI, body: bytes, rest: asyncio.Event | None = None) -> tuple[int, dict[bytes, bytes]]:
    """The status and the headers. `rest`: the body continues until the caller disconnects."""
    heads: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": rest is not None}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if rest is not None:
            await rest.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            heads.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return (heads[0]["status"], dict(heads[0]["headers"])) if heads else (0, {})


def test_concurrent_large_bodies_have_a_common_limit() -> None:
    async def run() -> None:
        app, hang_up = application(), asyncio.Event()
        slow = [asyncio.create_task(ask(app, LARGE, hang_up)) for _ in range(84)]
        async with asyncio.timeout(30):
            while len(refused := [task for task in slow if task.done()]) < 84 - HELD:  # noqa: ASYNC110 - the refusals have no event
                await asyncio.sleep(0.01)
        for task in refused:
            status, headers = task.result()
            assert (status, headers[b"retry-after"]) == (503, b"5")
        assert (await ask(app, b"{}"))[0] == 200
        hang_up.set()
        await asyncio.gather(*slow, return_exceptions=True)
        assert [(await ask(app, LARGE))[0] for _ in range(84)] == [200] * 84

    asyncio.run(run())
