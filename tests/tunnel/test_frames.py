"""How frames are read off messages: as h2 reads them, wherever they are cut, and what a body of a false length costs."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame

from llmariner.platform.tunnel import Stream, StreamReset
from llmariner.platform.tunnel.http2_protocol import Http2Protocol

from .connections import GET, connected, post, read_all

WINDOW = 1024 * 1024


def reading() -> Http2Protocol:
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.MAX_FRAME_SIZE: 65_536}
    return Http2Protocol(client=True, settings=settings, frame_bytes=65_536, header_bytes=65_536, window=WINDOW)


def answered() -> tuple[Http2Protocol, bytes]:
    """A side with three requests, and the bytes of their responses: with padding, empty frames, a long head, trailers."""
    client, server = reading(), H2Connection(H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    for number in (1, 3, 5):
        client.send_headers(number, GET, end_stream=True)
    server.receive_data(b"".join(client.take_outgoing()))
    for number in (1, 3, 5):
        server.streams[number].max_outbound_frame_size = 256  # so that the head is in several frames
        server.send_headers(number, [(b":status", b"200"), (b"x-long", b"x" * 900)])
    for size in (1, 0, 30_000, 300):
        server.send_data(1, b"a" * size)
        server.send_data(3, b"b" * size, pad_length=7)
        server.ping(b"12345678")
    server.end_stream(1)
    server.send_headers(3, [(b"x-checksum", b"1")], end_stream=True)
    server.send_data(5, b"c", end_stream=True)
    return client, server.data_to_send()


def meanings(client: Http2Protocol, sent: bytes, cuts: list[int]) -> list[str]:
    places = [0, *cuts, len(sent)]
    messages = [sent[start:end] for start, end in itertools.pairwise(places)]
    return [repr(event) for message in messages for found in client.receive(message) for event in found]


@pytest.mark.parametrize("size", [1, 9, 500, 40_000])
def test_frames_mean_what_h2_reads_wherever_messages_are_cut(size: int) -> None:
    client, sent = answered()
    expected = [repr(event) for event in H2Connection.receive_data(client, sent)]
    client, sent = answered()
    rng = random.Random(size)
    cuts = list(range(1, len(sent))) if size == 1 else sorted(rng.sample(range(1, len(sent)), len(sent) // size))
    assert meanings(client, sent, cuts) == expected
    assert len(expected) > 20


def test_bytes_after_the_end_of_a_stream_reset_it_and_no_other_one() -> None:
    client, server = reading(), H2Connection(H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    client.send_headers(1, GET)
    server.receive_data(b"".join(client.take_outgoing()))
    server.send_headers(1, [(b":status", b"200")])
    server.send_data(1, b"all", end_stream=True)
    list(client.receive(server.data_to_send()))
    [event] = next(client.receive(DataFrame(1, data=b"more").serialize()))
    assert isinstance(event, events.StreamReset)
    assert (event.stream_id, event.error_code) == (1, ErrorCodes.STREAM_CLOSED)


def test_a_frame_that_is_too_long_is_refused_by_its_head() -> None:
    client, _ = answered()
    with pytest.raises(ProtocolError, match="longer than allowed"):
        list(client.receive(b"\x01\x00\x01\x00\x00\x00\x00\x00\x01"))


@pytest.mark.parametrize(
    ("announced", "sent", "padding"),
    [(b"4", b"12345", None), (b"4", b"123", None), (b"4", b"12345", 3), (b"4", b"", None)],
)
def test_a_body_of_another_length_than_its_head_says_resets_its_stream_alone(
    announced: bytes, sent: bytes, padding: int | None
) -> None:
    async def serve(stream: Stream) -> None:
        http2 = stream._connection._http2
        if stream.field(b":path") == b"/echo":
            stream.respond(200, [])
            await stream.write(await read_all(stream), end=True)
            return
        stream.respond(200, [(b"content-length", announced)], end=False)
        if padding is not None:
            http2.send_data(stream.id, sent, pad_length=padding)
        elif sent:
            await stream.write(sent)
        stream.end()

    async def scenario() -> None:
        async with connected(serve) as (client, server):
            other = client.request(post(b"/echo"), end=False)
            await other.response()
            for _ in range(20):
                with pytest.raises(StreamReset) as raised:
                    await read_all(client.request(GET, end=True))
                assert raised.value.code == ErrorCodes.PROTOCOL_ERROR
            await other.write(b"still here", end=True)
            assert await read_all(other) == b"still here"
            assert client.buffered_bytes == server.buffered_bytes == 0

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_bytes_of_refused_bodies_are_given_back_to_the_window_of_the_connection() -> None:
    async def serve(stream: Stream) -> None:
        stream.respond(200, [(b"content-length", b"4")])
        await stream.write(bytes(60_000), end=True)

    async def scenario() -> Any:
        async with connected(serve) as (client, server):
            for _ in range(400):  # more than the window of a connection
                with pytest.raises(StreamReset):
                    await read_all(client.request(GET, end=True))
            return server._http2.outbound_flow_control_window

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) > 12 * WINDOW
