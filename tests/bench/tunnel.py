"""`python -m tests.bench.tunnel`: what the tunnel costs beside a plain connection, both in TLS. Not part of `make bench`.

Two processes: one serves (the agent's side), one reads (the control plane's). Each round moves the same bytes by a stream of
the tunnel and by the response of a plain HTTP/1.1 server on asyncio, in turns. docs/decisions has the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import uvloop
from websockets.asyncio.client import connect

from llmariner.platform.tunnel import Http2Connection, Stream, TunnelLimits

_LIMITS = TunnelLimits()
_MIB = 1024 * 1024
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}],"id":"chatcmpl-0123456789abcdef"}\n\n'
_BLOCK = bytes(64 * 1024)
Write = Callable[[bytes], Awaitable[None]]


async def produce(path: str, write: Write) -> None:
    """What both sides send: `/bytes/N` in blocks, `/tokens/N` one by one as an engine makes them, `/small`."""
    _, kind, number = [*path.split("/"), "0"][:3]
    if kind == "small":
        await write(b"x" * 200)
    for _ in range(int(number) // len(_BLOCK) if kind == "bytes" else 0):
        await write(_BLOCK)
    for _ in range(int(number) if kind == "tokens" else 0):
        await write(_TOKEN)
        await asyncio.sleep(0.0002)


async def serve_stream(stream: Stream) -> None:
    """A request by the tunnel."""
    stream.respond(200, [(b"content-type", b"text/event-stream")])
    path = stream.field(b":path").decode()
    if path == "/idle":
        await stream.read()
    await produce(path, stream.write)
    stream.end()


async def serve_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A request by HTTP/1.1, with chunks, on a connection that is kept."""

    async def write(data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()

    while head := await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await produce(head.split(b" ", 2)[1].decode(), write)
        writer.write(b"0\r\n\r\n")


def certificate(folder: Path) -> Path:
    """A certificate with its key, for 127.0.0.1."""
    file = folder / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", file, "-out", folder / "cert.pem"], check=True, capture_output=True)
    file.write_text(file.read_text() + (folder / "cert.pem").read_text())
    return file


def tls(file: Path | None, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """The context of one side; None: without TLS."""
    if file is None:
        return None
    context = ssl.create_default_context(purpose, cafile=str(file))
    if purpose is ssl.Purpose.CLIENT_AUTH:
        context.load_cert_chain(file)
    return context


def serve(pipe: Pipe, url: str, file: Path | None) -> None:
    """The agent's side: opens the tunnel to `url`, and listens for plain requests; tells its CPU seconds when asked."""

    async def run() -> None:
        plain = await asyncio.start_server(serve_plainly, "127.0.0.1", 0, ssl=tls(file, ssl.Purpose.CLIENT_AUTH))
        pipe.send(plain.sockets[0].getsockname()[1])
        more: dict[str, Any] = {} if file is None else {"ssl": tls(file, ssl.Purpose.SERVER_AUTH)}
        socket = await connect(url, compression=None, max_size=2 * _LIMITS.message_bytes, max_queue=4, proxy=None,
                               write_limit=_LIMITS.message_bytes, **more)  # fmt: skip
        connection = Http2Connection(socket, handler=serve_stream)

        def tell() -> None:
            pipe.recv()
            pipe.send(usage())

        asyncio.get_running_loop().add_reader(pipe.fileno(), tell)
        await connection.run()

    uvloop.run(run())


def usage() -> tuple[float, int]:
    """CPU seconds and resident bytes of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Tunnel:
    """The control plane's side."""

    def __init__(self, connection: Http2Connection) -> None:
        self.connection = connection

    def request(self, path: str, *, end: bool = True) -> Stream:
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", path.encode())]
        return self.connection.request([*fields, (b"accept", b"*/*"), (b"user-agent", b"bench")], end=end)

    async def read(self, path: str) -> int:
        stream, size = self.request(path), 0
        while data := await stream.read():
            size += len(data)
        return size


class Plain:
    """A client of the plain server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, path: str) -> int:
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\naccept: */*\r\nuser-agent: bench\r\n\r\n".encode())
        await self._reader.readuntil(b"\r\n\r\n")
        size = 0
        while length := int(await self._reader.readuntil(b"\r\n"), 16):
            size += len(await self._reader.readexactly(length + 2)) - 2
        await self._reader.readexactly(2)
        return size


async def measure(
    pipe: Pipe, port: int, accepted: asyncio.Future[Any], rounds: int, mib: int, file: Path | None
) -> None:
    """Measure and print."""
    tunnel = Http2Connection(await accepted)
    running = asyncio.create_task(tunnel.run())
    context = tls(file, ssl.Purpose.SERVER_AUTH)
    plain = Plain(*await asyncio.open_connection("127.0.0.1", port, limit=_MIB, ssl=context))
    ways: dict[str, Any] = {"tunnel": Tunnel(tunnel), "direct": plain}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    latencies: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[list[float]]] = {name: [] for name in ways}

    def used() -> tuple[float, float]:
        """CPU seconds of the serving end, and of this one."""
        pipe.send(None)
        return float(pipe.recv()[0]), usage()[0]

    for _ in range(rounds):
        for name, way in ways.items():
            before, began = used(), time.perf_counter()
            size = await way.read(f"/bytes/{mib * _MIB}")
            rates[name].append(size / (time.perf_counter() - began))
            cpu[name].append([1e9 * (now - then) / size for then, now in zip(before, used(), strict=True)])
            for _ in range(200):
                began = time.perf_counter()
                await way.read("/small")
                latencies[name].append(time.perf_counter() - began)
            spent = sum(used())
            await way.read("/tokens/2000")
            tokens[name].append((sum(used()) - spent) / 2000)
    for name in ways:
        rate, p50 = statistics.median(rates[name]) / 1e6, 1e3 * statistics.median(latencies[name])
        token = 1e6 * statistics.median(tokens[name])
        serving, reading = (statistics.median(each) for each in zip(*cpu[name], strict=True))
        print(
            f"{name}: {rate:.0f} MB/s, p50 {p50:.2f} ms, {token:.0f} us of CPU per token at both ends together, "
            f"{serving:.2f} ms of CPU per MB at the serving end, {reading:.2f} ms at the reading end"
        )
    resident = usage()[1]
    idle = [ways["tunnel"].request("/idle", end=False) for _ in range(10_000)]
    for stream in idle:
        await stream.response()
    pipe.send(None)
    print(f"10,000 idle streams: {(usage()[1] - resident) / 10_000 / 1024:.1f} KiB each at the control plane")
    pairs = [tunnel / direct for tunnel, direct in zip(rates["tunnel"], rates["direct"], strict=True)]
    print(f"RATIO tunnel_throughput_vs_direct {statistics.median(pairs):.3f}")
    p50 = statistics.median(latencies["tunnel"]) / statistics.median(latencies["direct"])
    print(f"RATIO tunnel_latency_p50_vs_direct {p50:.3f}")
    running.cancel()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tunnel", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=128, help="bytes of a transfer (%(default)s MiB)")
    parser.add_argument("--plain", action="store_true", help="without TLS, which no connection between clusters is")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        _run(options, None if options.plain else certificate(Path(folder)))


def _run(options: argparse.Namespace, file: Path | None) -> None:

    async def run() -> None:
        from websockets.asyncio.server import serve as listen

        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()
        ended = loop.create_future()

        async def accept(socket: Any) -> None:
            accepted.set_result(socket)
            await ended

        async with listen(accept, "127.0.0.1", 0, compression=None, max_size=2 * _LIMITS.message_bytes, max_queue=4,
                          write_limit=_LIMITS.message_bytes, ssl=tls(file, ssl.Purpose.CLIENT_AUTH)) as server:  # fmt: skip
            port = next(iter(server.sockets)).getsockname()[1]
            scheme = "ws" if file is None else "wss"
            ours, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("spawn").Process(
                target=serve, args=(theirs, f"{scheme}://127.0.0.1:{port}", file)
            )
            child.start()
            try:
                plain = await asyncio.to_thread(ours.recv)
                await measure(ours, plain, accepted, options.rounds, options.mib, file)
            finally:
                child.kill()
                ended.cancel()

    uvloop.run(run())


if __name__ == "__main__":
    main()
