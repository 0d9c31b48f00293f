"""A port of this machine whose connections lead to another address."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Relay"]

_AT_ONCE = 64 * 1024


class Relay:
    """Listens on a free port of `host` from its making on; `to` says where it leads. `with` it.

    Leads pods to servers on loopback, and the command line, which takes an issuer without TLS only on its own machine, to
    the cluster.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listening = socket.create_server((host, 0))
        self._target = ("127.0.0.1", 9)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.url = f"http://{host}:{self._listening.getsockname()[1]}"

    def to(self, host: str, port: int) -> None:
        """From now on it leads there."""
        self._target = host, port

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # when it is closed
            while True:
                here, _ = self._listening.accept()
                threading.Thread(target=self._carry, args=(here,), daemon=True).start()

    def _carry(self, here: socket.socket) -> None:
        with here, contextlib.suppress(OSError), socket.create_connection(self._target, timeout=30) as there:
            there.settimeout(None)
            back = threading.Thread(target=_pour, args=(there, here), daemon=True)
            back.start()
            _pour(here, there)
            back.join()


def _pour(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(_AT_ONCE):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
