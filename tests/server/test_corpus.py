"""Malformed and unusual requests, and the response that RFC 9110 and 9112 require for each.

Every case is sent four ways: at once, byte by byte, cut behind each line, and behind a request that is in order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .conftest import echo, serving, statuses

GOOD = b"GET /good HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
OFFER = b"connection: upgrade\r\nupgrade: websocket\r\n"


@dataclass(frozen=True)
class Case:
    """A request, the expected statuses, and how the first request is parsed."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    method: str = ""
    path: str = ""
    body: str | None = None


def post(fields: bytes, body: bytes, *, version: bytes = b"1.1", host: bytes = b"host: x\r\n") -> bytes:
    return b"POST /p HTTP/%b\r\n%b%b\r\n%b" % (version, host, fields, body)


def get(
    fields: bytes = b"", *, target: bytes = b"/", host: bytes = b"host: x\r\n", version: bytes = b"HTTP/1.1"
) -> bytes:
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, host, fields)


CORPUS = [
    # RFC 9112 3.2: Host
    Case("no Host", get(host=b""), (400,)),
    Case("two Hosts", get(b"host: y\r\n"), (400,)),
    Case("two equal Hosts", get(b"Host: x\r\n"), (400,)),
    Case("a Host with a path", get(host=b"host: x/y\r\n"), (400,)),
    Case("a Host with a user", get(host=b"host: a@x\r\n"), (400,)),
    Case("a Host of two words", get(host=b"host: x y\r\n"), (400,)),
    Case("an empty Host", get(host=b"host:\r\n") + GOOD, (200, 200)),
    Case("a Host of IPv6 with a port", get(host=b"host: [::1]:8080\r\n") + GOOD, (200, 200)),
    Case("HTTP/1.0 without Host", get(host=b"", version=b"HTTP/1.0"), (200,)),
    Case("a target with a host", get(target=b"http://y:80/a?b") + GOOD, (200, 200), path="/a"),
    Case("a target that is no path", get(target=b"a.b:443"), (400,)),
    Case(
        "OPTIONS of the server", b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n" + GOOD, (200, 200), method="OPTIONS", path="*"
    ),
    Case("CONNECT", b"CONNECT a.b:443 HTTP/1.1\r\nhost: a.b:443\r\n\r\nbytes of a tunnel", (400,)),
    Case("a path that is not UTF-8", get(target=b"/%ff%00") + GOOD, (200, 200), path="/\ufffd\0"),
    Case("raw bytes in a target", get(target=b"/\xff"), (400,)),
    # RFC 9112 2.3: versions
    Case("HTTP/0.9", b"GET /\r\n\r\n", (505,)),
    Case("HTTP/1.2", get(version=b"HTTP/1.2"), (400,)),
    Case("HTTP/2.0 by its name", get(version=b"HTTP/2.0"), (505,)),
    Case("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    Case("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    Case("an unknown method", b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n", (400,)),
    Case("a method in small letters", b"get / HTTP/1.1\r\nhost: x\r\n\r\n", (400,)),
    Case("empty lines before a request", b"\r\n\r\n" + GOOD, (200,), path="/good"),
    # RFC 9112 5: fields
    Case("a space before a colon", get(b"a : b\r\n"), (400,)),
    Case("a folded line", get(b"a: b\r\n c\r\n"), (400,)),
    Case("a field without a name", get(b": b\r\n"), (400,)),
    Case("a bare LF", b"GET / HTTP/1.1\nhost: x\n\n", (400,)),
    Case("a bare CR in a value", get(b"a: b\rc: d\r\n"), (400,)),
    Case("NUL in a value", get(b"a: b\0c\r\n"), (400,)),
    Case("Latin-1 in a value", get(b"a: \xe9\r\n") + GOOD, (200, 200)),
    # RFC 9112 6: framing
    Case("two lengths", post(b"content-length: 1\r\ncontent-length: 2\r\n", b"ab"), (400,)),
    Case("the same length twice", post(b"content-length: 1\r\ncontent-length: 1\r\n", b"a"), (400,)),
    Case("a list of lengths", post(b"content-length: 1, 1\r\n", b"a"), (400,)),
    Case("a length with a sign", post(b"content-length: +1\r\n", b"a"), (400,)),
    Case("a negative length", post(b"content-length: -1\r\n", b"a"), (400,)),
    Case("a length in hexadecimal", post(b"content-length: 0x1\r\n", b"a"), (400,)),
    Case("an empty length", post(b"content-length:\r\n", b"a"), (400,)),
    Case("a length of 30 digits", post(b"content-length: " + b"9" * 30 + b"\r\n", b"a"), (400,)),
    Case("a length and chunks", post(b"content-length: 1\r\n" + CHUNKED, b"0\r\n\r\n"), (400,)),
    Case("chunks and a length", post(CHUNKED + b"content-length: 1\r\n", b"0\r\n\r\n"), (400,)),
    Case("chunks twice", post(CHUNKED + CHUNKED, b"0\r\n\r\n"), (400,)),
    Case("chunks, then another coding", post(b"transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n"), (400,)),
    Case("another coding alone", post(b"transfer-encoding: gzip\r\n", b"abc"), (400,)),
    Case("another coding, then chunks", post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n"), (501,)),
    Case("chunks spelled otherwise", post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n"), (400,)),
    Case(
        "chunks in capitals",
        post(b"Transfer-Encoding: CHUNKED\r\n", b"1\r\na\r\n0\r\n\r\n") + GOOD,
        (200, 200),
        body="a",
    ),
    Case("chunks in HTTP/1.0", post(CHUNKED, b"0\r\n\r\n", version=b"1.0"), (400,)),
    Case("a chunk of negative size", post(CHUNKED, b"-1\r\na\r\n0\r\n\r\n"), (400,)),
    Case("a chunk of enormous size", post(CHUNKED, b"f" * 17 + b"\r\na\r\n"), (400,)),
    Case("a chunk longer than its size", post(CHUNKED, b"1\r\nab\r\n0\r\n\r\n"), (400,)),
    Case("a chunk with a bare LF", post(CHUNKED, b"1\na\n0\n\n"), (400,)),
    Case("a chunk with an extension", post(CHUNKED, b'1;a="b;c"\r\na\r\n0\r\n\r\n') + GOOD, (200, 200), body="a"),
    # RFC 9110 6.5.1: trailers are no headers
    Case("a trailer", post(CHUNKED, b"1\r\na\r\n0\r\nauthorization: Bearer t\r\n\r\n") + GOOD, (200, 200), body="a"),
    Case("a length as a trailer", post(CHUNKED, b"0\r\ncontent-length: 5\r\n\r\n"), (400,)),
    Case("a Host as a trailer", post(CHUNKED, b"0\r\nhost: evil\r\n\r\n") + GOOD, (200, 200), body=""),
    # RFC 9110 7.8: an offer to upgrade
    Case(
        "h2c offered with a body",
        post(
            b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: A\r\ncontent-length: 3\r\n", b"abc"
        )
        + GOOD,
        (200, 200),
        body="abc",
    ),
    Case(
        "h2c offered with chunks",
        post(b"connection: upgrade\r\nupgrade: h2c\r\n" + CHUNKED, b"3\r\nabc\r\n0\r\nx: y\r\n\r\n") + GOOD,
        (200, 200),
        body="abc",
    ),
    Case("websocket offered", get(OFFER) + GOOD, (200, 200), path="/"),
    Case(
        "two offers one after another",
        2 * post(b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n", b"a") + GOOD,
        (200, 200, 200),
        body="a",
    ),
    Case(
        "an upgrade that Connection does not name",
        post(b"upgrade: h2c\r\ncontent-length: 1\r\n", b"a") + GOOD,
        (200, 200),
        body="a",
    ),
    Case(
        "an offer with two framings",
        post(b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n" + CHUNKED, b"0\r\n\r\n"),
        (400,),
    ),
    Case("a wrong version behind an offer", get(OFFER) + get(version=b"HTTP/2.0"), (200, 505)),
    Case("a wrong coding behind an offer", get(OFFER) + post(b"transfer-encoding: gzip\r\n", b"abc"), (200, 400)),
    # RFC 9110 7.6.1: Connection
    Case("close among others, in capitals", get(b"connection: foo ,, Close\r\n") + GOOD, (200,)),
    Case("close on a line of its own", get(b"connection: close\r\nconnection: x\r\n") + GOOD, (200,)),
    Case("close on a second line", get(b"connection: x\r\nconnection: close\r\n") + GOOD, (200,)),
    Case("a word that begins like close", get(b"connection: closed\r\n") + GOOD, (200, 200)),
    Case("keep-alive of HTTP/1.0", get(b"connection: keep-alive\r\n", version=b"HTTP/1.0") + GOOD, (200,)),
    # RFC 9112 9.3.2: pipelines
    Case("three in order", GOOD + post(b"content-length: 1\r\n", b"a") + GOOD, (200, 200, 200)),
    Case("garbage behind a request", GOOD + b"\0garbage\r\n\r\n", (200, 400)),
    Case("a request of wrong framing behind one", GOOD + post(b"transfer-encoding: gzip\r\n", b"abc"), (200, 400)),
    Case("a wrong chunk behind a request", GOOD + post(CHUNKED, b"1\r\nab\r\n0\r\n\r\n"), (200, 400)),
    Case("a request without Host behind one", GOOD + get(host=b"") + GOOD, (200, 400)),
    Case("garbage behind the last request", get(b"connection: close\r\n") + b"\0garbage", (200,)),
    Case("many in one packet", 300 * GOOD, (200,) * 300),
]
IDS = [case.name for case in CORPUS]


def at_once(sent: bytes) -> Iterator[bytes]:
    yield sent


def byte_by_byte(sent: bytes) -> Iterator[bytes]:
    return (sent[place : place + 1] for place in range(len(sent)))


def by_lines(sent: bytes) -> Iterator[bytes]:
    return (line for line in sent.splitlines(keepends=True))


async def exchange_parts(port: int, parts: Iterator[bytes]) -> bytes:
    """Send parts one by one, then close the sending side; returns everything received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    collecting = asyncio.create_task(reader.read())
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)  # lets the server read this part, in most cases alone
    async with asyncio.timeout(10):
        while not collecting.done():
            await asyncio.sleep(0.03)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
        answer = await collecting
    writer.close()
    return answer


@pytest.mark.parametrize("cut", [at_once, byte_by_byte, by_lines])
@pytest.mark.parametrize("case", CORPUS, ids=IDS)
def test_a_request_gets_the_specified_response(case: Case, cut: object) -> None:
    assert callable(cut)
    if cut is byte_by_byte and len(case.sent) > 2000:
        pytest.skip("the other ways tell as much")

    async def run() -> bytes:
        async with serving(echo) as (_, port):
            return await exchange_parts(port, cut(case.sent))

    answer = asyncio.run(run())
    assert statuses(answer) == list(case.statuses), answer
    if case.statuses[-1] >= 400:
        assert b"connection: close" in answer
        assert set(json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
    if case.statuses[0] == 200:
        seen = json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())[0]
        assert not case.method or seen["method"] == case.method
        assert not case.path or seen["path"] == case.path
        assert case.body is None or seen["body"] == case.body
        assert sum(name in ("authorization", "host") for name, _ in seen["headers"]) <= 1


@pytest.mark.parametrize("case", [case for case in CORPUS if case.statuses[0] >= 400], ids=lambda case: case.name)
def test_earlier_requests_get_their_response_first(case: Case) -> None:
    async def run() -> bytes:
        async with serving(echo) as (_, port):
            return await exchange_parts(port, at_once(GOOD + case.sent))

    assert statuses(asyncio.run(run())) == [200, *case.statuses]
