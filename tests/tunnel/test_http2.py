"""Streams on one connection of the tunnel: both directions, their ends, flow control, turns, and hostile other sides."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from h2.errors import ErrorCodes

from llmariner.platform.tunnel import Http2Connection, Stream, StreamReset, TooManyStreams, TunnelClosed, TunnelLimits

from .connections import GET, connected, post, read_all, websockets

KIB = 1024


async def echo(stream: Stream) -> None:
    stream.respond(200, [(b"x-path", stream.field(b":path"))])
    while part := await stream.read():
        await stream.write(part)
    stream.end()


def test_a_request_and_its_response_cross_in_both_directions_at_once() -> None:
    sent = random.Random(1).randbytes(3 * KIB * KIB)

    async def scenario() -> tuple[Any, bytes]:
        async with connected(echo) as (client, server):
            stream = client.request(post(b"/a"), end=False)
            writer = asyncio.create_task(stream.write(sent, end=True))
            head = await stream.response()
            received = await read_all(stream)
            await writer
            assert not client.streams
            assert not server.streams
            assert client.buffered_bytes == server.buffered_bytes == 0
            return head, received

    head, received = asyncio.run(scenario())
    assert head == (200, [(b"x-path", b"/a")])
    assert received == sent


def test_the_response_goes_on_after_the_request_ended_and_before_it() -> None:
    async def serve(stream: Stream) -> None:
        stream.respond(200, [])
        await stream.write(b"before")
        assert await read_all(stream) == b"asked"
        await stream.write(b"after", end=True)

    async def scenario() -> bytes:
        async with connected(serve) as (client, _):
            stream = client.request(post(), end=False)
            first = await stream.read()
            await stream.write(b"asked", end=True)
            received: bytes = first + await read_all(stream)
            return received

    assert asyncio.run(scenario()) == b"beforeafter"


def test_a_stream_that_nobody_reads_holds_up_no_other_and_stops_its_sender() -> None:
    sent = 0

    async def serve(stream: Stream) -> None:
        nonlocal sent
        stream.respond(200, [])
        if stream.field(b":path") == b"/slow":
            while True:
                await stream.write(bytes(KIB))
                sent += KIB
        await stream.write(bytes(4 * KIB * KIB), end=True)

    async def scenario() -> int:
        async with connected(serve) as (client, _):
            slow = [client.request(post(b"/slow"), end=True) for _ in range(300)]
            await asyncio.gather(*(each.response() for each in slow))
            fast = client.request(post(b"/fast"), end=True)
            received = len(await asyncio.wait_for(read_all(fast), 20))
            assert client.buffered_bytes <= 300 * 64 * KIB
            return received

    assert asyncio.run(scenario()) == 4 * KIB * KIB
    assert sent <= 300 * 64 * KIB


def test_a_reset_reaches_the_other_side_and_no_other_stream() -> None:
    canceled = asyncio.Event()

    async def serve(stream: Stream) -> None:
        if stream.field(b":path") == b"/other":
            await echo(stream)
            return
        stream.respond(200, [])
        try:
            while True:
                await stream.write(b"x")
                await asyncio.sleep(0)
        except (asyncio.CancelledError, StreamReset):
            canceled.set()
            raise

    async def scenario() -> bytes:
        async with connected(serve) as (client, server):
            other, stream = client.request(post(b"/other"), end=False), client.request(post(), end=True)
            await stream.read()
            stream.reset()
            await asyncio.wait_for(canceled.wait(), 5)
            with pytest.raises(StreamReset):
                await stream.read()
            await other.write(b"still here", end=True)
            received = await read_all(other)
            assert not client.streams
            assert not server.streams
            return received

    assert asyncio.run(scenario()) == b"still here"


def test_a_handler_that_fails_resets_its_stream_alone() -> None:
    async def serve(stream: Stream) -> None:
        if stream.field(b":path") == b"/bad":
            raise RuntimeError("broken")
        await echo(stream)

    async def scenario() -> None:
        async with connected(serve) as (client, _):
            bad, good = client.request(post(b"/bad"), end=True), client.request(post(b"/good"), end=True)
            with pytest.raises(StreamReset) as raised:
                await bad.response()
            assert raised.value.code == ErrorCodes.INTERNAL_ERROR
            assert (await good.response())[0] == 200

    asyncio.run(scenario())


def test_a_response_without_the_rest_of_its_request_is_read_whole() -> None:
    async def serve(stream: Stream) -> None:
        stream.respond(413, [])
        await stream.write(b"too large", end=True)

    async def scenario() -> bytes:
        async with connected(serve) as (client, server):
            stream = client.request(post(), end=False)
            assert (await stream.response())[0] == 413
            await asyncio.sleep(0.05)  # the reset that follows arrives
            with pytest.raises(StreamReset):
                await stream.write(bytes(KIB * KIB), end=True)
            received = await read_all(stream)
            assert not server.streams
            return received

    assert asyncio.run(scenario()) == b"too large"


def test_ten_thousand_streams_are_open_at_once_in_little_memory_and_time() -> None:
    async def serve(stream: Stream) -> None:
        stream.respond(200, [])
        await stream.write(b"first")
        await stream.read()
        stream.end()

    async def scenario() -> tuple[float, int]:
        async with connected(serve) as (client, server):
            began = time.process_time()
            streams = [client.request(post(), end=False) for _ in range(10_000)]
            for each in streams:
                assert await each.read() == b"first"
            assert len(server.streams) == 10_000
            for each in streams:
                each.end()
            for each in streams:
                assert await each.read() == b""
            return time.process_time() - began, len(server.streams)

    seconds, left = asyncio.run(scenario())
    assert left == 0
    assert seconds < 60  # it takes 5 s of one slow core; h2's own count of open streams took minutes


def test_over_the_bound_on_unread_bytes_the_stream_with_the_most_is_reset() -> None:
    limits = TunnelLimits(buffered_bytes=100 * KIB, streams=10)

    async def serve(stream: Stream) -> None:
        stream.respond(200, [])
        await stream.write(bytes(int(stream.field(b":path")[1:])), end=True)

    async def scenario() -> None:
        async with connected(serve, limits) as (client, _):
            small = client.request(post(b"/30000"), end=True)
            await small.response()
            large = client.request(post(b"/60000"), end=True)
            await large.response()
            third = client.request(post(b"/40000"), end=True)
            await third.read()  # what came last, and with it the bound
            with pytest.raises(StreamReset, match="nobody read"):
                await large.read()
            assert len(await read_all(small)) == 30000
            await read_all(third)
            assert client.buffered_bytes == 0

    asyncio.run(scenario())


def test_more_streams_than_allowed_are_refused_before_anything_is_sent() -> None:
    async def scenario() -> None:
        async with connected(echo, TunnelLimits(streams=3)) as (client, _):
            streams = [client.request(post(), end=False)]
            await streams[0].response()  # the other side's settings are known
            streams += [client.request(post(), end=False) for _ in range(2)]
            with pytest.raises(TooManyStreams):
                client.request(post(), end=False)
            streams[0].end()
            await read_all(streams[0])
            last = client.request(post(), end=True)
            assert (await last.response())[0] == 200

    asyncio.run(scenario())


def test_the_end_of_a_connection_fails_its_streams_and_cancels_their_handlers() -> None:
    canceled = 0

    async def serve(stream: Stream) -> None:
        nonlocal canceled
        stream.respond(200, [])
        try:
            await stream.read()
        finally:
            canceled += 1

    async def scenario() -> None:
        async with connected(serve) as (client, server):
            streams = [client.request(post(), end=False) for _ in range(5)]
            await asyncio.gather(*(each.response() for each in streams))
            server._socket.transport.abort()
            for each in streams:
                with pytest.raises(TunnelClosed):
                    await each.read()
            with pytest.raises(TunnelClosed):
                client.request(GET, end=True)

    asyncio.run(scenario())
    assert canceled == 5


@pytest.mark.parametrize(
    "message",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 5000,
        bytes(100),
        b"\x00\x00\x05\x01\x04\x00\x00\x00\x03\xff\xff\xff\xff\xff",  # fields that are not HPACK
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(80 * KIB),  # the beginning of a frame of 16 MiB
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",  # a window beyond its bound
    ],
)
def test_bytes_that_are_not_http2_end_the_connection(message: bytes) -> None:
    async def scenario() -> None:
        accepted, opened = await websockets(TunnelLimits())
        client = Http2Connection(accepted)
        running = asyncio.create_task(client.run())
        stream = client.request(GET, end=True)
        await opened.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + message)
        with pytest.raises(TunnelClosed):
            await asyncio.wait_for(stream.response(), 5)
        await running

    asyncio.run(scenario())


def test_a_flood_of_pings_that_reads_no_answers_ends_the_connection() -> None:
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)

    async def scenario() -> None:
        limits = TunnelLimits(write_seconds=60, unsent_control_bytes=256 * KIB)
        accepted, opened = await websockets(limits)
        client = Http2Connection(accepted, limits=limits)
        running = asyncio.create_task(client.run())
        opened.transport.pause_reading()
        opened.protocol.send_binary(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        while not client.is_closed:
            opened.protocol.send_binary(ping * 3000)
            opened.send_data()
            await asyncio.sleep(0.01)
        await running

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_while_tiny_frames_arrive_the_event_loop_stays_free() -> None:
    window = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"

    async def scenario() -> list[float]:
        accepted, opened = await websockets(TunnelLimits())
        client = Http2Connection(accepted)
        running = asyncio.create_task(client.run())
        await opened.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + window * 15_000)
        pauses: list[float] = []
        while not running.done() and len(pauses) < 400:
            began = time.process_time()
            await asyncio.sleep(0)
            pauses.append(time.process_time() - began)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return pauses

    pauses = asyncio.run(scenario())
    assert max(pauses) < 0.1  # 15,000 frames at once take half a second, and those of 128 KiB 0.3 s
