"""A platform with scripted engines in a child process, and helpers that call it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from llmariner.context import Context
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.roles.scopes import INSTALLATION_SCOPES, OWNER_SCOPES
from llmariner.tenancy.tables import projects
from llmariner.usage.tables import ledger_requests

from .caller import Caller

__all__ = ["EngineProcess", "Platform", "eventually", "free_port", "listens", "resident", "running", "soon"]

_PROGRAM = Path(__file__).with_name("platform_program.py")
_SCRIPTED = Path(__file__).parents[1] / "engines" / "scripted.py"
_START_SECONDS = 60


def free_port() -> int:
    """A port below the ephemeral ones: a process may need seconds before it listens on it."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(fact: Callable[[], object], *, seconds: float = 10, what: str = "it") -> float:
    """Wait until a condition is true; returns the seconds that it took."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < seconds, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


async def soon(fact: Callable[[], object], *, seconds: float = 20) -> None:
    """As `eventually`, in an event loop with other tasks."""
    deadline = time.monotonic() + seconds
    for pause in itertools.repeat(0.02):
        if fact():
            return
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        await asyncio.sleep(pause)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class EngineProcess:
    """A scripted engine, by its own counters."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def metric(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            rows = answer.read().decode().splitlines()
        return int(float(next(row.rpartition(" ")[2] for row in rows if row.startswith(f"{name}{{"))))

    @property
    def running(self) -> int:
        return self.metric("vllm:num_requests_running")

    @property
    def waiting(self) -> int:
        return self.metric("vllm:num_requests_waiting")

    @property
    def tokens(self) -> int:
        return self.metric("vllm:generation_tokens_total")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    @classmethod
    def start(cls, *arguments: str) -> EngineProcess:
        """A scripted engine that no platform owns; its starter kills it."""
        port = free_port()
        process = subprocess.Popen([sys.executable, str(_SCRIPTED), "--port", str(port), *arguments])
        eventually(lambda: listens(port), what="the engine's start")
        engine = cls(process.pid, port)
        engine._process = process
        return engine


class Platform:
    """The process, its folder, and its database, read from outside by the platform's own modules."""

    def __init__(self, folder: Path, environment: Mapping[str, str], database: Path, server: str = "own") -> None:
        self.folder = folder
        self.port = free_port()
        self.server = server
        self.environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "p" * 64,
            "LLMARINER_SERVICE_SECRET": "s" * 64,
            "LLMARINER_HEARTBEAT_SECONDS": "0.2",
            "LLMARINER_INFERENCE_URL": f"http://127.0.0.1:{self.port}",
            **environment,
        }
        shutil.copy(database, folder / "platform.db")
        self.context = Context(self.environment)
        self.owner = ensure_first_owner(self.context.database)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        with (self.folder / "platform.log").open("ab") as log:
            command = [sys.executable, str(_PROGRAM), str(self.folder), str(self.port), self.server]
            self.process = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=log, stderr=log, cwd=self.folder
            )
        eventually(self._started, seconds=_START_SECONDS, what="the platform's start")

    def _started(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "platform.log").read_text()
        return listens(self.port)

    def stop(self) -> None:
        """Stop the platform, then any remaining engines."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        for engine in self.engines():
            if b"scripted.py" in _command_line(engine.pid):
                engine.kill()
        self.context.database.close()

    def kill(self) -> None:
        """As the kernel's OOM killer would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def model(
        self,
        name: str,
        *arguments: str,
        capacity: int = 64,
        project_id: str | None = None,
        task: str = "generate",
        base: str | None = None,
    ) -> str:
        """Register a model; `arguments` and `capacity` are its engine's; `base`: the model that it is an adapter of."""
        self.script(name, *arguments, capacity=capacity)
        kind = Task(task)
        new = NewModel(
            id=name,
            source_repository=SourceRepository.LOCAL,
            model_file_location="here",
            task=kind,
            project_id=project_id,
            base_model_id=base,
        )
        self.context.registry.create(new)
        self.context.registry.mark_loaded(name, folder=str(self.folder), size_bytes=1, task=kind)
        return name

    def script(self, name: str, *arguments: str, capacity: int = 64) -> None:
        """Set the arguments of the model's next engine."""
        value = {"arguments": ["--model", name, *arguments], "capacity": capacity}
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def key(self, name: str, *, limited: bool = False, owner: KeyOwner | None = None) -> tuple[str, Caller]:
        """A new key: its id and a client with it."""
        new = NewKey(name=name, scopes=OWNER_SCOPES | INSTALLATION_SCOPES, excluded_from_rate_limiting=not limited)
        key, secret = self.context.keys.create(owner or self.owner, new)
        return key.id, Caller(self.port, secret)

    @cached_property
    def caller(self) -> Caller:
        """A caller without limits."""
        return self.key("tests")[1]

    def tenant(self, name: str) -> Caller:
        """A caller of a project of its own, without limits."""
        with self.context.database.write() as session:
            session.add(
                projects,
                id=f"proj_{name}",
                organization_id=self.owner.organization_id,
                title=name,
                is_default=False,
                created_at=0,
            )
        owner = KeyOwner(self.owner.user_id, f"proj_{name}", self.owner.organization_id)
        return self.key(name, owner=owner)[1]

    def engines(self, model: str | None = None) -> list[EngineProcess]:
        """Every engine ever started for a model, in order."""
        notes = self.folder / "starts"
        rows = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return [EngineProcess(row["pid"], row["port"]) for row in rows if model in (None, row["model"])]

    def engine(self, model: str) -> EngineProcess:
        """The newest engine of a model."""
        return self.engines(model)[-1]

    def row(self, request_id: str) -> dict[str, Any]:
        """A request in the ledger, as soon as it is closed there."""
        found: list[dict[str, Any]] = []

        def closed() -> bool:
            row = self.context.ledger.request(request_id)
            if row is None or row["outcome"] == "open":
                return False
            found.append(row)
            return True

        eventually(closed, what=f"the closing of {request_id}")
        return found[0]

    def ledger(self, model: str) -> list[dict[str, Any]]:
        """All requests for a model, as soon as none of them is open."""
        with self.context.database.read() as session:
            query = select(func.count()).where(ledger_requests.c.model == model, ledger_requests.c.outcome == "open")
            open_ = session.value(query)
            rows = session.rows(select(ledger_requests).where(ledger_requests.c.model == model))
        if open_:
            time.sleep(0.1)
            return self.ledger(model)
        return [dict(row._mapping) for row in rows]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def running(folder: Path, database: Path, *, server: str = "own", **environment: str) -> Iterator[Platform]:
    """Run a platform for the block; `environment` as `NAME="value"` without the prefix."""
    named = {f"LLMARINER_{name}": value for name, value in environment.items()}
    platform = Platform(folder, named, database, server)
    try:
        platform.start()
        yield platform
    finally:
        platform.stop()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
