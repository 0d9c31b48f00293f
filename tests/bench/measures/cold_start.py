"""From `exec` to the first answered request: what a caller waits for when a function had scaled to zero.

Wall time as the caller sees it, CPU time of the whole process tree. The image pull, the scheduler and the network of
a cluster come on top and are not ours.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..children import StartError, last_words, spawn, stop
from ..process_cost import cpu_seconds
from ..target import Target

SECONDS = 60


@dataclass(frozen=True)
class Question:
    """The first request. A refusal is an answer too, unless only success will do; a failure (5xx) never is."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    must_succeed: bool = False


@dataclass(frozen=True)
class Start:
    """Milliseconds."""

    wall: float
    cpu: float


def measure(target: Target, question: Question, folder: Path) -> Start:
    log = folder / f"cold-{target.name}.log"
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=SECONDS)
    begun = time.perf_counter()
    process = spawn(target.command, target.environment, log)
    try:
        while not _connected(connection):
            if process.poll() is not None or time.perf_counter() - begun > SECONDS:
                raise StartError(last_words(process, log))
            time.sleep(0.001)
        connection.request(question.method, question.path, question.body, dict(question.headers))
        answer = connection.getresponse()
        raw = answer.read()
        start = Start(1000 * (time.perf_counter() - begun), 1000 * cpu_seconds(process.pid))
    finally:
        connection.close()
        stop(process)
    if answer.status >= (300 if question.must_succeed else 500):
        raise StartError(f"{target.name} answered {answer.status}: {raw[:200].decode(errors='replace')}")
    return start


def _connected(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    return True
