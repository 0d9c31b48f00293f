"""The response with the bytes of an object, to a client that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

from fastapi import Request

from llmariner.errors import Unavailable
from llmariner.http.content import content_response


def test_an_error_of_the_store_after_the_client_left_is_no_error_of_the_loop() -> None:
    logged: list[Any] = []
    sent: list[Any] = []
    has_left = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"x"
        assert has_left.wait(60)
        raise Unavailable("The store of files does not answer.")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        scope = {"type": "http", "method": "GET", "headers": []}
        answer = content_response(
            Request(scope),
            size_bytes=2,
            entity_tag='"1"',
            content_type="text/plain",
            file_name="a.txt",
            read=lambda start, size: parts(),
        )

        async def send(message: Any) -> None:
            sent.append(message)
            if message.get("body") == b"x":
                has_left.set()
                raise OSError("the client has left")

        with contextlib.suppress(OSError):
            await answer(scope, asyncio.get_running_loop().create_future, send)
        del answer
        gc.collect()

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert logged == []
