"""Requests to tracking servers over HTTP/1.1: bounded in time and bytes; redirects are not followed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from llmariner.platform.bounded_http import bounded_connection, read_whole
from llmariner.platform.trackers import Credential, TrackingRefused, TrackingUnavailable

__all__ = ["Server", "basic"]

_ANSWER_SECONDS = 10.0
_UPLOAD_SECONDS = 40.0
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_WAIT_SECONDS = 3600.0
_LATER = frozenset({408, 425, 429})
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True)
class _Answer:
    status: int
    retry_after: float
    body: bytes


class Server:
    """One server. `name`: the word for it in messages. `authorization`: the header; None: the server wants none.

    `seconds`: how long an answer may take.
    """

    def __init__(self, name: str, url: str, authorization: str | None, *, seconds: float = _ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self._url = urlsplit(url)
        self._headers = {"user-agent": "llmariner", **({"authorization": authorization} if authorization else {})}
        self._shown = f"{name} at {url}"

    def ask(self, method: str, path: str, body: Any = None, *, absent: frozenset[str] = frozenset()) -> Any:
        """The JSON of an answer. `absent`: codes of errors that mean that there is none: the result is None.

        Raises TrackingUnavailable, TrackingRefused.
        """
        data = None if body is None else json.dumps(body).encode()
        answer = self._send(method, path, data, {"content-type": "application/json"}, self._seconds)
        if answer.status // 100 != 2:
            document = _document(answer.body)
            if isinstance(document, dict) and document.get("error_code") in absent:
                return None
            raise self._failure(answer)
        document = _document(answer.body)
        if not isinstance(document, dict):
            raise TrackingUnavailable(f"{self._shown} answers something else than JSON")
        return document

    def put(self, path: str, size_bytes: int, parts: Iterable[bytes]) -> None:
        """Send a file. Raises as `ask`."""
        headers = {"content-type": "application/octet-stream", "content-length": str(size_bytes)}
        answer = self._send("PUT", path, parts, headers, _UPLOAD_SECONDS)
        if answer.status // 100 != 2:
            raise self._failure(answer)

    def refusal(self, message: str) -> TrackingRefused:
        """The error for an answer of another form, or with another error."""
        return TrackingRefused(f"{self._shown}: {_UNPRINTABLE.sub(' ', message)[:300]}")

    def _send(
        self, method: str, path: str, body: Iterable[bytes] | bytes | None, headers: dict[str, str], seconds: float
    ) -> _Answer:
        try:
            with bounded_connection(self._url, seconds) as connection:
                return self._exchange(connection, method, path, body, headers)
        except (OSError, HTTPException, ValueError) as error:
            raise TrackingUnavailable(
                f"{self._shown} does not answer: {str(error)[:200] or 'its time was over'}"
            ) from error

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Iterable[bytes] | bytes | None,
        headers: dict[str, str],
    ) -> _Answer:
        connection.request(method, self._url.path + path, body, {**self._headers, **headers})
        with connection.getresponse() as response:
            answer = read_whole(response, _MAX_ANSWER_BYTES)
            return _Answer(response.status, _seconds(response.getheader("retry-after")), answer)

    def _failure(self, answer: _Answer) -> TrackingRefused | TrackingUnavailable:
        status = answer.status
        if status in (401, 403):
            return TrackingUnavailable(f"{self._shown} refuses the project's credential ({status}): set another")
        if status in _LATER or status >= 500:
            return TrackingUnavailable(f"{self._shown} answers {status}", answer.retry_after)
        if status // 100 == 3:
            return TrackingRefused(f"{self._shown} redirects to another address, which is not followed")
        return self.refusal(f"it answers {status}: {_message(answer.body)}")


def basic(credential: Credential, default_username: str = "") -> str:
    """The header of RFC 7617."""
    pair = f"{credential.username or default_username}:{credential.secret.reveal()}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _message(body: bytes) -> str:
    document = _document(body)
    message = document.get("message") if isinstance(document, dict) else None
    errors = document.get("errors") if isinstance(document, dict) else None
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):  # GraphQL's
        message = errors[0].get("message")
    return message if isinstance(message, str) else body[:200].decode(errors="replace")


def _seconds(text: str | None) -> float:
    return min(_MAX_WAIT_SECONDS, float(text)) if text is not None and text.isascii() and text.isdigit() else 0.0
