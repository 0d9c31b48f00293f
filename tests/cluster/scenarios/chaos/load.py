"""A small steady load, and what became of each of its requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...platform.installed import Installed
from ..platform_client import PlatformClient

__all__ = ["Load", "RequestOutcome", "TokenCounter"]

_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class RequestOutcome:
    """`how`: whole, error (an event or a status with a cause) or cut (no message)."""

    how: str
    status: int
    said: str
    at: float
    took: float


class TokenCounter(threading.Thread):
    """The tokens that a model's engines say they made. One that goes to sleep takes its counter with it: looked at often."""

    def __init__(self, client: PlatformClient, model: str, place: Installed | None = None) -> None:
        """`place`: the cluster whose engines they are, if not that of the platform."""
        super().__init__(daemon=True)
        self._client, self._model = client, model
        self._place = place or client.installed
        self._by_engine: dict[str, int] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with contextlib.suppress(OSError):  # an engine that just ended; what it said last stands
                self._look()

    def stop(self) -> int:
        """The sum over all engines that there were."""
        self._over.set()
        self.join(60)
        self._look()
        print(f"\n{len(self._by_engine)} engines of {self._model} made {self._by_engine}")
        return sum(self._by_engine.values())

    def _look(self) -> None:
        for pod in self._place.engine_pods(self._model):
            made = self._client.counted_by(pod)
            key = str(pod["metadata"]["name"])
            self._by_engine[key] = max(made, self._by_engine.get(key, 0))


class Load(threading.Thread):
    """Asks a model again and again, one stream after another, each of some seconds."""

    def __init__(self, client: PlatformClient, model: str, *, tokens: int = 40, pause: float = 0.3) -> None:
        super().__init__(daemon=True)
        self.client, self.model, self.tokens, self.pause = client, model, tokens, pause
        self.fates: list[RequestOutcome] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            began = time.time()
            how, status, said = self._ask()
            self.fates.append(RequestOutcome(how, status, said, began, time.time() - began))
            self.over.wait(self.pause)

    def stop(self) -> None:
        self.over.set()
        self.join(300)

    def counted(self) -> Counter[tuple[str, int, str]]:
        return Counter((fate.how, fate.status, fate.said) for fate in self.fates)

    def _ask(self) -> tuple[str, int, str]:
        status = 0
        try:
            connection = self.client.send(self.model, wait=120, max_tokens=self.tokens, stream=True)
            response = connection.getresponse()
            status, raw = response.status, response.read()
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            return "cut", status, type(error).__name__
        return _fate(status, raw)


def _fate(status: int, raw: bytes) -> tuple[str, int, str]:
    if status != 200:
        return "error", status, _code(raw)
    if raw.rstrip().endswith(b"data: [DONE]"):
        return "whole", status, ""
    last = raw.rstrip().rpartition(b"\n")[2]
    if last.startswith(b'data: {"error"'):
        return "error", status, _code(last.removeprefix(b"data: "))
    return "cut", status, "the stream ended early"


def _code(raw: bytes) -> str:
    try:
        error: dict[str, Any] = json.loads(raw)["error"]
    except (ValueError, KeyError, TypeError):
        return raw[:60].decode(errors="replace")
    return str(error.get("code"))
