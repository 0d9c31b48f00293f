"""Limits in bytes on what a client sends: the cost of input is linear in its length, and everything is bounded."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any

import pytest

from llmariner.compiled import is_active
from llmariner.server import Server, ServerLimits
from llmariner.server.connection import Connection
from llmariner.server.request_head import split_target

from .conftest import body_of, count_body, echo, exchange, hello, serving, statuses, wait_until

CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def one_byte_chunks(count: int) -> bytes:
    return b"1\r\nx\r\n" * count + b"0\r\n\r\n"


@pytest.mark.quiet
def test_a_body_in_chunks_of_one_byte_blocks_no_other_request() -> None:
    """With many more chunks than are allowed by default, an unrelated request is answered between any two slices."""

    async def run() -> tuple[bytes, float]:
        async with serving(count_body, limits=ServerLimits(chunks=200_000)) as (_, port):
            attack = asyncio.create_task(exchange(port, CHUNKED + one_byte_chunks(100_000) + GET))
            slowest = 0.0
            while not attack.done():
                began = time.perf_counter()
                await exchange(port, GET)
                slowest = max(slowest, time.perf_counter() - began)
            return await attack, slowest

    answer, slowest = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"100000" in answer
    assert slowest < 2.0  # quadratic cost per chunk would take over ten times as long


@pytest.mark.quiet
def test_the_time_for_a_body_is_linear_in_its_length() -> None:
    async def seconds(count: int) -> float:
        async with serving(count_body, limits=ServerLimits(chunks=10**9)) as (_, port):
            began = time.process_time()
            await exchange(port, CHUNKED + one_byte_chunks(count) + GET)
            return time.process_time() - began

    async def run() -> tuple[float, float]:
        return min([await seconds(20_000) for _ in range(3)]), await seconds(160_000)

    short, long = asyncio.run(run())
    assert long < 8 * short * 3


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (one_byte_chunks(20_000), b"chunks"),
        (b"1;" + b"a" * 200_000 + b"\r\nx\r\n0\r\n\r\n", b"framing"),
        (b"0\r\n" + b"a: b\r\n" * 40_000 + b"\r\n", b"framing"),
        (b"0\r\nx: " + b"a" * 200_000 + b"\r\n\r\n", b"framing"),
    ],
    ids=["chunks of one byte", "an endless chunk extension", "endless trailers", "one endless trailer"],
)
def test_endless_framing_is_rejected(body: bytes, word: bytes) -> None:
    async def run() -> bytes:
        async with serving(count_body) as (_, port):
            return await exchange(port, CHUNKED + body)

    answer = asyncio.run(run())
    assert statuses(answer) == [400]
    assert word in body_of(answer)


def test_small_chunks_of_ordinary_size_are_accepted() -> None:
    """A client that streams its body line by line."""

    async def run() -> bytes:
        async with serving(count_body) as (_, port):
            return await exchange(port, CHUNKED + (b"50\r\n" + b"x" * 80 + b"\r\n") * 10_000 + b"0\r\n\r\n" + GET)

    assert b"800000" in asyncio.run(run())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 257, 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 90_000, 431),
        (b"GET /" + b"a" * 70_000, 414),
        (b"\r\n" * 40_000, 431),
    ],
    ids=["fields", "one field", "target", "empty lines"],
)
def test_an_endless_head_is_rejected(head: bytes, status: int) -> None:
    async def run() -> bytes:
        async with serving(hello) as (_, port):
            return await exchange(port, head + b"\r\n\r\n" if status != 414 else head)

    assert statuses(asyncio.run(run())) == [status]


@pytest.mark.skipif(is_active(), reason="the test looks into interpreted code")
def test_long_targets_are_not_retained() -> None:
    known = split_target.__globals__["_known_targets"]
    before = len(known)

    async def run() -> list[bytes]:
        async with serving(hello) as (_, port):
            return [
                await exchange(
                    port, b"GET /%d/%b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % (number, b"a" * 300)
                )
                for number in range(20)
            ]

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in asyncio.run(run()))
    assert len(known) == before


def test_unread_large_bodies_stay_in_the_kernel() -> None:
    async def never(_scope: object, _receive: object, _send: object) -> None:
        await asyncio.sleep(30)

    async def run() -> int:
        async with serving(never, grace=0.0) as (_, port):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            writers = []
            for _ in range(4):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
                writers.append(writer)
            for _ in range(200):
                for writer in writers:
                    if writer.transport.get_write_buffer_size() < 65536:
                        writer.write(b"x" * 65536)
                await asyncio.sleep(0)
            for writer in writers:
                writer.transport.abort()
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert asyncio.run(run()) < 30_000  # KiB


def test_a_trailer_is_not_a_header() -> None:
    async def run() -> bytes:
        trailers = b"0\r\nauthorization: Bearer t\r\nx-forwarded-for: 10.0.0.1\r\n\r\n"
        async with serving(echo) as (_, port):
            return await exchange(port, CHUNKED + trailers + GET)

    assert b"bearer" not in asyncio.run(run()).lower()


def test_connections_per_address_are_limited() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with serving(hello, limits=ServerLimits(connections_per_address=2)) as (server, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            refused = await exchange(port, GET)
            for _, writer in held:
                writer.close()
            await wait_until(lambda: not server.connections)
            assert not server.connections_per_network
            return refused, await exchange(port, GET)

    refused, taken = asyncio.run(run())
    assert statuses(refused) == [429]
    assert statuses(taken) == [200]


class Peer(asyncio.Transport):
    """The parts of a transport that a new connection uses."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::1", "::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_site_counts_as_one_address(first: str, second: str, same: bool) -> None:
    async def run() -> list[bytes]:
        server = Server(hello, host="", port=0, limits=ServerLimits(connections_per_address=1))
        peers = [Peer(first), Peer(second)]
        connections = [Connection(server, asyncio.get_running_loop()) for _ in peers]
        for connection, peer in zip(connections, peers, strict=True):
            connection.connection_made(peer)
        for connection in connections:
            connection.connection_lost(None)
        assert not server.connections_per_network
        return [peer.written for peer in peers]

    taken, refused = asyncio.run(run())
    assert (taken, statuses(refused)) == (b"", [429] if same else [])


def test_a_body_with_a_length_is_passed_on_as_it_arrives_and_ends_there() -> None:
    async def run() -> tuple[list[int], bytes]:
        sizes: list[int] = []

        async def reading(_scope: Any, receive: Any, send: Any) -> None:
            more = True
            while more:
                message = await receive()
                sizes.append(len(message["body"]))
                more = message["more_body"]
            await hello(None, receive, send)

        server, peer = Server(reading, host="", port=0), Peer("192.0.2.1")
        connection = Connection(server, asyncio.get_running_loop())
        connection.connection_made(peer)
        post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 250000\r\n\r\n"
        connection.data_received(post + b"x" * 100_000)
        await wait_until(lambda: sizes)
        connection.data_received(b"x" * 150_000 + GET)
        await wait_until(lambda: peer.written.count(b"hello") == 2)
        connection.connection_lost(None)
        return sizes, peer.written

    sizes, answers = asyncio.run(run())
    assert (sizes, statuses(answers)) == ([100_000, 150_000, 0], [200, 200])


def test_pipelined_requests_are_limited() -> None:
    async def run() -> tuple[int, list[int]]:
        gate = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await hello(scope, receive, send)

        async with serving(waiting) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await wait_until(lambda: server.connections)
            counts = []
            for size in (1,) * 300 + (10_000,) * 2:  # one read per part, then many at once
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * size)
                await asyncio.sleep(0.001)
                connection = next(iter(server.connections))
                assert isinstance(connection, Connection)
                counts.append(len(connection._queue))
            gate.set()
            answers = await reader.readuntil(b"hello")
            writer.transport.abort()
            return max(counts), statuses(answers)

    most, first = asyncio.run(run())
    assert most < 100
    assert first == [200]
