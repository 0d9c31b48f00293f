"""Compressed bodies: decompressed in chunks within the body limit; invalid and unsupported encodings are rejected."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from typing import Any

import pytest

from llmariner.errors import InvalidRequest
from llmariner.http.middleware.content_encoding import DecompressedBody

from .conftest import Ask
from .http_calls import HttpRequest, assert_error

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "say it"}], "max_tokens": 3}
PRICE = {"model": "made", "prompt": 1}
RAW = json.dumps(CHAT).encode()
ROUTES = [("chat_completions", "/v1/chat/completions"), ("prices", "/v1/prices")]
CODED = {
    "gzip": gzip.compress(RAW),
    "x-gzip": gzip.compress(RAW),
    "GZIP": gzip.compress(RAW),
    "deflate": zlib.compress(RAW),
    "identity": RAW,
    "": RAW,
    "identity, gzip": gzip.compress(RAW),
}


@pytest.mark.parametrize("coding", CODED)
def test_a_compressed_request_gets_a_response(coding: str, ask: Ask, admin: dict[str, str]) -> None:
    answer = ask(
        "chat_completions",
        HttpRequest("POST", "/v1/chat/completions", CODED[coding], {**admin, "content-encoding": coding}),
    )
    assert answer.status == 200, answer.body
    assert answer.json["choices"]


@pytest.mark.parametrize("coding", ["zstd", "br", "compress", "gzip, gzip", "aes128gcm", "\xff"])
@pytest.mark.parametrize(("name", "path"), ROUTES)
def test_an_unsupported_encoding_is_rejected_with_the_supported_ones(
    name: str, path: str, coding: str, ask: Ask, admin: dict[str, str]
) -> None:
    answer = ask(name, HttpRequest("POST", path, b"\x28\xb5\x2f\xfd", {**admin, "content-encoding": coding}))
    assert_error(answer, 415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


BROKEN = {
    "not gzip": b"{}",
    "cut": gzip.compress(RAW)[:-9],
    "a wrong sum": gzip.compress(RAW)[:-8] + b"\0" * 8,
    "more behind": gzip.compress(RAW) + b"{}",
    "two": gzip.compress(RAW) + gzip.compress(RAW),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(("name", "path"), ROUTES)
def test_an_undecodable_body_is_rejected(name: str, path: str, body: bytes, ask: Ask, admin: dict[str, str]) -> None:
    answer = ask(name, HttpRequest("POST", path, body, {**admin, "content-encoding": "gzip"}))
    assert_error(answer, 400, "invalid_content_encoding")


@pytest.mark.parametrize(("name", "path"), ROUTES)
def test_a_decompression_bomb_is_rejected_at_the_limit(name: str, path: str, ask: Ask, admin: dict[str, str]) -> None:
    bomb = gzip.compress(b'{"name": "' + b"x" * 200_000_000 + b'"}', 6)
    began = time.process_time()
    assert_error(
        ask(name, HttpRequest("POST", path, bomb, {**admin, "content-encoding": "gzip"})), 413, "request_too_large"
    )
    assert time.process_time() - began < 1.0  # two hundred megabytes would take longer


def test_decompression_yields_to_other_requests() -> None:
    """No part is over 64 KiB, and the event loop has a turn after each."""
    sent = [{"type": "http.request", "body": gzip.compress(b"x" * 10_000_000), "more_body": False}]

    async def receive() -> Any:
        return sent.pop()

    async def run() -> tuple[int, int, int]:
        turns, done = 0, False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        task, body, size, most, more = asyncio.create_task(other()), DecompressedBody(receive, "gzip"), 0, 0, True
        while more:
            message = await body()
            size, most, more = size + len(message["body"]), max(most, len(message["body"])), message["more_body"]
        done = True
        await task
        return size, most, turns

    size, most, turns = asyncio.run(run())
    assert (size, most) == (10_000_000, 65536)
    assert turns > 100


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_a_body_is_decoded_in_any_chunks(cut: int) -> None:
    whole = json.dumps(list(range(3000))).encode()
    coded = gzip.compress(whole)
    parts = [coded[place : place + cut] for place in range(0, len(coded), cut)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages += [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def run() -> bytes:
        body, found, more = DecompressedBody(receive, "gzip"), b"", True
        while more:
            message = await body()
            found, more = found + message["body"], message["more_body"]
        assert (await body())["type"] == "http.disconnect"
        return found

    assert asyncio.run(run()) == whole


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\0\0\0\xff\xff" * 10_000),
        (b"\x1f\x8b\x08\x08\0\0\0\0\0\xff", b"a" * 50_000),
    ],
    ids=["empty-blocks", "name"],
)
def test_an_endless_empty_stream_is_rejected(first: bytes, rest: bytes) -> None:
    sent = 0

    async def receive() -> Any:
        nonlocal sent
        sent += 1
        assert sent < 10, "the body has no end"
        return {"type": "http.request", "body": rest if sent > 1 else first, "more_body": True}

    with pytest.raises(InvalidRequest, match="many times as long"):
        asyncio.run(DecompressedBody(receive, "gzip")())


def test_a_body_flushed_after_every_byte_is_decoded() -> None:
    coder = zlib.compressobj(wbits=31)
    coded = b"".join(coder.compress(b"x") + coder.flush(zlib.Z_SYNC_FLUSH) for _ in range(50_000)) + coder.flush()
    messages = [{"type": "http.request", "body": coded, "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0)

    async def run() -> int:
        body, size, more = DecompressedBody(receive, "gzip"), 0, True
        while more:
            message = await body()
            size, more = size + len(message["body"]), message["more_body"]
        return size

    assert asyncio.run(run()) == 50_000


def test_a_disconnect_within_a_body_is_passed_on() -> None:
    messages = [
        {"type": "http.request", "body": gzip.compress(RAW)[:5], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def run() -> str:
        return str((await DecompressedBody(receive, "gzip")())["type"])

    assert asyncio.run(run()) == "http.disconnect"


def test_an_empty_body_is_not_decoded() -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert asyncio.run(DecompressedBody(receive, "gzip")())["body"] == b""
    with pytest.raises(InvalidRequest):
        asyncio.run(DecompressedBody(iter_receive([b"\x1f"]), "gzip")())


def iter_receive(parts: list[bytes]) -> Any:
    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    return receive
