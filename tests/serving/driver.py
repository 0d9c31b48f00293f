"""Drives a serving adapter in an event loop of its own from synchronous tests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from llmariner.errors import ModelNotFound
from llmariner.http_client import Client
from llmariner.platform.capacity import QuotaRule
from llmariner.platform.serving import EngineModel, Phase, Serving, Status
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.settings import ProcessSettings

__all__ = ["ServingDriver", "processes"]

T = TypeVar("T")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


class ServingDriver:
    """Calls an adapter; its event loop runs only during a call."""

    def __init__(self, runner: asyncio.Runner, serving: Serving) -> None:
        self.runner = runner
        self.timeout_seconds = 20.0
        self.serving = serving
        self.client = Client()
        self.phases: list[tuple[str, Phase]] = []
        self.registered: dict[str, EngineModel] = {}
        """The models that the process adapter finds; tests may change it."""
        serving.subscribe(self._record_phase)

    def _record_phase(self, model: str, status: Status) -> None:
        if self.phases[-1:] != [(model, status.phase)]:
            self.phases.append((model, status.phase))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def wake(self, model: str) -> None:
        self.run(self.serving.wake(model))

    def sleep(self, model: str) -> None:
        self.run(self.serving.sleep(model))

    def status(self, model: str) -> Status:
        return self.run(self.serving.status(model))

    def run_loop_for(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def wait_until(self, condition: Callable[[Status], object], model: str, *, seconds: float | None = None) -> Status:
        """How the model is when the condition is true."""
        limit = self.timeout_seconds if seconds is None else seconds

        async def poll() -> Status:
            deadline = time.monotonic() + limit
            while not condition(status := await self.serving.status(model)):
                assert time.monotonic() < deadline, f"after {limit} s: {status}"
                await asyncio.sleep(0.02)
            return status

        return self.run(poll())

    def ready(self, model: str) -> Status:
        """Wake a model and wait until it is ready."""
        self.wake(model)

        def condition(status: Status) -> bool:
            assert status.phase is not Phase.FAILED, status.message
            return status.phase is Phase.READY

        return self.wait_until(condition, model)

    def ask(self, endpoint: str | None, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to an engine; returns the JSON response."""
        assert endpoint is not None
        found: dict[str, Any] = json.loads(self.run(self._request(endpoint, path, body)))
        return found

    def chat(self, model: str, endpoint: str | None, **fields: Any) -> str:
        answer = self.ask(endpoint, "/v1/chat/completions", {"model": model, **CHAT, **fields})
        return str(answer["choices"][0]["message"]["content"])

    async def _request(self, endpoint: str, path: str, body: dict[str, Any] | None) -> bytes:
        method, raw = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
        headers = [(b"content-type", b"application/json")]
        response = await self.client.request(endpoint, method, path, headers=headers, body=raw)
        data = await response.read()
        assert response.status == 200, data
        return data


@contextmanager
def processes(
    settings: ProcessSettings,
    *models: EngineModel,
    wakes: list[float] | None = None,
    quota_rules: Callable[[str], Sequence[QuotaRule]] = lambda _: (),
) -> Iterator[tuple[ServingDriver, ProcessServing]]:
    """Yield the process adapter with these models; its engines are stopped at exit."""
    known = {model.id: model for model in models}

    async def find(model_id: str) -> EngineModel:
        if model_id not in known:
            raise ModelNotFound(model_id)
        return known[model_id]

    async def record_wake(_: str, seconds: float) -> None:
        if wakes is not None:
            wakes.append(seconds)

    with asyncio.Runner() as runner:

        async def make() -> ProcessServing:
            return ProcessServing(settings, find, record_wake, quota_rules)

        serving = runner.run(make())
        driver = ServingDriver(runner, serving)
        driver.registered = known
        try:
            yield driver, serving
        finally:
            driver.client.close()
            runner.run(serving.close())
