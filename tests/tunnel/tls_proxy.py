"""A proxy that speaks TLS for a platform, as a Gateway does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

__all__ = ["CERTIFICATE", "terminated_tls", "terminated_tls_in_thread"]

CERTIFICATE = "cert.pem"
"""The file in the folder of a proxy with its certificate."""
_KEY = "key.pem"


def _make_certificate(address: str, folder: Path) -> ssl.SSLContext:
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
    names = ["-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"]
    files = ["-keyout", str(folder / _KEY), "-out", str(folder / CERTIFICATE)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True, timeout=60)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / CERTIFICATE, folder / _KEY)
    return context


@contextlib.asynccontextmanager
async def terminated_tls(port: int, folder: Path, address: str = "127.0.0.1") -> AsyncIterator[str]:
    """The URL of a proxy at `address` for what listens on the loopback; its certificate is `CERTIFICATE` in `folder`."""
    context = await asyncio.to_thread(_make_certificate, address, folder)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer))
        finally:
            for each in (writer, inner[1]):
                each.transport.abort()

    server = await asyncio.start_server(connect, address, 0, ssl=context)
    try:
        yield f"https://{address}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@contextlib.contextmanager
def terminated_tls_in_thread(port: int, folder: Path, address: str) -> Iterator[str]:
    """As `terminated_tls`, with an event loop of its own."""
    started = threading.Event()
    urls: list[str] = []
    stops: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        async with terminated_tls(port, folder, address) as url:
            urls.append(url)
            stops.append(lambda: loop.call_soon_threadsafe(stopping.set))
            started.set()
            await stopping.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    try:
        yield urls[0]
    finally:
        stops[0]()
        thread.join(30)
