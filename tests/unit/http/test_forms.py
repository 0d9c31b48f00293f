"""A form frees what it held when it ends, without the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.requests import Request

from llmariner.errors import InvalidRequest
from llmariner.http.forms import read_form

BODY = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
SCOPE = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}


class Consumer:
    """Takes fields, and refuses some."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused

    def field(self, name: str, value: str) -> None:
        if value == self.refused:
            raise InvalidRequest(value)

    def file(self, name: str, file_name: str, headers: Mapping[str, str]) -> Any:
        raise AssertionError(file_name)


def read(body: bytes, refused: str = "") -> Callable[[], Consumer | None]:
    """Read a form; returns a weak reference to its consumer."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def run() -> Callable[[], Consumer | None]:
        consumer = Consumer(refused)
        kept = weakref.ref(consumer)
        with contextlib.suppress(InvalidRequest):
            await read_form(Request(SCOPE, receive), consumer, max_file_bytes=100, hint="")
        return kept

    return asyncio.run(run())


@pytest.mark.parametrize(("body", "refused"), [(BODY, ""), (BODY, "batch"), (BODY[:-9], ""), (b"no form", "")], ids=str)
def test_a_form_leaves_nothing_behind(body: bytes, refused: str) -> None:
    gc.collect()
    gc.disable()
    try:
        assert read(body, refused)() is None
    finally:
        gc.enable()
