"""A client of the platform's own token path, for work that continues without its caller.

Usage, limits and budgets of each call count to the originator of the work.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import orjson

from llmariner.inference_settings import InferenceSettings
from llmariner.tenancy.background_work import TOKEN_SECONDS, BackgroundTokens, Originator

__all__ = ["InferenceClient", "InferenceFailed", "InferencePaused", "InferenceRefused"]

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_TOKENS_CACHED = 1000
_CONNECT_SECONDS = 5.0
# Beyond the wait for the model, for the engine's work.
_WORK_SECONDS = 30.0
_RETRY_SECONDS = 30.0


class InferencePaused(Exception):
    """The call may succeed later: a limit or budget is spent, or the model or a part of the platform is not ready.

    `code`: as in the error of the token path. `retry_after`: seconds. The message is for people.
    """

    def __init__(self, message: str, *, code: str, retry_after: float = _RETRY_SECONDS) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after = retry_after


class InferenceRefused(Exception):
    """The token path refuses the call, and would refuse it again. The message is for people."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class InferenceFailed(Exception):
    """The engine failed, or its answer is not usable. A few repetitions may help."""


class InferenceClient:
    """Calls functions of the token path. Blocks; safe in any thread."""

    def __init__(self, settings: InferenceSettings, tokens: BackgroundTokens) -> None:
        self._url = settings.url
        self._tokens = tokens
        self._issued: OrderedDict[Originator, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def call(
        self,
        path: str,
        originator: Originator,
        body: Mapping[str, Any],
        *,
        wait_seconds: float,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """The answer of `POST /v1/<path>` on behalf of an originator.

        `wait_seconds`: how long to wait for a sleeping model. `deadline`: of `time.monotonic()`, for wait and answer; None:
        the wait and the engine's work determine it. Raises InferencePaused, InferenceRefused, InferenceFailed.
        """
        if not self._url:
            raise InferencePaused(
                "The platform does not know the address of its token path: set LLMARINER_INFERENCE_URL.",
                code="not_configured",
                retry_after=300,
            )
        seconds = wait_seconds + _WORK_SECONDS
        if deadline is not None:
            seconds = min(seconds, deadline - time.monotonic())
            if seconds <= 0:
                raise InferencePaused("The token path did not answer in time.", code="service_unavailable")
            wait_seconds = min(wait_seconds, seconds)
        target = urlsplit(self._url.replace("{function}", path.replace("/", "-")))
        headers = {
            "authorization": f"Bearer {self._token(originator)}",
            "content-type": "application/json",
            "prefer": f"wait={wait_seconds:.0f}",
        }
        try:
            status, answered, answer = _post(
                target.hostname or "", target.port, f"/v1/{path}", headers, orjson.dumps(body), seconds
            )
        except (OSError, HTTPException) as error:
            raise InferencePaused(f"The token path does not answer: {error}.", code="service_unavailable") from error
        return _answer(status, answered, answer)

    def _token(self, originator: Originator) -> str:
        """A token that is valid for at least half its lifetime. Gateway instances cache its look-up."""
        now = time.time()
        with self._lock:
            token, issued_at = self._issued.get(originator, ("", 0.0))
            # A token issued in the future was signed before the clock was set back, and would be rejected.
            if not issued_at <= now <= issued_at + TOKEN_SECONDS / 2:
                token = self._tokens.issue(originator)
                self._issued[originator] = (token, now)
                if len(self._issued) > _MAX_TOKENS_CACHED:
                    self._issued.popitem(last=False)
            return token


def _post(
    host: str, port: int | None, path: str, headers: dict[str, str], body: bytes, seconds: float
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers (names in lower case) and body. OSError or HTTPException without a whole response in time."""
    connection = HTTPConnection(host, port, timeout=min(_CONNECT_SECONDS, seconds))
    connection.connect()
    connection.sock.settimeout(seconds)
    # A timeout of the socket counts from byte to byte, so a slow answer could take forever.
    timer = threading.Timer(seconds, _abort, [connection.sock])
    timer.start()
    try:
        connection.request("POST", path, body, headers)
        with connection.getresponse() as response:
            answer = response.read(_MAX_ANSWER_BYTES + 1)
            if len(answer) > _MAX_ANSWER_BYTES:
                raise HTTPException("its answer is too large")
            return response.status, {name.lower(): value for name, value in response.getheaders()}, answer
    finally:
        timer.cancel()
        connection.close()


def _abort(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


def _answer(status: int, headers: Mapping[str, str], text: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InferenceFailed(f"The token path answered {status} without JSON.") from error
    if status == 200 and isinstance(answer, dict):
        return answer
    reported = answer.get("error") if isinstance(answer, dict) else None
    fields = reported if isinstance(reported, dict) else {}
    message, code = str(fields.get("message") or f"The token path answered {status}."), fields.get("code")
    if status in (408, 409, 429, 503, 504):
        raise InferencePaused(
            message, code=str(code or "unavailable"), retry_after=_seconds(headers.get("retry-after"))
        )
    if 400 <= status < 500:
        raise InferenceRefused(message, status=status, code=None if code is None else str(code))
    raise InferenceFailed(message)


def _seconds(retry_after: str | None) -> float:
    """The value of a Retry-After header, between a second and an hour."""
    return min(max(float(retry_after), 1.0), 3600.0) if retry_after and retry_after.isdigit() else _RETRY_SECONDS
