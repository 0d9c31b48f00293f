"""Connections to S3 that are lost: a reader continues, and never mixes two objects; a store that is gone is an error."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from llmariner.platform.objects import ObjectStoreUnavailable
from llmariner.platform.objects.s3 import S3Objects

from .contents import get, put
from .radosgw import Gateway

MIB = 1 << 20
NewS3 = Callable[..., S3Objects]


class CuttingProxy:
    """Forwards connections to a server, and closes each after `response_bytes` of its responses."""

    def __init__(self, target: tuple[str, int], response_bytes: int) -> None:
        self._target = target
        self._response_bytes = response_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._forward, args=(connection,), daemon=True).start()

    def _forward(self, connection: socket.socket) -> None:
        with connection, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            threading.Thread(target=self._send, args=(connection, server), daemon=True).start()
            left = self._response_bytes
            while left and (data := server.recv(min(65536, left))):
                connection.sendall(data)
                left -= len(data)
            # Also wakes the thread of the other direction.
            connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _send(connection: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                server.sendall(data)


@pytest.fixture
def cut(gateway: Gateway) -> Iterator[Callable[[int], CuttingProxy]]:
    """Makes proxies in front of the store."""
    parts = urlsplit(gateway.http)
    with ExitStack() as made:

        def make(response_bytes: int) -> CuttingProxy:
            proxy = CuttingProxy((str(parts.hostname), int(parts.port or 0)), response_bytes)
            made.callback(proxy.close)
            return proxy

        yield make


def test_a_reader_continues_after_a_lost_connection(
    s3: S3Objects, new_s3: NewS3, cut: Callable[[int], CuttingProxy]
) -> None:
    data = random.Random(1).randbytes(9 * MIB)
    put(s3, "files/file_1", data)
    proxy = cut(2 * MIB + 12_345)
    cutting = new_s3(endpoint=proxy.url)
    assert get(cutting, "files/file_1") == data
    assert proxy.connections > 4
    assert get(cutting, "files/file_1", 1000, 5 * MIB) == data[1000 : 1000 + 5 * MIB]


def test_a_reader_ends_when_connections_bring_next_to_nothing(
    s3: S3Objects, new_s3: NewS3, cut: Callable[[int], CuttingProxy]
) -> None:
    put(s3, "files/file_1", bytes(9 * MIB))
    proxy = cut(1000)  # the header of the response and a few bytes
    with pytest.raises(ObjectStoreUnavailable):
        get(new_s3(endpoint=proxy.url), "files/file_1")
    assert proxy.connections <= 4


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_reader_does_not_continue_in_another_object(
    s3: S3Objects, new_s3: NewS3, cut: Callable[[int], CuttingProxy], change: str
) -> None:
    put(s3, "files/file_1", b"a" * 9 * MIB)
    reader = new_s3(endpoint=cut(2 * MIB + 12_345).url).read("files/file_1")
    assert next(reader) == b"a" * MIB
    if change == "replaced":
        put(s3, "files/file_1", b"b" * 9 * MIB)
    else:
        s3.delete(["files/file_1"])
    with pytest.raises(ObjectStoreUnavailable, match=change):
        list(reader)


def test_a_store_that_is_gone_is_an_error(new_s3: NewS3) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        s3 = new_s3(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ObjectStoreUnavailable, match="EndpointConnectionError"):
            s3.info("files/file_1")
