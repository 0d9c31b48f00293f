"""Seconds from a request for a sleeping model to its answer, beside a plain start of the same engine by hand.

The wake is asked of a running platform, as any caller would. The plain start is what one would do without a
platform: `vllm serve` with the same arguments, then the same request. Both on this machine, taking turns.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.command_line import engine_arguments, engine_environment

from ..children import free_port, running
from ..environments import UnavailableError
from ..target import CHAT, MESSAGES, Started, Target

MARK = b"LLMARINER_ENGINES_OF="
SLEEP_SECONDS = 60
WAKE_SECONDS = 600
FOLDER = re.compile(r"'model(?:_tag)?': '([^']+)'")


@dataclass(frozen=True)
class Service:
    """An HTTP server that is spoken to with one key."""

    address: str
    headers: Mapping[str, str]

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A JSON answer. UnavailableError for any other status than 200."""
        return self.send(method, path, None if body is None else json.dumps(body).encode(), "application/json")

    def send(self, method: str, path: str, body: bytes | None, content_type: str) -> dict[str, Any]:
        """A JSON answer to a body of any type. UnavailableError for any other status than 200."""
        connection = http.client.HTTPConnection(self.address, timeout=WAKE_SECONDS)
        try:
            connection.request(method, path, body, {"content-type": content_type, **self.headers})
            answer = connection.getresponse()
            text = answer.read()
        except OSError as error:
            raise UnavailableError(f"{self.address}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise UnavailableError(f"{method} {path}: {answer.status} {text[:200].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(text)
        return found

    def answer(self, model: str) -> None:
        """One token of the model."""
        self.call("POST", CHAT, {"model": model, "messages": MESSAGES, "max_tokens": 1, "temperature": 0})


def running_platform() -> Service:
    """The running platform of the environment. UnavailableError when none is named."""
    url, key = os.environ.get("LLMARINER_URL"), os.environ.get("LLMARINER_API_KEY")
    if not url or not key:
        raise UnavailableError("no running platform: LLMARINER_URL and LLMARINER_API_KEY are not set")
    headers = {"authorization": f"Bearer {key}", "prefer": f"wait={WAKE_SECONDS}"}
    return Service(urlsplit(url).netloc, headers)


def chosen_model(service: Service) -> str:
    """LLMARINER_BENCH_MODEL, or the first listed model that generates."""
    if name := os.environ.get("LLMARINER_BENCH_MODEL"):
        return name
    for row in service.call("GET", "/v1/models")["data"]:
        if row["task"] == "generate":
            return str(row["id"])
    raise UnavailableError("the platform lists no model that chats")


def put_to_sleep(service: Service, model: str) -> None:
    path = f"/v1/models/{quote(model, safe='')}"
    service.call("POST", f"{path}:deactivate", {})
    deadline = time.monotonic() + SLEEP_SECONDS
    while (phase := (service.call("GET", path).get("serving") or {}).get("phase")) != "asleep":
        if time.monotonic() > deadline:
            raise UnavailableError(f"{model} was deactivated and is '{phase}' {SLEEP_SECONDS} s later, not asleep")
        time.sleep(0.2)


def wake(service: Service, model: str) -> float:
    put_to_sleep(service, model)
    begun = time.monotonic()
    service.answer(model)
    return time.monotonic() - begun


def plain_start(engine: Target, folder: Path, model: str) -> float:
    """From `exec` to the first token."""
    begun = time.monotonic()
    with running(engine, folder, seconds=WAKE_SECONDS) as started:
        _until_healthy(started)
        Service(f"127.0.0.1:{engine.port}", {}).answer(model)
        return time.monotonic() - begun


def _until_healthy(started: Started) -> None:
    service = Service(f"127.0.0.1:{started.port}", {})
    while True:
        try:
            service.call("GET", "/v1/models")
            return
        except UnavailableError:
            time.sleep(0.1)


def plain_engine(model: str) -> Target:
    """The command by which a person would start the engine that the platform runs for this model."""
    for python, logs in _launchers():
        for log in logs.rglob("*.log"):
            text = log.read_text(errors="replace")
            if (found := FOLDER.findall(text)) and f"'{model}'" in text:
                port = free_port()
                arguments = engine_arguments(EngineModel(model, found[-1], "generate", 0), port)
                return Target("plain engine", [str(python.with_name("vllm")), *arguments], port, engine_environment(0))
    raise UnavailableError(f"no engine log on this machine tells where {model} lies")


def _launchers() -> Iterator[tuple[Path, Path]]:
    """Interpreter and log folder of each process here that starts engines."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marks = [part for part in (process / "environ").read_bytes().split(b"\0") if part.startswith(MARK)]
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if marks:
            yield Path(command[0].decode()), Path(marks[0].removeprefix(MARK).decode())


@contextmanager
def left_as_found(service: Service, model: str) -> Iterator[None]:
    """Activate the model again afterwards when it was active."""
    path = f"/v1/models/{quote(model, safe='')}"
    active = service.call("GET", path)["activation_status"] == "ACTIVATION_STATUS_ACTIVE"
    try:
        yield
    finally:
        if active:
            service.call("POST", f"{path}:activate", {})
