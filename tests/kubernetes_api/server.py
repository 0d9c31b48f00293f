"""A Kubernetes API server in the test process: HTTP around `api`, on a loopback port.

What it isn't: no admission webhooks, no RBAC beyond `forbid`, no quota, no controllers but owner references (in one step),
no conversion between versions of a kind, no defaults of core kinds but replicas, nothing graceful about a pod's end, no
protobuf (`kubectl create` speaks it for core kinds; `kubectl apply` doesn't). It is stricter in one thing: it refuses a
null where a real server drops it.
`test_contract.py` holds it to a real server where one is at hand.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from .api import Api, Request
from .kinds import core_kinds, custom_kinds
from .schemas import Schemas
from .status_errors import StatusError
from .store import Store

__all__ = ["ApiServer"]


class ApiServer:
    """`with ApiServer(schemas, crds) as server:`. Its objects live as long as it does, also while it is stopped.

    `token`: the bearer token that is asked of callers; None: none is. `certificate`: a PEM file with chain and key,
    for TLS.
    """

    def __init__(
        self, schemas: Schemas, crds: Path, *, token: str | None = None, certificate: Path | None = None
    ) -> None:
        self.token = token
        self.certificate = certificate
        self.store = Store(schemas)
        self.api = Api(self.store, [*core_kinds(), *custom_kinds(crds)])
        self.answered: list[tuple[str, str, str]] = []
        """Who asked (user agent), method and path of every request."""
        self._port = 0
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; at the same port as before."""
        self._http = _Http(("127.0.0.1", self._port), self)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Break every connection off and refuse new ones."""
        if self._http:
            self._http.shutdown()
            self._http.break_off()
            self._http.server_close()
            self._http = None

    def expire(self) -> None:
        """Forget the history, as a real server does after some minutes: running watches end with 410."""
        self.store.expire()

    def forbid(self, *rights: str) -> None:
        """Refuse these from now on: `patch inferenceservices`."""
        self.api.forbidden |= set(rights)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for it; returns the path."""
        cluster = {"server": self.url, **({"certificate-authority": str(self.certificate)} if self.certificate else {})}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token} if self.token else {}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    # More than five connections may arrive at once.
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], server: ApiServer) -> None:
        super().__init__(address, _Handler)
        self.owner = server
        self._open: set[socket.socket] = set()
        if server.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(server.certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        """End every connection, idle or not."""
        for each in list(self._open):
            # Closing alone would leave the thread that reads from it waiting.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self.shutdown_request(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client's disconnect is not an error of the test; an internal error was a 500."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One write per answer: else two packets, and the second waits 40 ms for the first's acknowledgment.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        """Every method alike."""
        owner = self.server.owner
        try:
            code, answer = self._answer(owner)
        except StatusError as refusal:
            code, answer = refusal.code, refusal.status()
        except Exception as error:
            code, answer = 500, StatusError(500, "InternalError", f"Internal error occurred: {error!r}").status()
        if isinstance(answer, dict):
            self._send(code, answer)
        else:
            self._stream(answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names that http.server calls

    def _answer(self, owner: ApiServer) -> tuple[int, dict[str, Any] | Iterator[bytes]]:
        body = self._body()
        if owner.token is not None and self.headers.get("authorization", "").lower() != f"bearer {owner.token}".lower():
            raise StatusError(401, "Unauthorized", "Unauthorized")
        asked = urlsplit(self.path)
        request = Request(
            self.command,
            asked.path.rstrip("/"),
            dict(parse_qsl(asked.query, keep_blank_values=True)),
            body,
            self.headers.get("content-type", "application/json").partition(";")[0],
            self.headers.get("user-agent", "unknown"),
        )
        owner.answered.append((self.headers.get("user-agent", "unknown"), self.command, asked.path))
        return owner.api.answer(request)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, code: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def _stream(self, lines: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for line in lines:
            if line:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
            elif self._gone():
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _gone(self) -> bool:
        """Whether the caller has closed the connection."""
        try:
            self.connection.setblocking(False)
            return not self.connection.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            if self.connection.fileno() >= 0:
                self.connection.setblocking(True)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
