"""The other side sends what HTTP/2 and websockets allow and no program needs: what that may cost in bytes and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmariner.platform.tunnel import HeadTooLong, Http2Connection, Stream, StreamReset, TunnelClosed, TunnelLimits

from .connections import GET, connected, post, read_all, websockets

EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
WINDOW = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"
RESET = b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"
LONG = [(b"user-agent", b"x" * 60_000), *[(b"accept", b"a")] * 240]


def setting(number: int, value: int) -> bytes:
    return b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + number.to_bytes(2, "big") + value.to_bytes(4, "big")


@contextlib.asynccontextmanager
async def control_plane(limits: TunnelLimits) -> AsyncIterator[tuple[Http2Connection, asyncio.Task[None], Any]]:
    """A connection that runs at the control plane, and the websocket of the agent's end, without HTTP/2."""
    accepted, opened = await websockets(limits)
    client = Http2Connection(accepted, limits=limits)
    running = asyncio.create_task(client.run())
    try:
        yield client, running, opened
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        opened.transport.abort()
        await opened.wait_closed()


def test_a_head_that_the_other_side_would_not_read_is_not_sent_and_ends_no_connection() -> None:
    async def serve(stream: Stream) -> None:
        if stream.field(b":path") == b"/long":
            stream.respond(200, LONG, end=True)
        stream.respond(200, [])
        await stream.write(await read_all(stream), end=True)

    async def scenario() -> None:
        async with connected(serve) as (client, _):
            other = client.request(post(), end=False)
            await other.response()
            with pytest.raises(HeadTooLong):
                client.request([*GET, *LONG], end=True)
            with pytest.raises(StreamReset):
                await client.request(post(b"/long"), end=True).response()
            await other.write(b"still here", end=True)
            assert await read_all(other) == b"still here"

    asyncio.run(scenario())


def test_small_pieces_of_data_take_the_memory_of_their_bytes() -> None:
    async def serve(stream: Stream) -> None:
        stream.respond(200, [])
        for _ in range(5000):
            await stream.write(b"ab")
        stream.end()

    async def scenario() -> None:
        async with connected(serve) as (client, _):
            stream = client.request(GET, end=True)
            while client.buffered_bytes < 10_000:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
            assert len(stream._chunks) <= 10
            assert await read_all(stream) == b"ab" * 5000

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_each_change_of_all_windows_in_a_slice_visits_the_streams_once() -> None:
    async def scenario() -> int:
        async with control_plane(TunnelLimits()) as (client, _, opened):
            await opened.send(EMPTY_SETTINGS)
            stream, visits = client.request(GET, end=True), 0

            class Counted(Stream):
                def on_window(self) -> None:
                    nonlocal visits
                    visits += 1

            client.streams[stream.id] = Counted(client, stream.id, GET, 1)
            await opened.send(WINDOW * 2000 + RESET)
            while stream.id in client.streams:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return visits

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) < 10


def test_settings_that_change_again_and_again_end_the_connection() -> None:
    async def scenario() -> None:
        async with control_plane(TunnelLimits()) as (client, running, opened):
            await opened.send(EMPTY_SETTINGS + (setting(4, 65_536) + setting(4, 65_537)) * 50)
            await running
            assert client.is_closed

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_other_side_can_not_enlarge_the_table_of_fields_that_is_searched_for_each_request() -> None:
    async def scenario() -> int:
        async with control_plane(TunnelLimits()) as (client, _, opened):
            await opened.send(setting(1, 2**31 - 1) + setting(3, 2000))
            while client._http2.remote_settings.max_concurrent_streams != 2000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for number in range(500):
                client.request([*GET[:3], (b":path", b"/%d" % number)], end=True).reset()
            return int(client._http2.encoder.header_table._current_size)

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) <= 4096


def test_a_flood_of_websocket_pings_that_reads_no_answers_ends_the_connection() -> None:
    ping = b"\x89\xfd" + bytes(4) + bytes(125)

    async def scenario() -> int:
        async with control_plane(TunnelLimits(unsent_control_bytes=1024 * 1024)) as (client, running, opened):
            opened.transport.pause_reading()
            most, until = 0, time.monotonic() + 20
            while not client.is_closed and time.monotonic() < until:
                opened.transport.write(ping * 1000)
                await asyncio.sleep(0.01)
                most = max(most, client._socket.transport.get_write_buffer_size())
            await asyncio.wait_for(running, 5)
            return most

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) < 2 * 1024 * 1024


@pytest.mark.parametrize("status", [b"0103", b"+103", b"0101", b"99", b"600", b"2_00", b"-200", b"5" * 5000, b"ok"])
def test_what_is_no_status_of_a_final_response_resets_its_stream_alone(status: bytes) -> None:
    async def serve(stream: Stream) -> None:
        if stream.field(b":path") == b"/other":
            stream.respond(200, [], end=True)
            return
        http2 = stream._connection._http2
        http2.config.validate_outbound_headers = False
        stream._connection.send_head(stream, [(b":status", status)], end=False)
        await stream.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake", end=True)

    async def scenario() -> None:
        async with connected(serve) as (client, _):
            with pytest.raises(StreamReset, match="no status"):
                await client.request(GET, end=True).response()
            assert (await client.request(post(b"/other"), end=True).response())[0] == 200

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_connection_that_breaks_off_between_any_two_bytes_leaves_nothing_behind() -> None:
    sent = EMPTY_SETTINGS + b"".join(
        (
            b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88",  # the head of a response, and a piece of its body
            b"\x00\x00\x05\x00\x00\x00\x00\x00\x01hello",
            b"\x00\x00\x00\x00\x01\x00\x00\x00\x01",
        )
    )

    async def broken_off(length: int) -> bytes:
        async with control_plane(TunnelLimits()) as (client, running, opened):
            stream, received = client.request(GET, end=True), b""
            await opened.send(sent[:length])
            await opened.close()
            await running
            with contextlib.suppress(TunnelClosed):
                received = await read_all(stream)
            assert (client.streams, client.buffered_bytes, client._tasks) == ({}, 0, set())
            return received

    async def scenario() -> list[bytes]:
        return await asyncio.gather(*(broken_off(length) for length in range(1, len(sent) + 1)))

    found = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert found == [b""] * (len(sent) - 1) + [b"hello"]  # a response that broke off is not whole
