"""A platform with vector stores whose processes a test may kill at any moment: functions, consumers, the index's owner."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from llmariner.context import Context
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.database.tables import work_leases
from llmariner.platform.events.tables import deliveries
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.standalone.platform import write_private
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.roles.scopes import OWNER_SCOPES
from llmariner.tenancy.tables import projects
from llmariner.vector_stores.tables import vector_store_files

__all__ = ["MODEL", "PARTS", "Client", "KillablePlatform", "eventually"]

MODEL = "scripted-embedding"
PARTS = ("consumers", "functions", "index")
_PROGRAM = Path(__file__).with_name("killable_program.py")
_ENGINE = Path(__file__).parents[1] / "engines" / "scripted.py"
_WORKERS = ("document_parser", "document_indexer")
_files = vector_store_files.c


def eventually(fact: Callable[[], object], *, seconds: float, what: str) -> float:
    """Wait until a condition is true; returns the seconds that it took."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < seconds, f"{what} did not come within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


class Client:
    """A client of the API of one project."""

    def __init__(self, port: int, secret: str, project_id: str) -> None:
        self._port = port
        self._secret = secret
        self.project_id = project_id

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one request; 0 and None without an answer."""
        data = b"" if body is None else json.dumps(body).encode()
        return self._send(method, path, data, "application/json")

    def upload(self, name: str, text: str) -> tuple[int, Any]:
        """As `call`, for a new file."""
        fields = 'Content-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--limit\r\n'
        named = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n{text}\r\n--limit--\r\n'
        form = f"--limit\r\n{fields}{named}".encode()
        return self._send("POST", "/v1/files", form, "multipart/form-data; boundary=limit")

    def until_answered(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """As `call`, repeated while the platform does not answer, or answers that it can't."""
        deadline = time.monotonic() + 120
        while True:
            status, answer = self.call(method, path, body)
            if 0 < status < 500 and status != 429:
                return status, answer
            assert time.monotonic() < deadline, (method, path, status, answer)
            time.sleep(0.05)

    def _send(self, method: str, path: str, data: bytes, kind: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"authorization": f"Bearer {self._secret}", "content-type": kind}
        try:
            connection.request(method, path, data or None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()


class KillablePlatform:
    """Start it, kill and start its parts, close it. `tick_seconds`: between two sweeps."""

    def __init__(self, folder: Path, *, tick_seconds: float) -> None:
        self.folder = folder
        self.tick_seconds = tick_seconds
        self.port, self._engine_port = _free_port(), _free_port()
        self._engine = subprocess.Popen(
            [sys.executable, str(_ENGINE), "--port", str(self._engine_port), "--model", MODEL]
        )
        self.environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
            "LLMARINER_PEPPER": "p" * 64,
            "LLMARINER_SERVICE_SECRET": "s" * 64,
            "LLMARINER_EMBEDDING_MODEL": MODEL,
            "LLMARINER_INFERENCE_URL": f"http://127.0.0.1:{self.port}",
            "LLMARINER_SERVING": "static",
            "LLMARINER_SERVING_STATIC": json.dumps({MODEL: f"http://127.0.0.1:{self._engine_port}"}),
        }
        self.context = Context(self.environment)
        upgrade(self.context.database)
        self.owner = ensure_first_owner(self.context.database)
        registry = self.context.registry
        registry.create(NewModel(MODEL, SourceRepository.LOCAL, "here", task=Task.EMBED))
        registry.mark_loaded(MODEL, folder=str(folder), size_bytes=1, task=Task.EMBED)
        self._index = MilvusLiteProcess(folder / "vectors", folder / "index.log")
        self.index = MilvusIndex(self._index.settings)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = dict.fromkeys(PARTS, 0)

    def start(self, part: str) -> None:
        """Start a part; the functions answer some seconds later."""
        if part == "index":
            settings = self._index.settings()
            address = {"uri": settings.uri, "token": settings.token.reveal()}
            write_private(self.folder / "index.json", json.dumps(address))
            return
        number = str(self.port if part == "functions" else self.tick_seconds)
        with (self.folder / f"{part}.log").open("ab") as log:
            self._processes[part] = subprocess.Popen(
                [sys.executable, str(_PROGRAM), part, str(self.folder), number],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    def kill(self, part: str) -> None:
        """As the kernel's OOM killer would."""
        self.kills[part] += 1
        if part == "index":
            assert self._index.pid is not None
            os.kill(self._index.pid, signal.SIGKILL)
            eventually(lambda: self._index.pid is None, seconds=10, what="the end of the index")
            return
        self._processes[part].kill()
        self._processes[part].wait(10)

    def close(self) -> None:
        """End everything."""
        for process in self._processes.values():
            process.kill()
            process.wait(10)
        self.index.close()
        self._index.close()
        self._engine.kill()
        self._engine.wait(10)
        self.context.database.close()

    def client(self, title: str) -> Client:
        """A client of a new project."""
        owner = KeyOwner(self.owner.user_id, f"proj_{title}", self.owner.organization_id)
        with self.context.database.write() as session:
            place = {"id": owner.project_id, "organization_id": owner.organization_id}
            session.add(projects, **place, title=title, is_default=False, created_at=0)
        new = NewKey(name=title, scopes=OWNER_SCOPES, excluded_from_rate_limiting=True)
        return Client(self.port, self.context.keys.create(owner, new)[1], owner.project_id)

    def is_idle(self) -> bool:
        """Whether no consumer works on a file: of no event is the delivery open."""
        of_workers = deliveries.c.consumer.in_(_WORKERS) & (deliveries.c.state == "pending")
        with self.context.database.read() as session:
            return bool(session.value(select(func.count()).select_from(deliveries).where(of_workers)) == 0)

    def pass_time(self, seconds: float) -> None:
        """Let that time pass for claims, waits and leases. No process may hold one."""
        with self.context.database.write() as session:
            waits = _files.retry_at.is_not(None)
            session.run(update(vector_store_files).where(waits).values(retry_at=_files.retry_at - seconds))
            session.run(update(work_leases).values(expires_at=work_leases.c.expires_at - seconds))

    def embedded_tokens(self) -> int:
        """The tokens that the engine has embedded."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._engine_port}/metrics", timeout=10) as answer:
            rows = answer.read().decode().splitlines()
        return int(float(next(row.split()[-1] for row in rows if row.startswith("vllm:prompt_tokens_total{"))))


def _free_port() -> int:
    """A port below the ephemeral ones: a process may need seconds before it listens on it."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
