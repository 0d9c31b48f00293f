"""A TCP proxy that cuts connections after a number of bytes, as networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Forwards connections to a port. `sent_limits` and `received_limits`: bytes after which the next ones are cut."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent_limits: list[int] = []
        self.received_limits: list[int] = []
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += (client, server)
                for source, sink, limits in (
                    (client, server, self.sent_limits),
                    (server, client, self.received_limits),
                ):
                    limit = limits.pop(0) if limits else None
                    thread = threading.Thread(target=self._forward, args=(source, sink, limit))
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            for data in _parts(source):
                if limit is not None and len(data) > limit:
                    sink.sendall(data[:limit])
                    self.cuts += 1
                    break
                sink.sendall(data)
                limit = None if limit is None else limit - len(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _parts(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(65536):
        yield data
