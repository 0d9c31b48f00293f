"""One engine as a child process: starting, readiness, status, stopping. Only `adapter` uses it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.platform.process_times import ProcessTimes
from llmariner.platform.serving import EngineModel, Phase, Status, served_name
from llmariner.platform.serving.engine_metrics import TIMEOUT_SECONDS, EngineMetrics
from llmariner.platform.serving.local_processes.command_line import CAPACITY, engine_arguments
from llmariner.platform.serving.local_processes.launcher_client import LauncherClient
from llmariner.platform.serving.log_files import reset, rotate, tail
from llmariner.platform.serving.redaction import redact_paths

__all__ = ["Engine", "EngineFailed", "log_name"]

_POLL_SECONDS = 0.05
_HEALTH_BYTES = 64 * 1024
_STOP_GRACE_SECONDS = 10.0
_KILL_AFTER_SECONDS = 5.0
_SILENT_LOG_SECONDS = 120.0
_MIN_LOAD_SECONDS = 180.0
_MIN_LOAD_BYTES_PER_SECOND = 50 * 1024 * 1024
_DEFAULT_WAKE_SECONDS = 20.0
_MAX_CAUSE_CHARACTERS = 300
_PROCESS_PREFIX = re.compile(r"^\([^)]*pid=\d+\) ?")
_LOADING_MARKS = ("Starting to load model", "Loading safetensors", "Loading weights took", "init engine")
_LONGEST_MARK = max(map(len, _LOADING_MARKS))


class EngineFailed(Exception):
    """The engine exited or became unresponsive, with the reason; `detail` holds the last lines of its log."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


@dataclass
class Engine:
    """The state of one engine. `pid` and `endpoint` are set by `start`; other times are monotonic."""

    model: EngineModel
    log: Path
    phase: Phase = Phase.QUEUED
    message: str = ""
    detail: str = ""
    pid: int | None = None
    endpoint: str = ""
    created_at: float = field(default_factory=time.time)
    """In Unix seconds."""
    started_at: float = 0.0
    ready_at: float = 0.0
    last_busy_at: float = 0.0
    memory_bytes: int = 0
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    tokens_per_second: float = 0.0
    metrics_read_at: float = 0.0
    adapters: dict[str, int] = field(default_factory=dict)
    """Loaded LoRA adapters: model id → `EngineModel.created`."""
    adapter_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a LoRA adapter is loaded or unloaded."""
    exited: asyncio.Event | None = None
    stopping: bool = False
    """Its stop has begun: its task must not be cancelled again."""
    unresponsive: bool = False
    """It does not respond, so a graceful stop is pointless."""

    async def start(
        self, launcher: LauncherClient, client: Client, socket: Path, on_change: Callable[[], None], times: ProcessTimes
    ) -> float:
        """Start the process and wait until it is healthy on `socket`; returns the seconds that took.

        Raises EngineFailed with the reason, LauncherExited.
        """
        self.started_at = time.monotonic()
        self.exited = asyncio.Event()
        reset(self.log)
        self._set_phase(Phase.STARTING, on_change)
        self.endpoint = f"unix:{socket}"
        arguments = engine_arguments(self.model, socket)
        self.pid = await launcher.start_engine(self.model.id, arguments, self.log, temporary=socket.parent)
        times.begin(self.model.id, self.pid)
        await self._wait_until_ready(client, on_change)
        self.ready_at = self.last_busy_at = time.monotonic()
        self._set_phase(Phase.READY, on_change)
        return self.ready_at - self.started_at

    async def stop(self, launcher: LauncherClient, on_change: Callable[[], None]) -> None:
        """Stop the process and wait until it has exited; kill it after a grace period."""
        if self.pid is None or self.exited is None or self.exited.is_set():
            return
        self._set_phase(Phase.STOPPING, on_change)
        grace = 0.0 if self.unresponsive else _STOP_GRACE_SECONDS
        try:
            async with asyncio.timeout(grace + _KILL_AFTER_SECONDS):
                await launcher.stop_engine(self.pid, grace)
                await self.exited.wait()
        except TimeoutError:
            launcher.kill_engine(self.pid)

    def status(self) -> Status:
        """The current status."""
        return Status(
            phase=self.phase,
            progress=self._progress(),
            estimate_seconds=self._estimate(),
            message=self.message,
            detail=self.detail,
            endpoint=self.endpoint if self.phase is Phase.READY else None,
            capacity=CAPACITY if self.phase is Phase.READY else 0,
            requests_running=self.metrics.running,
            requests_waiting=self.metrics.waiting,
            generation_tokens=self.metrics.generation_tokens,
            tokens_per_second=self.tokens_per_second,
            memory_bytes=self.memory_bytes,
        )

    def update_metrics(self, metrics: EngineMetrics) -> None:
        """Store metrics that were just read; update speed and `last_busy_at`."""
        now = time.monotonic()
        new_tokens = metrics.generation_tokens - self.metrics.generation_tokens
        if self.metrics_read_at:
            self.tokens_per_second = round(new_tokens / max(0.001, now - self.metrics_read_at), 1)
        if metrics.busy or metrics != self.metrics:
            self.last_busy_at = now
        self.metrics, self.metrics_read_at = metrics, now

    async def replace_adapter(self, client: Client, model: EngineModel) -> str:
        """Load a LoRA adapter in place of any that it has under its name; returns an error or ""."""
        body = {"lora_name": model.name, "lora_path": model.folder}
        status, error = await self._call_lora_api(client, "load", body)
        if status != 200 and "already been loaded" in error:
            await self._call_lora_api(client, "unload", {"lora_name": model.name})
            status, error = await self._call_lora_api(client, "load", body)
        return "" if status == 200 else f"The engine refused the adapter: {error[:500]}"

    async def unload_adapter(self, client: Client, model_id: str) -> str:
        """Unload a LoRA adapter; returns an error, or "" when it has none of that name."""
        if model_id in self.adapters and self.phase is Phase.READY:
            status, error = await self._call_lora_api(client, "unload", {"lora_name": served_name(model_id)})
            if status not in (200, 404):
                return f"The engine keeps the adapter that had this name before: {error[:500]}"
        self.adapters.pop(model_id, None)
        return ""

    async def _call_lora_api(self, client: Client, verb: str, body: dict[str, str]) -> tuple[int, str]:
        """Call vLLM's route to load or unload a LoRA adapter; returns status and body, status 0 without a response."""
        headers = [(b"content-type", b"application/json")]
        path, raw = f"/v1/{verb}_lora_adapter", json.dumps(body).encode()
        try:
            response = await client.request(self.endpoint, "POST", path, headers=headers, body=raw)
            return response.status, (await response.read()).decode(errors="replace")
        except (ConnectionFailed, ResponseFailed):
            return 0, "it does not answer"

    def last_lines(self, count: int = 12) -> str:
        """The last lines of its log, preceded by the last errors."""
        lines = self._lines()
        return "\n".join(_error_lines(lines)[-2:] + lines[-count:])

    def _lines(self) -> list[str]:
        return tail(self.log).splitlines()

    def _start_failure(self, what: str) -> EngineFailed:
        """An error with the last error line of its log, which contains no user data before the engine is ready."""
        output = _PROCESS_PREFIX.sub("", (_error_lines(self._lines()) or [""])[-1])
        cause = redact_paths(output).strip()[:_MAX_CAUSE_CHARACTERS]
        return EngineFailed(f"{what}{f': {cause}' if cause else '.'}", self.last_lines())

    def _set_phase(self, phase: Phase, on_change: Callable[[], None]) -> None:
        self.phase = phase
        on_change()

    def _typical_seconds(self) -> float:
        return self.model.typical_wake_seconds or _DEFAULT_WAKE_SECONDS

    def _progress(self) -> float:
        if self.phase in (Phase.READY, Phase.STOPPING):
            return 1.0
        if not self.started_at:
            return 0.0
        return round(min(0.97, (time.monotonic() - self.started_at) / self._typical_seconds()), 3)

    def _estimate(self) -> float | None:
        if self.phase is Phase.READY:
            return 0.0
        if self.phase in (Phase.STARTING, Phase.LOADING):
            return round(max(0.5, self._typical_seconds() - (time.monotonic() - self.started_at)), 1)
        return round(self._typical_seconds(), 1) if self.phase is Phase.QUEUED else None

    async def _wait_until_ready(self, client: Client, on_change: Callable[[], None]) -> None:
        """Poll its health. The deadline depends on the size of the weights and moves while the log grows."""
        assert self.exited is not None
        written, since = 0, time.monotonic()
        deadline = since + _MIN_LOAD_SECONDS + self.model.size_bytes / _MIN_LOAD_BYTES_PER_SECOND
        while not await _is_healthy(client, self.endpoint):
            if self.exited.is_set():
                raise self._start_failure("The engine ended while loading")
            now = time.monotonic()
            if (size := self.log.stat().st_size) != written:
                # Starts a little earlier: a mark may have been written in two parts.
                output = tail(self.log, after=max(0, written - _LONGEST_MARK))
                written, since = size, now
                if self.phase is Phase.STARTING and any(mark in output for mark in _LOADING_MARKS):
                    self._set_phase(Phase.LOADING, on_change)
                rotate(self.log)
            if now > deadline and now - since > _SILENT_LOG_SECONDS:
                raise self._start_failure(f"The engine said nothing for {_SILENT_LOG_SECONDS:.0f} s while loading")
            await asyncio.sleep(_POLL_SECONDS)


def _error_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if "Error" in line or "error:" in line]


def log_name(model_id: str) -> str:
    """The file name of an engine's log: a sanitized id with a hash, unique also on case-insensitive file systems."""
    digest = hashlib.sha256(model_id.encode()).hexdigest()[:12]
    return f"engine-{re.sub(r'[^A-Za-z0-9._-]', '_', model_id)[:128]}-{digest}.log"


async def _is_healthy(client: Client, endpoint: str) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            response = await client.request(endpoint, "GET", "/health")
            await response.read(_HEALTH_BYTES)
    except (ConnectionFailed, ResponseFailed, TimeoutError):
        return False
    return response.status == 200
