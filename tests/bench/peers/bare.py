"""The floor for a cold start: uvicorn with a raw ASGI callable that answers by itself.

What our function adds to this is ours to answer for. Started as our boot starts a function: uvloop, httptools, no
lifespan, no access log. The same file is the process that is started.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Reads the request to its end and answers two bytes."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def serve(port: int) -> None:
    import uvicorn  # only in the process that serves: the harness imports this module for its path

    settings = uvicorn.Config(
        app, port=port, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )
    uvicorn.Server(settings).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
