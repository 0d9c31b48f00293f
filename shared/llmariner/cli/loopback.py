"""Where the browser comes back to after a sign-in: a random port of this machine, for one answer (RFC 8252, 7.3)."""

from __future__ import annotations

import hmac
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["Callback"]

_PATH = "/callback"
_PAGE = """<!doctype html><meta charset="utf-8"><title>llma</title>
<body style="font: 1.2em system-ui; margin: 20vh auto; max-width: 30em"><h1>{title}</h1><p>{text}</p>"""
_DONE = _PAGE.format(title="You are signed in", text="Go back to the terminal; this page has done its work.")
_FAILED = _PAGE.format(title="You are not signed in", text="The terminal says why.")
_STRANGE = _PAGE.format(title="Not what was waited for", text="Run <code>llma auth login</code> again.")


class Callback:
    """Listens for the one redirect that bears `state`; all else is told that nobody waits for it."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._answer: dict[str, str] = {}
        self._answered = threading.Event()
        handler = type("Handler", (_Handler,), {"callback": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        # The page is sent before we go; a browser also opens connections that it never uses, so none is waited for long.
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Callback:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def redirect_uri(self) -> str:
        """Where the issuer sends the browser."""
        return f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def wait(self, seconds: float) -> dict[str, str] | None:
        """The query of the redirect; None when none came in time."""
        return self._answer if self._answered.wait(seconds) else None

    def take(self, target: str) -> tuple[int, str]:
        """Status and page for a request. A second answer changes nothing."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if parts.path != _PATH or not hmac.compare_digest(query.get("state", "").encode(), self._state.encode()):
            return 404, _STRANGE
        if not self._answered.is_set():
            self._answer = query
            self._answered.set()
        return 200, _FAILED if "error" in self._answer else _DONE


class _Handler(BaseHTTPRequestHandler):
    callback: Callback
    timeout = 2

    def do_GET(self) -> None:
        status, page = self.callback.take(self.path)
        body = page.encode()
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        # The address holds a code: it is to stay in no history and go to no other page.
        self.send_header("cache-control", "no-store")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is the person's."""
