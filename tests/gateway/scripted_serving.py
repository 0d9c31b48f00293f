"""A serving adapter with scripted engines: real processes behind the real port, configured by a folder.

`<folder>/<model>.json` says how the model's next engine is started: {"arguments": […], "capacity": N}; a model without
one is unknown. With {"replicas": [URL, …]} it is served by engines that run already. Each start is noted as a line of
`<folder>/starts`: who ends the engines finds them there, even when the platform was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmariner.errors import ModelNotFound
from llmariner.http_client import Client
from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving.engine_metrics import EngineMetrics, read_metrics

__all__ = ["ScriptedServing"]

_PROGRAM = Path(__file__).parents[1] / "engines" / "scripted.py"
_METRICS_SECONDS = 0.5


@dataclass
class _Engine:
    """One engine process from its request to its end."""

    name: str
    capacity: int
    estimate: float
    began: float
    endpoint: str = ""
    phase: Phase = Phase.STARTING
    metrics: EngineMetrics = field(default_factory=EngineMetrics)

    def status(self) -> Status:
        ready, passed = self.phase is Phase.READY, time.monotonic() - self.began
        return Status(
            phase=self.phase,
            progress=1.0 if ready else round(min(0.97, passed / self.estimate), 3),
            estimate_seconds=0.0 if ready else round(max(0.1, self.estimate - passed), 2),
            endpoint=self.endpoint if ready else None,
            capacity=self.capacity if ready else 0,
            requests_running=self.metrics.running,
            requests_waiting=self.metrics.waiting,
            generation_tokens=self.metrics.generation_tokens,
        )


def _several(replicas: list[str]) -> Status:
    capacity = 64 * len(replicas)
    return Status(Phase.READY, 1.0, 0.0, endpoint=replicas[0], capacity=capacity, replicas=tuple(replicas))


class ScriptedServing:
    """See `platform.serving.Serving`: one task per engine starts it, watches it and ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client = Client()
        self._engines: dict[str, _Engine] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, str] = {}
        self._observers: list[Callable[[str, Status], None]] = []

    async def status(self, model_id: str) -> Status:
        if replicas := self._script(model_id).get("replicas"):
            return _several(replicas)
        engine = self._engines.get(model_id)
        if engine is not None:
            return engine.status()
        failure = self._failures.get(model_id)
        return Status(Phase.FAILED, message=failure) if failure else Status()

    async def statuses(self) -> dict[str, Status]:
        return {name: engine.status() for name, engine in self._engines.items()}

    async def wake(self, model_id: str) -> None:
        script = self._script(model_id)
        if model_id not in self._tasks:
            arguments = script["arguments"]
            after = float(arguments[arguments.index("--ready-after") + 1]) if "--ready-after" in arguments else 0
            engine = _Engine(model_id, script["capacity"], after + 0.5, time.monotonic())
            self._engines[model_id] = engine
            self._tasks[model_id] = asyncio.create_task(self._live(engine, arguments))

    async def sleep(self, model_id: str) -> None:
        self._script(model_id)
        if task := self._tasks.get(model_id):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def remove(self, model_id: str, folder: str) -> None:
        await self.sleep(model_id)

    async def import_existing(self, service: str) -> None:
        """There is no cluster."""

    async def reconcile(self) -> None:
        """Engines are the test's."""

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        self._observers.append(observer)

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.sleep(name)
        self._client.close()

    def _script(self, model_id: str) -> dict[str, Any]:
        try:
            script: dict[str, Any] = json.loads((self._folder / f"{model_id}.json").read_text())
        except FileNotFoundError:
            raise ModelNotFound(model_id) from None
        return script

    async def _live(self, engine: _Engine, arguments: list[str]) -> None:
        port = _free_port()
        engine.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(_PROGRAM), "--port", str(port), *arguments]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        with (self._folder / "starts").open("a") as starts:
            starts.write(json.dumps({"model": engine.name, "pid": process.pid, "port": port}) + "\n")
        self._failures.pop(engine.name, None)
        self._tell(engine)
        try:
            await self._tend(engine, process)
            assert process.stderr is not None
            words = (await process.stderr.read()).decode().strip()
            self._failures[engine.name] = f"The engine ended. {words}".strip()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            del self._engines[engine.name], self._tasks[engine.name]
            status = await self.status(engine.name)
            for observer in self._observers:
                observer(engine.name, status)

    async def _tend(self, engine: _Engine, process: asyncio.subprocess.Process) -> None:
        """Until the process ends: check its readiness, then its counters."""
        looked = 0.0
        while process.returncode is None:
            if engine.phase is Phase.STARTING and await self._answers(engine.endpoint):
                engine.phase = Phase.READY
                self._tell(engine)
            elif engine.phase is Phase.READY and time.monotonic() - looked > _METRICS_SECONDS:
                engine.metrics = await read_metrics(self._client, engine.endpoint) or engine.metrics
                looked = time.monotonic()
            await asyncio.sleep(0.02)

    async def _answers(self, endpoint: str) -> bool:
        try:
            response = await self._client.request(endpoint, "GET", "/health")
            await response.read()
        except Exception:  # not listening yet, whatever way that shows
            return False
        return response.status == 200

    def _tell(self, engine: _Engine) -> None:
        for observer in self._observers:
            observer(engine.name, engine.status())


def _free_port() -> int:
    """Below the ephemeral ports: the engine does not listen on it at once."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
