"""The proxy of jobs: which addresses are public, and what it does with hostile requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from llmariner.platform.jobs.local_processes.https_proxy import is_own, is_public, serve

PUBLIC = ["8.8.8.8", "2606:4700::1111"]
OTHERS = [
    "127.0.0.1",
    "0.0.0.0",  # noqa: S104
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.17.0.1",
    "192.168.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "fd00::1",
    "fe80::1",
    "ff02::1",
]


def test_addresses_of_the_machine_and_its_network_are_not_public() -> None:
    assert [each for each in PUBLIC + OTHERS if is_public(each)] == PUBLIC


def test_the_machines_own_addresses_are_found_without_a_list_of_them() -> None:
    assert [is_own(each) for each in ("127.0.0.1", "127.0.0.2", "192.0.2.1")] == [True, False, False]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        with contextlib.suppress(OSError):  # no route leads outside
            each.connect(("192.0.2.1", 443))
        if (address := each.getsockname()[0]) != "0.0.0.0":  # noqa: S104
            assert is_own(address)


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[tuple[int, int]]:
    """The ports of a proxy that allows 127.0.0.1, and of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = listener.getsockname()[1]
    serving = asyncio.create_task(serve(listener, allowed=lambda address: address == "127.0.0.1", port=port))
    try:
        async with server:
            yield proxy, port
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def ask(proxy: int, request: bytes) -> bytes:
    """All that the proxy answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
    writer.write(request)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_bytes_pass_both_ways_until_one_side_ends() -> None:
    async def tunnel() -> bytes:
        async with proxied() as (proxy, port):
            return await ask(proxy, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + b"hello")

    assert asyncio.run(tunnel()) == b"HTTP/1.1 200 Connection established\r\n\r\nhello"


REFUSED = {
    "CONNECT 127.0.0.1:{other} HTTP/1.1": b"HTTP/1.1 403 ",
    "CONNECT 127.0.0.2:{port} HTTP/1.1": b"HTTP/1.1 403 ",
    "CONNECT [::1]:{port} HTTP/1.1": b"HTTP/1.1 403 ",
    "CONNECT 0x7f000002:{port} HTTP/1.1": b"HTTP/1.1 403 ",
    "CONNECT nowhere.invalid:{port} HTTP/1.1": b"HTTP/1.1 502 ",
    "GET http://127.0.0.1:{port}/ HTTP/1.1": b"HTTP/1.1 403 ",
    "CONNECT 127.0.0.1 HTTP/1.1": b"HTTP/1.1 403 ",
    "nonsense": b"",
    "\xff \xff \xff": b"",
    "x" * 100_000: b"",
}


def test_other_requests_are_refused_and_the_next_is_served() -> None:
    async def refused() -> None:
        async with proxied() as (proxy, port):
            for line, answer in REFUSED.items():
                request = line.replace("{port}", str(port)).replace("{other}", str(port - 1))
                found = await ask(proxy, request.encode("latin-1") + b"\r\n\r\n")
                assert (found[: len(answer)], bool(found)) == (answer, bool(answer)), line[:100]
                again = await ask(proxy, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode() + b"again")
                assert again.endswith(b"again")

    asyncio.run(refused())


def test_a_job_has_so_many_connections_and_no_more() -> None:
    async def crowd() -> list[bytes]:
        async with proxied() as (proxy, _):
            held = [await asyncio.open_connection("127.0.0.1", proxy) for _ in range(64)]
            found = await ask(proxy, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
            for _, writer in held:
                writer.close()
                await writer.wait_closed()
            deadline = time.monotonic() + 30
            while (again := await ask(proxy, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n"))[:12] == found[:12]:
                assert time.monotonic() < deadline
            return [found, again]

    found, again = asyncio.run(crowd())
    assert (found[:12], again[:12]) == (b"HTTP/1.1 503", b"HTTP/1.1 403")


def test_requests_to_the_platform_are_passed_on_where_a_job_may_send_them() -> None:
    async def ask(platform: bool) -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + head)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(serve(listener, platform=address if platform else ""))
        async with server, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            found = await reader.read()
            writer.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        return found

    assert asyncio.run(ask(True)).endswith(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert asyncio.run(ask(False)).startswith(b"HTTP/1.1 403")
