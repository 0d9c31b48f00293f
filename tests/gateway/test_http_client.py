"""The HTTP client of the token path against misbehaving servers: memory, time and other requests are unaffected."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from llmariner.http_client import Client, ConnectionFailed, ReaderTimeout, ResponseFailed, ResponseTimeout

from .raw_engine import RawEngine, raw_engine
from .running_platform import soon

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1 << 20


async def fetch(client: Client, engine: RawEngine, *, method: str = "POST", read_timeout: float = 10) -> bytes:
    response = await client.request(engine.origin, method, "/x", body=b"{}", read_timeout=read_timeout)
    try:
        return await response.read(1 * MIB)
    finally:
        response.close()


async def ok(_: RawEngine, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


def test_a_post_is_sent_once_for_any_state_of_pooled_connections() -> None:
    async def scenario() -> int:
        hanging_up = False
        gate = asyncio.Event()

        async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
            if hanging_up:
                writer.transport.abort()
                return
            await gate.wait()
            writer.write(OK)

        async with raw_engine(reply) as engine:
            client = Client()
            first = [asyncio.create_task(fetch(client, engine)) for _ in range(20)]
            await soon(lambda: len(engine.requests) == 20)
            gate.set()
            await asyncio.gather(*first)
            hanging_up = True
            with pytest.raises(ConnectionFailed):
                await fetch(client, engine)
            sent = len(engine.requests) - 20
            # An idempotent request is retried once, on a new connection.
            with pytest.raises(ConnectionFailed):
                await fetch(client, engine, method="GET")
            assert len(engine.requests) == 20 + sent + 2
            client.close()
            return sent

    assert asyncio.run(scenario()) == 1


def test_a_connection_closed_while_idle_fails_no_request() -> None:
    async def scenario() -> None:
        async with raw_engine(ok) as engine:
            writers: list[asyncio.StreamWriter] = []

            async def noted(_: RawEngine, writer: asyncio.StreamWriter) -> None:
                writers.append(writer)
                writer.write(OK)

            engine._reply = noted
            client = Client()
            assert await fetch(client, engine) == b"ok"
            writers[0].transport.abort()
            await soon(lambda: engine.closed == 1)
            assert await fetch(client, engine) == b"ok"
            assert len(engine.requests) == engine.connections == 2
            client.close()

    asyncio.run(scenario())


def test_long_idle_connections_are_closed_and_their_origins_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmariner.http_client.connection._IDLE_SECONDS", 0.3)

    async def scenario() -> None:
        async with raw_engine(ok) as engine:
            client = Client()
            await asyncio.gather(*(fetch(client, engine) for _ in range(5)))
            kept = engine.connections
            await soon(lambda: engine.closed == kept)
            assert not client._idle
            assert await fetch(client, engine) == b"ok"
            assert engine.connections == kept + 1
            client.close()

    asyncio.run(scenario())


async def write_forever(writer: asyncio.StreamWriter, piece: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()


def endless(start: bytes, piece: bytes) -> Callable[[RawEngine, asyncio.StreamWriter], Awaitable[None]]:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await write_forever(writer, piece)

    return reply


ENDLESS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n" * 5000),
    "one header's value": (b"HTTP/1.1 200 OK\r\nx-a: ", b"b" * 50_000),
    "one header's name": (b"HTTP/1.1 200 OK\r\n", b"b" * 50_000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "a status of five thousand digits": (b"HTTP/1.1 " + b"2" * 5000, b"0" * 5000),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\n", b"x-a: b\r\n" * 5000),
    "a chunk's extension": (CHUNKED + b"2;a=", b"b" * 50_000),
    "a body": (CHUNKED, b"%x\r\n%b\r\n" % (50_000, b"b" * 50_000)),
    "a body without framing": (b"HTTP/1.1 200 OK\r\n\r\n", b"b" * 50_000),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", b"b" * 50_000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_response_is_aborted_and_its_memory_is_bounded(what: str) -> None:
    async def scenario() -> int:
        async with raw_engine(endless(*ENDLESS[what])) as engine:
            client = Client()
            tracemalloc.start()
            try:
                with pytest.raises((ConnectionFailed, ResponseFailed)):
                    async with asyncio.timeout(20):
                        await fetch(client, engine)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            await soon(lambda: engine.closed == engine.connections)
            client.close()
            return peak

    # A body is read up to its limit of one MiB; everything else is limited to 64 KiB plus one read.
    assert asyncio.run(scenario()) < 8 * MIB


SURPLUS = {
    "a second answer": OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother",
    "a longer body": OK + b"more than was said",
    "a second head": OK + b"HTTP/1.1 200 OK\r\n",
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("what", SURPLUS)
def test_bytes_behind_a_response_are_discarded(what: str, late: bool) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        if late:
            writer.write(OK)
            await asyncio.sleep(0.05)
            writer.write(SURPLUS[what][len(OK) :])
        else:
            writer.write(SURPLUS[what])

    async def scenario() -> None:
        async with raw_engine(reply) as engine:
            client = Client()
            for number in range(3):
                assert await fetch(client, engine) == b"ok"
                await soon(lambda number=number: engine.closed == number + 1)  # type: ignore[misc]
            assert engine.connections == 3
            client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [b"HTTP/1.1 200 OK\r\nconnection: close", b"HTTP/1.0 200 OK"])
def test_a_connection_with_a_close_header_is_not_pooled(version: bytes) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(version + b"\r\ncontent-length: 2\r\n\r\nok")  # and does not close it at once

    async def scenario() -> int:
        async with raw_engine(reply) as engine:
            client = Client()
            for _ in range(3):
                assert await fetch(client, engine) == b"ok"
            client.close()
            return engine.connections

    assert asyncio.run(scenario()) == 3


def test_trailers_are_not_headers() -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\nok\r\n0\r\nx-late: 1\r\ncontent-type: text/html\r\n\r\n")

    async def scenario() -> None:
        async with raw_engine(reply) as engine:
            client = Client()
            for _ in range(2):
                response = await client.request(engine.origin, "POST", "/x")
                assert await response.read() == b"ok"
                assert response.headers == [(b"transfer-encoding", b"chunked")]
            assert engine.connections == 1
            client.close()

    asyncio.run(scenario())


def test_a_response_before_its_request_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes on an idle connection would be read as the response to the next request."""
    monkeypatch.setattr(
        "llmariner.http_client.connection._IDLE_SECONDS", 60.0
    )  # the connection is closed because of the bytes, not for being idle

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        if len(engine.requests) == 1:
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nothers")

    async def scenario() -> tuple[list[bytes], int]:
        async with raw_engine(reply) as engine:
            client = Client()
            answers = [await fetch(client, engine)]
            (kept,) = client._idle[engine.origin]
            await soon(lambda: not kept.is_open, seconds=5)
            answers += [await fetch(client, engine) for _ in range(2)]
            client.close()
            return answers, engine.connections

    assert asyncio.run(scenario()) == ([b"ok"] * 3, 2)


def test_a_protocol_upgrade_is_not_a_response(caplog: pytest.LogCaptureFixture) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" + OK)

    async def scenario() -> None:
        async with raw_engine(reply) as engine:
            client = Client()
            with pytest.raises(ConnectionFailed, match="another protocol"):
                await fetch(client, engine)
            client.close()

    asyncio.run(scenario())
    assert "Fatal error" not in caplog.text


def test_a_response_shorter_than_declared_is_an_error() -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok")
        writer.close()

    async def scenario() -> None:
        async with raw_engine(reply) as engine:
            with pytest.raises(ResponseFailed):
                await fetch(Client(), engine)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("said", "error"), [(b"", ResponseTimeout), (CHUNKED + b"2\r\nok\r\n", ResponseFailed)], ids=["head", "body"]
)
def test_a_silent_server_times_out(said: bytes, error: type[Exception]) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(30)

    async def scenario() -> None:
        async with raw_engine(reply) as engine:
            client = Client()
            with pytest.raises(error):
                async with asyncio.timeout(20):
                    await fetch(client, engine, method="GET", read_timeout=0.3)
            assert len(engine.requests) == 1
            client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["over its limit", "given up", "refused"])
def test_an_unread_body_leaves_no_connection_open(what: str) -> None:
    limit, seconds = (100_000, 10.0) if what == "over its limit" else (1 << 30, 0.3)

    def record_progress(size: int) -> None:
        if what == "refused":
            raise ResponseFailed("no more")

    async def read(client: Client, engine: RawEngine) -> None:
        response = await client.request(engine.origin, "GET", "/x")
        await response.read(limit, on_progress=record_progress)

    async def scenario() -> None:
        async with raw_engine(endless(CHUNKED, b"2\r\nok\r\n" * 5000)) as engine:
            client = Client()
            with pytest.raises((ResponseFailed, TimeoutError)):
                await asyncio.wait_for(read(client, engine), seconds)
            await soon(lambda: engine.closed == 1)
            assert not client.busy
            client.close()

    asyncio.run(scenario())


class EarlyResponder(asyncio.Protocol):
    """Responds to the first bytes received, and reads no others."""

    made: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.made.append(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()
        self._transport.write(OK)


def test_a_connection_with_an_early_response_is_not_reused() -> None:
    async def scenario() -> list[bytes]:
        server = await asyncio.get_running_loop().create_server(EarlyResponder, "127.0.0.1", 0)
        client, answers = Client(), []
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(20):
            for size in (20 * MIB, 2):
                response = await client.request(origin, "POST", "/x", body=b"x" * size)
                answers.append(await response.read())
        client.close()
        for transport in EarlyResponder.made:
            transport.abort()
        server.close()
        return answers

    assert asyncio.run(scenario()) == [b"ok", b"ok"]
    assert len(EarlyResponder.made) == 2


@pytest.mark.parametrize("late", [b"", b"2\r\nno\r\n", b"no chunk", b"0\r\n\r\n"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_fully_read_response_ends_soon_regardless_of_its_server(late: bytes, piped: bool) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(late)

    async def scenario() -> tuple[list[bytes], int]:
        async with raw_engine(reply) as engine, asyncio.timeout(20):
            client, parts = Client(), []
            response = await client.request(engine.origin, "POST", "/x")

            def sink(part: bytes) -> None:
                parts.append(part)
                response.discard_rest()

            if piped:
                await response.pipe(sink)
            else:
                while part := await response.chunk():
                    sink(part)
            response.close()
            kept = sum(map(len, client._idle.values()))
            client.close()
            return parts, kept

    # A server that ends its response in time receives the next request on the same connection.
    assert asyncio.run(scenario()) == ([b"ok"], int(late.startswith(b"0")))


def test_a_stalled_sink_times_out_and_the_server_sees_the_close() -> None:
    async def scenario() -> None:
        async with raw_engine(endless(CHUNKED, b"2\r\nok\r\n" * 5000)) as engine:
            client = Client(write_timeout=0.3)
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            response = await client.request(engine.origin, "POST", "/x", read_timeout=0.1)
            with pytest.raises(ReaderTimeout):
                async with asyncio.timeout(20):
                    await response.pipe(lambda _: never)
            response.close()
            await soon(lambda: engine.closed == 1)
            client.close()

    asyncio.run(scenario())


def test_exceptions_of_a_sink_are_raised_to_the_caller() -> None:
    def sink(_: bytes) -> None:
        raise ResponseFailed("not what was expected")

    async def scenario() -> None:
        async with raw_engine(ok) as engine:
            client = Client()
            response = await client.request(engine.origin, "POST", "/x")
            with pytest.raises(ResponseFailed, match="not what"):
                await response.pipe(sink)
            response.close()
            client.close()

    asyncio.run(scenario())


def test_a_large_body_arrives_complete() -> None:
    async def scenario() -> None:
        async with raw_engine(ok) as engine:
            client = Client()
            body = b"x" * (9 * MIB)
            response = await client.request(engine.origin, "POST", "/x", body=body)
            assert await response.read() == b"ok"
            client.close()

    asyncio.run(scenario())


def test_a_connection_with_a_slow_sink_serves_the_next_request() -> None:
    async def scenario() -> None:
        async with raw_engine(ok) as engine:
            client = Client(write_timeout=0.3)
            later: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            response = await client.request(engine.origin, "POST", "/x")
            await response.pipe(lambda _: later)
            response.close()
            async with asyncio.timeout(10):
                assert await fetch(client, engine) == b"ok"
            assert engine.connections == 1
            later.set_result(None)
            client.close()

    asyncio.run(scenario())


def test_a_response_that_is_closed_twice_leaves_the_next_request_its_connection() -> None:
    async def scenario() -> tuple[bytes, int]:
        gate = asyncio.Event()

        async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
            if len(engine.requests) > 1:
                await gate.wait()
            writer.write(OK)

        async with raw_engine(reply) as engine, asyncio.timeout(5):
            client = Client()
            first = await client.request(engine.origin, "POST", "/x")
            assert await first.read() == b"ok"
            second = asyncio.create_task(fetch(client, engine))
            await soon(lambda: len(engine.requests) == 2)
            first.close()
            gate.set()
            answer = await second
            client.close()
            return answer, engine.connections

    assert asyncio.run(scenario()) == (b"ok", 1)


def test_header_fields_of_a_request_are_in_no_other_request() -> None:
    async def scenario() -> list[bytes]:
        async with raw_engine(ok) as one, raw_engine(ok) as other:
            client = Client()
            for engine, headers in ((one, [(b"authorization", b"Bearer a")]), (other, []), (one, []), (one, [])):
                response = await client.request(engine.origin, "POST", "/x", headers=headers, body=b"{}")
                assert await response.read() == b"ok"
                response.close()
            client.close()
            for engine in (one, other):
                host = b"\r\nhost: %b\r\n" % engine.origin[7:].encode()
                assert all(host in head for head in engine.requests)
            return one.requests + other.requests

    assert [b"authorization" in head for head in asyncio.run(scenario())] == [True, False, False, False]
