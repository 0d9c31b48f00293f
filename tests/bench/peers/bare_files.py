"""The floor for transfers of files: uvicorn with a raw ASGI callable that writes a body to a file, and sends it back.

It parses no form, checks nothing and knows no caller. With the argument `durable`, it computes the SHA-256 of a body and
waits for the disk; without, it does neither. The same file is the process that is started.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

BLOCK = 1024 * 1024


def application(path: Path, *, durable: bool) -> Callable[..., Awaitable[None]]:
    """An application for one file: POST replaces it, GET reads it."""

    async def app(
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        await send_file(send) if scope["method"] == "GET" else await receive_file(receive, send)

    async def receive_file(receive: Any, send: Any) -> None:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            while True:
                message = await receive()
                body = message.get("body", b"")
                if durable:
                    digest.update(body)
                file.write(body)
                if not message.get("more_body"):
                    break
            if durable:
                file.flush()
                os.fsync(file.fileno())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def send_file(send: Any) -> None:
        with path.open("rb") as file:
            size = str(file.seek(0, 2)).encode()
            file.seek(0)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
            while block := file.read(BLOCK):
                await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def serve(port: int, path: Path, *, durable: bool) -> None:
    import uvicorn  # only in the process that serves: the harness imports this module for its path

    settings = uvicorn.Config(
        application(path, durable=durable),
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
    uvicorn.Server(settings).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), durable="durable" in sys.argv)
