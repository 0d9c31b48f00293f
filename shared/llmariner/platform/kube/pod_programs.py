"""Programs that the API server starts in containers, by the subprotocol `v5.channel.k8s.io` of its websockets.

Each message begins with the number of its channel. The subprotocol is that of Kubernetes 1.30 and later.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from llmariner.platform.kube.errors import raise_for_status, unavailable

__all__ = ["PodProgram", "Server", "open_program"]

_PROTOCOL = Subprotocol("v5.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS = range(4)
_STREAMS = {_STDOUT: "stdout", _STDERR: "stderr"}
_MESSAGE_BYTES = 1 << 20
_SENT_BYTES = 32 * 1024
_QUEUED_MESSAGES = 4
_OPEN_SECONDS, _CLOSE_SECONDS, _PING_SECONDS = 20.0, 2.0, 20.0
_CODE = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class Server:
    """An API server: its URL, what its certificate is checked with, and the headers that say who asks."""

    url: str
    tls: ssl.SSLContext
    headers: Mapping[str, str]


class PodProgram:
    """A program that was started. One thread uses it at a time."""

    def __init__(self, connection: contextlib.ExitStack, socket: ClientConnection) -> None:
        self._connection = connection
        self._socket = socket
        self.exit_code: int | None = None
        """After its end; None where the server does not say it, as when the container ended first."""

    def write(self, data: bytes) -> None:
        """Send to its standard input, which stays open. No effect on a program that has ended."""
        with contextlib.suppress(ConnectionClosed):
            for start in range(0, len(data), _SENT_BYTES):
                self._socket.send(bytes([_STDIN]) + data[start : start + _SENT_BYTES])

    def read(self, seconds: float) -> tuple[str, bytes] | None:
        """The next output with its stream, `stdout` or `stderr`; no bytes where there was none in time; None at its end."""
        try:
            message = self._socket.recv(timeout=seconds)
        except TimeoutError:
            return "stdout", b""
        except ConnectionClosed:
            return None
        if not isinstance(message, bytes) or not message:
            return "stdout", b""
        if message[0] == _STATUS:
            self.exit_code = _exit_code(message[1:])
            return None
        return _STREAMS.get(message[0], "stdout"), message[1:] if message[0] in _STREAMS else b""

    def close(self) -> None:
        """Close the connection, and with it the program's standard input. Idempotent."""
        self._connection.close()


def open_program(server: Server, path: str, container: str, argv: Sequence[str]) -> PodProgram:
    """Start a program in a container of the pod at `path`. Its standard input is open until `close`.

    Raises ClusterError where the server refuses it, Unavailable where it does not answer.
    """
    query = [("container", container), *(("command", each) for each in argv)]
    query += [(name, "true") for name in ("stdin", "stdout", "stderr")]
    scheme, _, address = server.url.partition("://")
    with contextlib.ExitStack() as connection:
        try:
            socket = connection.enter_context(
                connect(
                    f"{'wss' if scheme == 'https' else 'ws'}://{address}{path}/exec?{urlencode(query)}",
                    ssl=server.tls if scheme == "https" else None,
                    subprotocols=[_PROTOCOL],
                    additional_headers=server.headers,
                    compression=None,
                    proxy=None,
                    open_timeout=_OPEN_SECONDS,
                    close_timeout=_CLOSE_SECONDS,
                    ping_interval=_PING_SECONDS,
                    ping_timeout=_PING_SECONDS,
                    max_size=_MESSAGE_BYTES,
                    max_queue=_QUEUED_MESSAGES,
                )
            )
        except InvalidStatus as error:
            raise_for_status(error.response.status_code, _status(error.response.body))
        except (InvalidHandshake, ConnectionClosed, OSError) as error:
            raise unavailable(error) from error
        return PodProgram(connection.pop_all(), socket)


def _status(body: bytes | bytearray | None) -> Mapping[str, object]:
    try:
        found = json.loads(body or b"")
    except ValueError:
        return {"message": (body or b"").decode(errors="replace").strip()[:500]}
    return found if isinstance(found, dict) else {}


def _exit_code(status: bytes) -> int | None:
    found = _status(status)
    if found.get("status") == "Success":
        return 0
    details = found.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode" and _CODE.fullmatch(str(cause.get("message"))):
            return int(str(cause["message"]))
    return None
