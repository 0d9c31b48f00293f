"""The control plane as an agent sees it: one route, by outbound HTTPS, through a proxy where the environment names one.

The standard library's client is enough for a request every few seconds, and knows `HTTPS_PROXY` and `NO_PROXY`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from llmariner.agent_settings import AgentSettings

__all__ = ["ControlPlane", "NotReached", "Refused"]

_TIMEOUT_SECONDS = 20.0
_MAX_ANSWER_BYTES = 1024 * 1024


class NotReached(Exception):
    """The control plane can't be reached, or its answer can't be read. A later attempt may succeed."""


class Refused(Exception):
    """The control plane refuses a request. `status` 401: the registration key is not valid (any more)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the registration key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ControlPlane:
    """For one thread at a time. Raises ValueError for certificates that can't be loaded."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self.url = settings.control_plane
        https = urllib.request.HTTPSHandler(context=settings.tls())
        self._opener = urllib.request.build_opener(https, _NoRedirects())

    def report(self, heartbeat: dict[str, Any]) -> dict[str, Any]:
        """Send a heartbeat; returns the answer. Raises NotReached, Refused."""
        try:
            key = self._settings.registration_key()
        except (OSError, ValueError) as error:
            raise NotReached(f"The registration key can't be read: {error}") from error
        if not key.isascii() or not key.isprintable():
            raise NotReached("The file of the registration key holds something else.")
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        url = f"{self._settings.control_plane}/v1/clusters/agent/heartbeats"
        request = urllib.request.Request(url, json.dumps(heartbeat).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                answer = json.loads(response.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _message(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise NotReached(f"The control plane at {self._settings.control_plane} is not reached: {error}") from error
        if not isinstance(answer, dict):
            raise NotReached("The control plane's answer is no JSON object.")
        return answer


def _message(error: urllib.error.HTTPError) -> str:
    try:
        said = json.loads(error.read(_MAX_ANSWER_BYTES))["error"]["message"]
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        said = ""
    return str(said or error.reason)[:1000]
