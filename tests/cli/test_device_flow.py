"""Sign-in on another device (RFC 8628): polling intervals and deadlines for any response of an issuer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmariner.cli.sign_in.issuer import IssuerClient, OAuthError
from llmariner.cli.support.errors import CommandError


class _Answers(BaseHTTPRequestHandler):
    server: _Issuer

    def do_GET(self) -> None:
        base = self.server.url
        endpoints = {f"{name}_endpoint": f"{base}/{name}" for name in ("token", "device_authorization")}
        self._answer(200, {"issuer": base, **endpoints})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/device_authorization":
            self._answer(200, self.server.begun)
        else:
            self._answer(400, {"error": self.server.errors.pop(0) if self.server.errors else "access_denied"})

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _Issuer(ThreadingHTTPServer):
    begun: dict[str, Any]
    errors: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def issuer() -> Iterator[_Issuer]:
    server = _Issuer(("127.0.0.1", 0), _Answers)
    server.begun, server.errors = {"device_code": "d", "user_code": "u"}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited before each question; time itself does not pass."""
    found: list[float] = []
    monkeypatch.setattr("llmariner.cli.sign_in.issuer.time.sleep", found.append)
    return found


def sign_in(issuer: _Issuer) -> None:
    with IssuerClient(issuer.url, "llmariner", ["openid"]) as known:
        known.device_sign_in(lambda *_: None)


@pytest.mark.parametrize(
    ("said", "pause"),
    [(2, 2), (None, 5), (0, 5), (-1, 5), ("x", 5), (True, 5), (1e9, 60), (float("nan"), 5), (float("inf"), 60)],
)
def test_the_polling_interval_is_bounded(said: Any, pause: float, issuer: _Issuer, pauses: list[float]) -> None:
    issuer.begun["interval"] = said
    with pytest.raises(OAuthError, match="access_denied"):
        sign_in(issuer)
    assert pauses == [pause]


def test_polling_slows_down_when_the_issuer_requires_it(issuer: _Issuer, pauses: list[float]) -> None:
    issuer.errors = ["authorization_pending", "slow_down", "slow_down", "authorization_pending"]
    with pytest.raises(OAuthError):
        sign_in(issuer)
    assert pauses == [5, 5, 10, 15, 15]


@pytest.mark.parametrize("code", [None, 7, ["d"]])
def test_a_response_without_a_code_is_reported_as_the_issuers_error(
    code: Any, issuer: _Issuer, pauses: list[float]
) -> None:
    issuer.begun["device_code"] = code
    with pytest.raises(CommandError, match="device_code"):
        sign_in(issuer)
    assert pauses == []
