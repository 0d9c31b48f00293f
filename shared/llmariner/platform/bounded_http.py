"""One HTTP/1.1 exchange with a server that may be slow, or never end: bounded in time from its first byte to its last."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult

__all__ = ["bounded_connection", "read_whole"]

_CONNECT_SECONDS = 5.0
_BLOCK_BYTES = 1 << 16


@contextlib.contextmanager
def bounded_connection(
    url: SplitResult, seconds: float, *, connect_seconds: float = _CONNECT_SECONDS
) -> Iterator[HTTPConnection]:
    """A connection for one exchange, which breaks off after `seconds`. Raises OSError, HTTPException.

    Redirects are not followed.
    """
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=connect_seconds, blocksize=_BLOCK_BYTES)
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
        # A timeout of the socket counts from byte to byte, so a slow response could take forever.
        expired = threading.Event()
        timer = threading.Timer(seconds, _abort, [connection.sock, expired])
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()
        if expired.is_set():  # what was broken off may look like the end of a response
            raise TimeoutError("its time was over")
    finally:
        connection.close()


def read_whole(response: HTTPResponse, max_bytes: int) -> bytes:
    """The body. Raises OSError, HTTPException, also for one that is larger or broke off."""
    body = response.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise HTTPException("its answer is too large")
    if response.length:
        raise HTTPException("its answer has no end")
    return body


def _abort(connection: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
