"""Serving adapter for one machine: an engine per base model, forked from a warm parent, within a memory budget.

Who may change what: each engine has one task that starts it, tends it and ends it; `wake` and `sleep` only wish. To make
room, the engine longest without a request is ended, if nothing is in flight in it. An engine that dies is not started
again by itself: the next request starts it, after a pause that doubles with every death in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from llmariner.errors import ModelNotFound
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.platform.serving import EngineModel, Phase, Status, served_name
from llmariner.platform.serving.engine_metrics import TIMEOUT_SECONDS, read_metrics
from llmariner.platform.serving.local_processes import memory
from llmariner.platform.serving.local_processes.command_line import memory_needed
from llmariner.platform.serving.local_processes.engine import Engine, EngineDied, log_name
from llmariner.platform.serving.local_processes.launcher_client import Launcher, LauncherGone
from llmariner.platform.serving.local_processes.sockets import EngineSockets
from llmariner.platform.serving.log_files import rotate
from llmariner.platform.serving.redaction import redact_paths

__all__ = ["ProcessServing", "ProcessSettings"]

_log = logging.getLogger(__name__)
_TEND = 2.0
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 120.0
_KEEP_FREE = 0.75


@dataclass(frozen=True)
class ProcessSettings:
    """Where engines run and what they may take. `budget` in bytes, 0: three quarters of what is free at start;
    `idle_seconds` until a model sleeps, 0: never; `warm`: keep a warm parent to fork from;
    `patience_seconds`: how long an engine may leave its metrics unanswered."""

    python: Path
    logs: Path
    environment: dict[str, str]
    budget: int = 0
    idle_seconds: float = 300.0
    warm: bool = True
    patience_seconds: float = 120.0


class _Failure(NamedTuple):
    """Why a model has no engine, as `Status` tells it; `created` says which of those that had the id."""

    created: int
    message: str
    detail: str = ""


class _Deaths(NamedTuple):
    """How many starts failed in a row, when the last did, and of which of the models that had the id."""

    created: int
    starts: int = 0
    last: float = 0.0


class ProcessServing:
    """See the module. `find` returns a model or raises ModelNotFound; `record_wake` gets the seconds of each wake."""

    def __init__(
        self,
        settings: ProcessSettings,
        find: Callable[[str], Awaitable[EngineModel]],
        record_wake: Callable[[str, float], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._find = find
        self._record_wake = record_wake
        self._client = Client()
        self._launcher = Launcher(
            settings.python, settings.environment, settings.logs, self._exited, warm=settings.warm
        )
        self._sockets = EngineSockets(settings.logs.with_name("engines"))
        self._budget = settings.budget or int(memory.available() * _KEEP_FREE)
        self._engines: dict[str, Engine] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wishes_to_sleep: set[str] = set()
        self._deaths: dict[str, _Deaths] = {}
        self._failures: dict[str, _Failure] = {}
        self._observers: list[Callable[[str, Status], None]] = []
        self._room = asyncio.Condition()
        self._warming: asyncio.Task[None] | None = None

    @property
    def launcher(self) -> Launcher:
        """The warm parent, for those who ask how it is."""
        return self._launcher

    def warm_up(self) -> None:
        """Start the warm parent ahead of the first wake, in the background."""
        self._warming = asyncio.create_task(self._start_launcher())

    async def status(self, model_id: str) -> Status:
        """See the port. An adapter has its base's state."""
        model = await self._find(model_id)
        engine = self._engines.get(model.base or model.id)
        if engine is None:
            return self._without_engine(model.base or model.id, model)
        if model.base is None and engine.model.created != model.created:
            return Status(Phase.STOPPING, message="the engine of a deleted model of this id has not ended yet")
        if model.base and engine.phase is Phase.READY and engine.adapters.get(model.id) != model.created:
            if (failure := self._failure(model)) is not None:
                return Status(Phase.FAILED, message=failure.message, detail=failure.detail)
            if not engine.changing.locked():
                return Status(estimate_seconds=model.typical_wake_seconds)
            told = replace(engine.status(), phase=Phase.LOADING, message="loading the adapter")
            return replace(told, endpoint=None, capacity=0, progress=0.9)
        return engine.status()

    async def statuses(self) -> dict[str, Status]:
        """See the port."""
        found = {name: engine.status() for name, engine in self._engines.items()}
        for engine in self._engines.values():
            found |= dict.fromkeys(engine.adapters, engine.status())
        return found

    async def wake(self, model_id: str) -> None:
        """See the port."""
        model = await self._find(model_id)
        name = model.base or model.id
        if model.blocked:
            self._failures[model.id] = _Failure(model.created, model.blocked)
            return
        engine = self._engines.get(name)
        if model.base is None and engine is not None and engine.model.created != model.created:
            await self._end(name)  # of a model that had this id before
        if name not in self._tasks:
            base = await self._find(name) if model.base else model
            if base.blocked:
                self._failures[name] = _Failure(base.created, base.blocked)
                return
            if name not in self._tasks:  # somebody else may have come first while we asked
                self._wishes_to_sleep.discard(name)
                self._engines[name] = Engine(base, self._settings.logs / log_name(name))
                self._tasks[name] = asyncio.create_task(self._live(self._engines[name]))
        if model.base:
            await self._load_adapter(self._engines[name], model)

    async def sleep(self, model_id: str) -> None:
        """See the port. An adapter is unloaded: its base's engine may have requests of others under way."""
        model = await self._find(model_id)
        if model.base is None:
            await self._end(model.id)
        elif engine := self._engines.get(model.base):
            async with engine.changing:
                await self._unload_adapter(engine, model.id)

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port."""
        created = await self._created(model_id)
        for kept in (self._failures, self._deaths):
            if model_id in kept and kept[model_id].created != created:
                del kept[model_id]
        for engine in list(self._engines.values()):
            if engine.model.id == model_id and engine.model.created != created:
                await self._end(model_id)
            elif model_id in engine.adapters:
                async with engine.changing:
                    if engine.adapters.get(model_id) != await self._created(model_id):
                        await self._unload_adapter(engine, model_id)

    async def _created(self, model_id: str) -> int | None:
        """When the model of that id was created; None where there is none."""
        try:
            return (await self._find(model_id)).created
        except ModelNotFound:
            return None

    async def import_existing(self, service: str) -> None:
        """See the port: there is no cluster."""

    async def reconcile(self) -> None:
        """See the port: each engine's own task does it."""

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """See the port."""
        self._observers.append(observer)

    async def close(self) -> None:
        """See the port."""
        tasks = [*self._tasks.values(), *([self._warming] if self._warming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._launcher.close()
        self._client.close()
        self._sockets.close()

    async def _start_launcher(self) -> None:
        with contextlib.suppress(LauncherGone):
            await self._launcher.start()

    async def _live(self, engine: Engine) -> None:
        """The one task that may change this engine, from the first wish to its end."""
        name = engine.model.id
        socket: Path | None = None
        try:
            await self._take_room(engine)
            await self._pause_after_deaths(engine)
            socket = self._sockets.new()
            seconds = await engine.start(self._launcher, self._client, socket, lambda: self._changed(engine))
            self._failures.pop(name, None)
            await self._note_wake(name, seconds)
            await self._tend(engine)
            self._deaths.pop(name, None)
        except asyncio.CancelledError:
            if engine.ready_at:
                self._deaths.pop(name, None)  # it was put to sleep, it did not die
            raise
        except (EngineDied, LauncherGone, OSError) as error:
            self._note_death(engine.model, redact_paths(str(error)), getattr(error, "detail", str(error)))
        except Exception as error:  # whatever it was, those who wait for the model must hear of it
            _log.exception("the engine of %s was ended", name)
            self._note_death(
                engine.model, f"The platform could not look after the engine: {type(error).__name__}", str(error)
            )
        finally:
            engine.ending = True
            try:
                with contextlib.suppress(LauncherGone):  # and the engine with it
                    await engine.stop(self._launcher, lambda: self._changed(engine))
            finally:
                await self._forget(engine, socket)

    async def _forget(self, engine: Engine, socket: Path | None) -> None:
        name = engine.model.id
        if socket is not None:
            self._sockets.remove(socket)
        self._engines.pop(name, None)
        self._tasks.pop(name, None)
        self._wishes_to_sleep.discard(name)
        self._tell(name, self._without_engine(name, engine.model))
        async with self._room:
            self._room.notify_all()

    async def _note_wake(self, name: str, seconds: float) -> None:
        """Record a wake. The engine serves, be it recorded or not: a database may be away, or its disk full."""
        try:
            await self._record_wake(name, seconds)
        except Exception:
            _log.exception("the wake of %s could not be recorded", name)

    def _note_death(self, model: EngineModel, reason: str, detail: str) -> None:
        self._deaths[model.id] = _Deaths(model.created, self._deaths_of(model).starts + 1, time.monotonic())
        self._failures[model.id] = _Failure(model.created, reason, detail)

    def _deaths_of(self, model: EngineModel) -> _Deaths:
        found = self._deaths.get(model.id)
        return found if found is not None and found.created == model.created else _Deaths(model.created)

    def _failure(self, model: EngineModel) -> _Failure | None:
        found = self._failures.get(model.id)
        return found if found is not None and found.created == model.created else None

    async def _tend(self, engine: Engine) -> None:
        """Until it shall sleep: read its counts, note when it was busy. EngineDied when it ends by itself, or hangs."""
        assert engine.ended is not None
        name, answered = engine.model.id, time.monotonic()
        patience = self._settings.patience_seconds
        while name not in self._wishes_to_sleep:
            metrics = await read_metrics(self._client, engine.endpoint, timeout=min(TIMEOUT_SECONDS, patience))
            if metrics is None and time.monotonic() - answered > patience:
                engine.hung = True
                raise EngineDied("The engine has hung: it answers nothing any more.", engine.last_lines())
            if metrics is not None:
                answered = time.monotonic()
                engine.heard(metrics)
                idle = self._settings.idle_seconds
                if idle and not engine.model.keep_awake and time.monotonic() - engine.last_busy > idle:
                    return
            if engine.pid is not None:
                engine.memory_bytes = await asyncio.to_thread(memory.held, engine.pid)
            await asyncio.to_thread(rotate, engine.log)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TEND):
                    await engine.ended.wait()
                raise EngineDied("The engine ended unexpectedly.", engine.last_lines())

    async def _end(self, name: str) -> None:
        self._wishes_to_sleep.add(name)
        task, engine = self._tasks.get(name), self._engines.get(name)
        if task is None or engine is None:
            self._wishes_to_sleep.discard(name)
            return
        if not engine.ending:
            engine.ending = True
            task.cancel()
        # Not gathered: where the caller is cancelled, that would cancel the task again, in the midst of the engine's end.
        await asyncio.wait({task})

    async def _take_room(self, engine: Engine) -> None:
        """Wait until the budget holds this engine too; end idle ones for it, longest idle first."""
        needed = memory_needed(engine.model)
        while self._taken(but=engine) + needed > self._budget:
            if needed > self._budget or not self._started(but=engine):
                raise EngineDied(
                    f"The model needs about {needed >> 20} MiB, the budget for all engines and the parent they are forked "
                    f"from is {self._budget >> 20} MiB; raise LLMARINER_MEMORY_GIB or choose a smaller model."
                )
            victim = await self._longest_idle(but=engine)
            if victim is not None:
                await self._end(victim.model.id)
                continue
            engine.message = "waiting for memory that busy models hold"
            async with self._room:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._room.wait()
        engine.message = ""

    def _taken(self, *, but: Engine) -> int:
        """Bytes of the budget that are taken: by started engines, and by the parent that they are forked from."""
        parent = memory.held_alone(self._launcher.pid) if self._launcher.pid else 0
        return parent + sum(max(memory_needed(e.model), e.memory_bytes) for e in self._started(but=but))

    def _started(self, *, but: Engine) -> list[Engine]:
        return [e for e in self._engines.values() if e is not but and e.phase is not Phase.QUEUED]

    async def _longest_idle(self, *, but: Engine) -> Engine | None:
        ready = [
            e for e in self._engines.values() if e is not but and e.phase is Phase.READY and not e.model.keep_awake
        ]
        for engine in sorted(ready, key=lambda e: e.last_busy):
            metrics = await read_metrics(self._client, engine.endpoint)
            if metrics is not None and not metrics.busy:
                return engine
        return None

    async def _pause_after_deaths(self, engine: Engine) -> None:
        _, deaths, last = self._deaths_of(engine.model)
        if deaths > 1:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (deaths - 2))
            left = max(0.0, last + pause - time.monotonic())
            _, message, engine.detail = self._failures[engine.model.id]
            engine.message = f"{deaths} starts failed; the next is in {left:.0f} s. {message}"
            await asyncio.sleep(left)
            engine.message = engine.detail = ""

    async def _load_adapter(self, engine: Engine, model: EngineModel) -> None:
        async with engine.changing:
            if engine.phase is not Phase.READY or engine.adapters.get(model.id) == model.created:
                return  # wished again by whoever waits, when the base is ready
            self._failures.pop(model.id, None)
            for each in [each for each in engine.adapters if served_name(each) == model.name]:
                if await self._created(each) == engine.adapters[each]:
                    said = "The engine serves another project's adapter of this name: give it another name."
                    break
                if said := await self._unload_adapter(engine, each):  # of a model that was deleted, or has another id
                    break
            else:
                said = await self._replace_adapter(engine, model)
            if said:
                self._failures[model.id] = _Failure(model.created, redact_paths(said), said)
            else:
                engine.adapters[model.id] = model.created

    async def _replace_adapter(self, engine: Engine, model: EngineModel) -> str:
        """Load it; why not, empty where it is done. What the engine has by that name, whoever put it there, goes first."""
        body = {"lora_name": model.name, "lora_path": model.folder}
        status, said = await self._told_engine(engine, "load", body)
        if status != 200 and "already been loaded" in said:
            await self._told_engine(engine, "unload", {"lora_name": model.name})
            status, said = await self._told_engine(engine, "load", body)
        return "" if status == 200 else f"The engine refused the adapter: {said[:500]}"

    async def _unload_adapter(self, engine: Engine, model_id: str) -> str:
        """Of a model that was deleted; another may have its id by now. Why not, empty where the engine has none."""
        if model_id in engine.adapters and engine.phase is Phase.READY:
            status, said = await self._told_engine(engine, "unload", {"lora_name": served_name(model_id)})
            if status not in (200, 404):
                return f"The engine keeps the adapter that had this name before: {said[:500]}"
        engine.adapters.pop(model_id, None)
        return ""

    async def _told_engine(self, engine: Engine, verb: str, body: dict[str, str]) -> tuple[int, str]:
        """vLLM's routes for adapters at run time; returns status and text. An engine that does not answer has status 0."""
        headers = [(b"content-type", b"application/json")]
        path, raw = f"/v1/{verb}_lora_adapter", json.dumps(body).encode()
        try:
            response = await self._client.request(engine.endpoint, "POST", path, headers=headers, body=raw)
            return response.status, (await response.read()).decode(errors="replace")
        except (ConnectionFailed, ResponseFailed):
            return 0, "it does not answer"

    def _without_engine(self, name: str, model: EngineModel) -> Status:
        # Of an adapter's base, which is there as long as its adapters are, whatever it failed of.
        failure = (self._failures.get(name) if name != model.id else None) or self._failure(model)
        if model.blocked:
            failure = _Failure(model.created, model.blocked)
        if failure is None:
            return Status(estimate_seconds=model.typical_wake_seconds)
        return Status(Phase.FAILED, message=failure.message, detail=failure.detail)

    def _exited(self, pid: int, _status: int) -> None:
        for engine in self._engines.values():
            if engine.pid == pid and engine.ended is not None:
                engine.ended.set()

    def _changed(self, engine: Engine) -> None:
        self._tell(engine.model.id, engine.status())

    def _tell(self, name: str, status: Status) -> None:
        for observer in self._observers:
            observer(name, status)
