"""Serving adapter for one machine: an engine per base model, forked from a warm parent, within a memory budget.

One writer per engine: a task starts, monitors and stops it; `wake` and `sleep` only request that. To free memory, the
engine that is idle longest is stopped, if it has no request in flight, and for a quota one that counts in it; none is where
the end of all idle ones would not make enough room. An engine that fails is not restarted by itself: the next request starts
it, after a backoff that doubles with each consecutive failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmariner.errors import ModelNotFound
from llmariner.http_client import Client
from llmariner.platform.capacity import Amounts, Claim, Excess, Kind, QuotaRule
from llmariner.platform.process_times import ProcessTimes
from llmariner.platform.serving import EngineModel, Phase, Status, served_name
from llmariner.platform.serving.engine_metrics import TIMEOUT_SECONDS, read_metrics
from llmariner.platform.serving.local_processes import memory
from llmariner.platform.serving.local_processes.command_line import memory_needed
from llmariner.platform.serving.local_processes.engine import Engine, EngineFailed, log_name
from llmariner.platform.serving.local_processes.failures import Crashes, Failure
from llmariner.platform.serving.local_processes.launcher_client import LauncherClient, LauncherExited
from llmariner.platform.serving.local_processes.settings import ProcessSettings
from llmariner.platform.serving.local_processes.sockets import EngineSockets
from llmariner.platform.serving.log_files import rotate
from llmariner.platform.serving.redaction import redact_paths

__all__ = ["ProcessServing"]

_log = logging.getLogger(__name__)
_MONITOR_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS = 2.0
_MAX_BACKOFF_SECONDS = 120.0
_BUDGET_SHARE = 0.75


class ProcessServing:
    """See the module. `find` returns a model or raises ModelNotFound; `record_wake` gets the seconds of each wake.

    `quota_rules` returns the quotas that hold for a project; it may block, and is called in threads. `on_allocation` is
    called with what an engine or a job holds from now on, and None when it holds it no more; it must not block.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        find: Callable[[str], Awaitable[EngineModel]],
        record_wake: Callable[[str, float], Awaitable[None]],
        quota_rules: Callable[[str], Sequence[QuotaRule]] = lambda _: (),
        on_allocation: Callable[[str, Claim | None], None] = lambda _id, _claim: None,
    ) -> None:
        self._settings = settings
        self._find = find
        self._record_wake = record_wake
        self._quota_rules = quota_rules
        self._on_allocation = on_allocation
        self._client = Client()
        self._launcher = LauncherClient(
            settings.python, settings.environment, settings.logs, self._on_exit, warm=settings.warm
        )
        self._sockets = EngineSockets(settings.logs.with_name("engines"))
        self._budget = settings.budget or int(memory.available_bytes() * _BUDGET_SHARE)
        self._engines: dict[str, Engine] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sleep_requested: set[str] = set()
        self._crashes: dict[str, Crashes] = {}
        self._failures: dict[str, Failure] = {}
        self._observers: list[Callable[[str, Status], None]] = []
        self._memory_freed = asyncio.Condition()
        self._reserved: dict[str, Claim] = {}
        self._engine_millicores = 1000 * int(settings.environment.get("OMP_NUM_THREADS") or 1)
        self._warming: asyncio.Task[None] | None = None
        self.times = ProcessTimes()
        """The processor time of engines by model, and of whatever else reserves memory here."""

    @property
    def launcher(self) -> LauncherClient:
        """The client of the process that engines are forked from."""
        return self._launcher

    def warm_up(self) -> None:
        """Start the launcher in the background, ahead of the first wake."""
        self._warming = asyncio.create_task(self._start_launcher())

    @property
    def budget(self) -> int:
        """The memory for all engines and what else is reserved of it, in bytes."""
        return self._budget

    @property
    def engines(self) -> Sequence[Engine]:
        """The engines that wait, start, run or stop, to be read in the event loop."""
        return list(self._engines.values())

    @property
    def failures(self) -> Mapping[str, Failure]:
        """Why models have no engine, by their ids, to be read in the event loop."""
        return self._failures

    def claims(self) -> list[Claim]:
        """What engines and other work hold of the machine, and what engines wait for."""
        return [*self._reserved.values(), *map(self._claim, self._engines.values())]

    async def reserve_memory(
        self, owner: str, size_bytes: int, *, project: str | None = None, millicores: int = 0, kind: Kind = Kind.JOBS
    ) -> str:
        """Reserve a part of the budget for other work of a project than models; idle models sleep for it, busy ones do not.

        Returns why there is not that much now, or why the project may not have it, else the empty string.
        """
        if refusal := self.memory_refusal(size_bytes):
            return refusal
        claim = Claim(project, kind, {"memory": size_bytes, "cpu": millicores})
        while True:
            # Nothing may run between the last check and the reservation: the rules are read first.
            excess = self._excess(await self._rules_of(project), claim.amounts)
            missing = self._memory_in_use() + size_bytes - self._budget
            if excess is None and missing <= 0:
                self._reserved[owner] = claim
                self._on_allocation(owner, claim)
                return ""
            victim = await self._longest_idle(missing, excess=excess)
            if victim is None:
                waits = f"It waits for {size_bytes >> 20} MiB of memory that busy models or other jobs hold."
                return waits if excess is None else str(excess)
            await self._stop_engine(victim.model.id)

    def memory_refusal(self, size_bytes: int) -> str:
        """Why so much can never be reserved; empty where it can. In any thread."""
        if size_bytes <= self._budget:
            return ""
        return f"It needs {size_bytes >> 20} MiB of memory, and all engines and jobs have {self._budget >> 20} MiB."

    async def release_memory(self, owner: str) -> None:
        """Give back what `reserve_memory` reserved. Idempotent."""
        if self._reserved.pop(owner, None) is not None:
            self._on_allocation(owner, None)
            async with self._memory_freed:
                self._memory_freed.notify_all()

    async def status(self, model_id: str) -> Status:
        """See the port. A LoRA adapter has its base's status."""
        model = await self._find(model_id)
        engine = self._engines.get(model.base or model.id)
        if engine is None:
            return self._without_engine(model.base or model.id, model)
        if model.base is None and engine.model.created != model.created:
            return Status(Phase.STOPPING, message="the engine of a deleted model of this id has not ended yet")
        if model.base and engine.phase is Phase.READY and engine.adapters.get(model.id) != model.created:
            if (failure := self._failure(model)) is not None:
                return Status(Phase.FAILED, message=failure.message, detail=failure.detail)
            if not engine.adapter_lock.locked():
                return Status(estimate_seconds=model.typical_wake_seconds)
            status = replace(engine.status(), phase=Phase.LOADING, message="loading the adapter")
            return replace(status, endpoint=None, capacity=0, progress=0.9)
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
            self._failures[model.id] = Failure(model.created, model.blocked)
            return
        engine = self._engines.get(name)
        if model.base is None and engine is not None and engine.model.created != model.created:
            await self._stop_engine(name)  # it belongs to a deleted model of the same id
        if name not in self._tasks:
            base = await self._find(name) if model.base else model
            if base.blocked:
                self._failures[name] = Failure(base.created, base.blocked)
                return
            if name not in self._tasks:  # a concurrent call may have started it
                self._sleep_requested.discard(name)
                self._engines[name] = Engine(base, self._settings.logs / log_name(name))
                self._tasks[name] = asyncio.create_task(self._run_engine(self._engines[name]))
        if model.base:
            await self._load_adapter(self._engines[name], model)

    async def sleep(self, model_id: str) -> None:
        """See the port. A LoRA adapter is unloaded; its base's engine keeps running for other requests."""
        model = await self._find(model_id)
        if model.base is None:
            await self._stop_engine(model.id)
        elif engine := self._engines.get(model.base):
            async with engine.adapter_lock:
                await engine.unload_adapter(self._client, model.id)

    async def remove(self, model_id: str, folder: str) -> None:
        """See the port."""
        created = await self._created(model_id)
        for kept in (self._failures, self._crashes):
            if model_id in kept and kept[model_id].created != created:
                del kept[model_id]
        for engine in list(self._engines.values()):
            if engine.model.id == model_id and engine.model.created != created:
                await self._stop_engine(model_id)
            elif model_id in engine.adapters:
                async with engine.adapter_lock:
                    if engine.adapters.get(model_id) != await self._created(model_id):
                        await engine.unload_adapter(self._client, model_id)

    async def _created(self, model_id: str) -> int | None:
        """`EngineModel.created` of the registered model; None if there is none."""
        try:
            return (await self._find(model_id)).created
        except ModelNotFound:
            return None

    async def import_existing(self, service: str) -> None:
        """See the port: no effect, there is no cluster."""

    async def reconcile(self) -> None:
        """See the port: no effect, each engine's task does this."""

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
        with contextlib.suppress(LauncherExited):
            await self._launcher.start()

    async def _run_engine(self, engine: Engine) -> None:
        """The one task that may change this engine, from its start to its end."""
        name = engine.model.id
        socket: Path | None = None
        try:
            await self._back_off(engine)
            await self._reserve_memory(engine)
            self._on_allocation(name, replace(self._claim(engine), waits=False))
            socket = self._sockets.new()
            seconds = await engine.start(
                self._launcher, self._client, socket, lambda: self._on_change(engine), self.times
            )
            self._failures.pop(name, None)
            await self._record_wake_safely(name, seconds)
            await self._monitor(engine)
            self._crashes.pop(name, None)
        except asyncio.CancelledError:
            if engine.ready_at:
                self._crashes.pop(name, None)  # it was put to sleep, it did not fail
            raise
        except (EngineFailed, LauncherExited, OSError) as error:
            self._record_failure(engine.model, redact_paths(str(error)), getattr(error, "detail", str(error)))
        except Exception as error:  # waiting requests need a status whatever the error
            _log.exception("the engine of %s was ended", name)
            self._record_failure(
                engine.model, f"The platform could not look after the engine: {type(error).__name__}", str(error)
            )
        finally:
            engine.stopping = True
            try:
                with contextlib.suppress(LauncherExited):  # its engines ended with it
                    await engine.stop(self._launcher, lambda: self._on_change(engine))
            finally:
                await self._remove_engine(engine, socket)

    async def _remove_engine(self, engine: Engine, socket: Path | None) -> None:
        name = engine.model.id
        self._on_allocation(name, None)
        if socket is not None:
            self._sockets.remove(socket)
        self._engines.pop(name, None)
        self._tasks.pop(name, None)
        self._sleep_requested.discard(name)
        self._notify_observers(name, self._without_engine(name, engine.model))
        async with self._memory_freed:
            self._memory_freed.notify_all()

    async def _record_wake_safely(self, name: str, seconds: float) -> None:
        """Record a wake. A failure is only logged: the engine serves without a record."""
        try:
            await self._record_wake(name, seconds)
        except Exception:
            _log.exception("the wake of %s could not be recorded", name)

    def _record_failure(self, model: EngineModel, reason: str, detail: str) -> None:
        self._crashes[model.id] = Crashes(model.created, self._crashes_of(model).starts + 1, time.monotonic())
        self._failures[model.id] = Failure(model.created, reason, detail, time.time())

    def _crashes_of(self, model: EngineModel) -> Crashes:
        found = self._crashes.get(model.id)
        return found if found is not None and found.created == model.created else Crashes(model.created)

    def _failure(self, model: EngineModel) -> Failure | None:
        found = self._failures.get(model.id)
        return found if found is not None and found.created == model.created else None

    async def _monitor(self, engine: Engine) -> None:
        """Read its metrics until it is to sleep. Raises EngineFailed when it exits or becomes unresponsive."""
        assert engine.exited is not None
        name, answered = engine.model.id, time.monotonic()
        timeout_seconds = self._settings.unresponsive_seconds
        while name not in self._sleep_requested:
            metrics = await read_metrics(self._client, engine.endpoint, timeout=min(TIMEOUT_SECONDS, timeout_seconds))
            if metrics is None and time.monotonic() - answered > timeout_seconds:
                engine.unresponsive = True
                raise EngineFailed("The engine has hung: it answers nothing any more.", engine.last_lines())
            if metrics is not None:
                answered = time.monotonic()
                engine.update_metrics(metrics)
                idle = self._settings.idle_seconds
                if idle and not engine.model.keep_awake and time.monotonic() - engine.last_busy_at > idle:
                    return
            if engine.pid is not None:
                engine.memory_bytes = await asyncio.to_thread(memory.process_tree_bytes, engine.pid)
            await asyncio.to_thread(rotate, engine.log)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MONITOR_SECONDS):
                    await engine.exited.wait()
                raise EngineFailed("The engine ended unexpectedly.", engine.last_lines())

    async def _stop_engine(self, name: str) -> None:
        self._sleep_requested.add(name)
        task, engine = self._tasks.get(name), self._engines.get(name)
        if task is None or engine is None:
            self._sleep_requested.discard(name)
            return
        if not engine.stopping:
            engine.stopping = True
            task.cancel()
        # Not `gather`: on cancellation of the caller it would cancel the task again while it stops the engine.
        await asyncio.wait({task})

    async def _reserve_memory(self, engine: Engine) -> None:
        """Wait until budget and quotas have room for this engine; stop idle engines for it, longest idle first."""
        amounts = self._claim(engine).amounts
        needed = amounts["memory"]
        while True:
            excess = self._excess(await self._rules_of(engine.model.project), amounts, excluding=engine)
            missing = self._memory_in_use(excluding=engine) + needed - self._budget
            if excess is None and missing <= 0:
                break
            if excess is not None and excess.never_fits:
                raise EngineFailed(f"{excess}. An administrator can raise it, or choose a smaller model.")
            if needed > self._budget or not (excess or self._started(excluding=engine) or self._reserved):
                raise EngineFailed(
                    f"The model needs about {needed >> 20} MiB, the budget for all engines and the parent they are forked "
                    f"from is {self._budget >> 20} MiB; raise LLMARINER_MEMORY_GIB or choose a smaller model."
                )
            victim = await self._longest_idle(missing, excluding=engine, excess=excess)
            if victim is not None:
                await self._stop_engine(victim.model.id)
                continue
            engine.message = str(excess) if excess else "waiting for memory that busy models or jobs hold"
            async with self._memory_freed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._memory_freed.wait()
        engine.message = ""

    def _memory_in_use(self, *, excluding: Engine | None = None) -> int:
        """Bytes of the budget in use by other started engines, by the launcher, and reserved by other work."""
        parent = memory.process_bytes(self._launcher.pid) if self._launcher.pid else 0
        return parent + sum(each.amounts["memory"] for each in self._held(excluding=excluding))

    def _held(self, *, excluding: Engine | None = None) -> list[Claim]:
        return [*self._reserved.values(), *map(self._claim, self._started(excluding=excluding))]

    def _claim(self, engine: Engine) -> Claim:
        size = max(memory_needed(engine.model), engine.memory_bytes)
        amounts = {"memory": size, "cpu": self._engine_millicores}
        return Claim(engine.model.project, Kind.MODELS, amounts, waits=engine.phase is Phase.QUEUED)

    async def _rules_of(self, project: str | None) -> Sequence[QuotaRule]:
        return () if project is None else await asyncio.to_thread(self._quota_rules, project)

    def _excess(
        self, rules: Sequence[QuotaRule], amounts: Amounts, *, excluding: Engine | None = None
    ) -> Excess | None:
        """The first quota that has no room for these amounts."""
        held = self._held(excluding=excluding)
        return next((found for rule in rules if (found := rule.excess(held, amounts)) is not None), None)

    def _started(self, *, excluding: Engine | None = None) -> list[Engine]:
        return [e for e in self._engines.values() if e is not excluding and e.phase is not Phase.QUEUED]

    async def _longest_idle(
        self, missing: int, *, excluding: Engine | None = None, excess: Excess | None = None
    ) -> Engine | None:
        """The engine that may stop first; with `excess`, one whose end makes room in that quota.

        None where all idle ones together don't hold what is missing, of the quota or else `missing` bytes: they would sleep
        for nothing, and again after each request.
        """
        if excess is not None and excess.never_fits:
            return None
        resource = "memory" if excess is None else excess.resource
        missing = missing if excess is None else excess.used + excess.needed - excess.most
        ready = [
            e
            for e in self._engines.values()
            if e is not excluding
            and e.phase is Phase.READY
            and not e.model.keep_awake
            and (excess is None or e.model.project in excess.rule.projects)
        ]
        first = None
        for engine in sorted(ready, key=lambda e: e.last_busy_at):
            metrics = await read_metrics(self._client, engine.endpoint)
            if metrics is None or metrics.busy:
                continue
            first = first or engine
            missing -= self._claim(engine).amounts.get(resource, 0)
            if missing <= 0:
                return first
        return None

    async def _back_off(self, engine: Engine) -> None:
        _, crashes, last = self._crashes_of(engine.model)
        if crashes > 1:
            pause = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (crashes - 2))
            left = max(0.0, last + pause - time.monotonic())
            failure = self._failures[engine.model.id]
            engine.message = f"{crashes} starts failed; the next is in {left:.0f} s. {failure.message}"
            engine.detail = failure.detail
            await asyncio.sleep(left)
            engine.message = engine.detail = ""

    async def _load_adapter(self, engine: Engine, model: EngineModel) -> None:
        async with engine.adapter_lock:
            if engine.phase is not Phase.READY or engine.adapters.get(model.id) == model.created:
                return  # waiting requests wake it again when the base is ready
            self._failures.pop(model.id, None)
            for each in [each for each in engine.adapters if served_name(each) == model.name]:
                if await self._created(each) == engine.adapters[each]:
                    error = "The engine serves another project's adapter of this name: give it another name."
                    break
                # It belongs to a deleted model or to another id.
                if error := await engine.unload_adapter(self._client, each):
                    break
            else:
                error = await engine.replace_adapter(self._client, model)
            if error:
                self._failures[model.id] = Failure(model.created, redact_paths(error), error)
            else:
                engine.adapters[model.id] = model.created

    def _without_engine(self, name: str, model: EngineModel) -> Status:
        # For a LoRA adapter the failure of its base counts, whichever model of that id failed.
        failure = (self._failures.get(name) if name != model.id else None) or self._failure(model)
        if model.blocked:
            failure = Failure(model.created, model.blocked)
        if failure is None:
            return Status(estimate_seconds=model.typical_wake_seconds)
        return Status(Phase.FAILED, message=failure.message, detail=failure.detail)

    def _on_exit(self, pid: int, cpu_seconds: float) -> None:
        for engine in self._engines.values():
            if engine.pid == pid and engine.exited is not None:
                self.times.end(engine.model.id, cpu_seconds)
                engine.exited.set()

    def _on_change(self, engine: Engine) -> None:
        self._notify_observers(engine.model.id, engine.status())

    def _notify_observers(self, name: str, status: Status) -> None:
        for observer in self._observers:
            observer(name, status)
