"""A small steady load, and what became of each of its requests."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..asking import Asking

__all__ = ["Fate", "Load"]


@dataclass(frozen=True)
class Fate:
    """`how`: whole, error (an event or a status that says what was wrong) or cut (nobody said anything)."""

    how: str
    status: int
    said: str
    at: float
    took: float


class Load(threading.Thread):
    """Asks a model again and again, one stream after another, each of some seconds."""

    def __init__(self, asking: Asking, model: str, *, tokens: int = 40, pause: float = 0.3) -> None:
        super().__init__(daemon=True)
        self.asking, self.model, self.tokens, self.pause = asking, model, tokens, pause
        self.fates: list[Fate] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            began = time.time()
            how, status, said = self._ask()
            self.fates.append(Fate(how, status, said, began, time.time() - began))
            self.over.wait(self.pause)

    def stop(self) -> None:
        self.over.set()
        self.join(300)

    def counted(self) -> Counter[tuple[str, int, str]]:
        return Counter((fate.how, fate.status, fate.said) for fate in self.fates)

    def _ask(self) -> tuple[str, int, str]:
        status = 0
        try:
            connection = self.asking.send(self.model, wait=120, max_tokens=self.tokens, stream=True)
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
