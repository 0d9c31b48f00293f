"""The loopback redirect of a sign-in: an HTTP server on a random port for one response (RFC 8252, 7.3)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import Template
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["CallbackServer"]

_PATH = "/callback"
# Removes the authorization code from the address bar, although PKCE makes it useless to others.
_SCRIPT = 'history.replaceState(null, "", "/")'
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"
)
_PAGE_TEMPLATE = Template(f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<script>{_SCRIPT}</script>
<style>
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; font: 1.1rem/1.5 system-ui, sans-serif;
    background: Canvas; color: CanvasText }}
  main {{ box-sizing: border-box; width: min(30rem, 100vw - 2rem); padding: 2.5rem; border-radius: 1rem; text-align: center;
    background: color-mix(in srgb, CanvasText 5%, Canvas) }}
  .mark {{ width: 4rem; height: 4rem; margin: 0 auto; border-radius: 50%; font-size: 2.2rem; line-height: 4rem;
    color: #fff }}
  .yes {{ background: #1a7f37 }}
  .no {{ background: #b42318 }}
  h1 {{ margin: 1.2rem 0 .4rem; font-size: 1.6rem; line-height: 1.2 }}
  p {{ margin: .4rem 0; overflow-wrap: anywhere }}
  code {{ font-size: .95em; white-space: nowrap }}
</style>
<main>
  <div class="mark $kind" aria-hidden="true">$mark</div>
  <h1>$title</h1>
  $text
</main>
""")


def _page(title: str, *paragraphs: str, done: bool = False) -> str:
    kind, mark = ("yes", "✓") if done else ("no", "✕")
    return _PAGE_TEMPLATE.substitute(
        title=title, kind=kind, mark=mark, text="\n  ".join(f"<p>{each}</p>" for each in paragraphs)
    )


_RETRY_HINT = "<code>llma auth login</code> tries again."
_FAILURE_PAGE = _page("You are not signed in", "The terminal says why.", _RETRY_HINT)
_UNEXPECTED_PAGE = _page("Nobody waits for this", f"It belongs to a sign-in that has ended. {_RETRY_HINT}")


class CallbackServer:
    """Accepts the one redirect with the expected `state`; answers 404 to all other requests.

    It answers the browser after `show_success`, or with a failure page when the block ends without. Requests run in
    threads.
    """

    def __init__(self, state: str) -> None:
        self._state = state
        self._answer: dict[str, str] = {}
        self._received, self._finished = threading.Event(), threading.Event()
        self._page = _FAILURE_PAGE
        handler = type("Handler", (_Handler,), {"callback": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        # Closing waits for the handlers, so that the page is sent; their timeout ends idle connections of the browser.
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> CallbackServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def redirect_uri(self) -> str:
        """The redirect URI of the authorization request."""
        return f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def wait(self, seconds: float) -> dict[str, str] | None:
        """The query of the redirect; None after `seconds` without one."""
        return self._answer if self._received.wait(seconds) else None

    def show_success(self, user: str) -> None:
        """Let the browser show that this user is signed in."""
        self._page = _page("You are signed in", f"as {html.escape(user)}", "Go back to the terminal.", done=True)
        self._finished.set()

    def handle(self, target: str) -> tuple[int, str]:
        """Status and page for a request; blocks until the sign-in ends. Only the first redirect counts."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if parts.path != _PATH or not hmac.compare_digest(query.get("state", "").encode(), self._state.encode()):
            return 404, _UNEXPECTED_PAGE
        if not self._received.is_set():
            self._answer = query
            self._received.set()
        self._finished.wait()
        return 200, self._page


class _Handler(BaseHTTPRequestHandler):
    callback: CallbackServer
    timeout = 2

    def do_GET(self) -> None:
        status, page = self.callback.handle(self.path)
        body = page.encode(errors="replace")
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", _CONTENT_SECURITY_POLICY)
        self.send_header("cache-control", "no-store")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the command's output."""
