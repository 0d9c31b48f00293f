"""Notebooks on a port whose servers do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llmariner.errors import Unavailable
from llmariner.notebook_settings import NotebookSettings
from llmariner.notebooks.access import NotebookAccess
from llmariner.notebooks.credentials import Credentials
from llmariner.notebooks.notebook import NewNotebook
from llmariner.notebooks.notebooks import Notebooks
from llmariner.notebooks.reconciler import NotebookReconciler
from llmariner.platform.database import Database
from llmariner.platform.notebooks import NotebookServer, NotebookServers, ServerPhase, ServerStatus
from llmariner.settings import Secret
from llmariner.tenancy.keys.store import Keys
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.roles.scopes import PROJECT_ROLES

from ..stored_files import member_of

__all__ = ["NotebookDesk", "ScriptedServers", "emit_notebook_events"]


class ScriptedServers:
    """See `platform.notebooks.NotebookServers`. Tests call `say`; `calls` are the changes that were asked for."""

    def __init__(self) -> None:
        self.problem = ""
        self.too_large = ""
        self.servers: dict[str, NotebookServer] = {}
        self.statuses: dict[str, ServerStatus] = {}
        self.calls: list[tuple[str, str]] = []

    @property
    def images(self) -> dict[str, str]:
        return {"jupyter-lab-base": "registry.example/lab:1", "other": "registry.example/other:1"}

    @property
    def has_gpus(self) -> bool:
        return False

    def check_size(self, millicores: int, memory_bytes: int) -> str:
        return self.too_large

    def start(self, server: NotebookServer) -> None:
        self.calls.append(("start", server.notebook_id))
        self.servers[server.notebook_id] = server
        self.say(server.notebook_id, ServerPhase.QUEUED, reason="It waits for memory.")

    def stop(self, notebook_id: str) -> None:
        self.calls.append(("stop", notebook_id))
        if notebook_id in self.statuses:
            self.say(notebook_id, ServerPhase.STOPPED)

    def remove(self, notebook_id: str) -> bool:
        self.calls.append(("remove", notebook_id))
        self.statuses.pop(notebook_id, None)
        return True

    def status(self, notebook_id: str) -> ServerStatus | None:
        return self.statuses.get(notebook_id)

    async def connect(self, notebook_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError

    def subscribe(self, observer: Callable[[str], None]) -> None:
        pass

    def say(self, notebook_id: str, phase: ServerPhase, code: str = "", reason: str = "") -> None:
        """Let the server of a notebook enter a phase."""
        self.statuses[notebook_id] = ServerStatus(self.servers[notebook_id].run, phase, 5.0, code, reason)


class NotebookDesk:
    """Notebooks of one project, created by its administrator."""

    def __init__(self, database: Database, keys: Keys, owner: KeyOwner, **settings: Any) -> None:
        self.scripted = ScriptedServers()
        self.port: NotebookServers | None = self.scripted
        self.caller = replace(member_of(owner), scopes=PROJECT_ROLES["member"])
        self.project_id = owner.project_id
        secrets = (Secret("s" * 64),)
        credentials = Credentials(keys, secrets, seconds=3600, sources=("127.0.0.0/8",))
        self.store = Notebooks(database, replace(NotebookSettings(), **settings), credentials, self._servers)
        self.reconciler_on = partial(NotebookReconciler, credentials=credentials, servers=self._servers)
        self.reconciler = self.reconciler_on(database)
        self.access = NotebookAccess(database, credentials, secrets[0])

    def _servers(self) -> NotebookServers:
        if self.port is None:
            raise Unavailable("No notebooks run here.", code="no_notebooks")
        return self.port

    def create(self, name: str = "first", **fields: Any) -> str:
        """The id of a new notebook."""
        return self.store.create(self.caller, NewNotebook(name, **fields)).id

    def running(self, name: str = "first", **fields: Any) -> str:
        """The id of a new notebook that runs."""
        id_ = self.create(name, **fields)
        self.reconciler.reconcile(id_)
        self.scripted.say(id_, ServerPhase.RUNNING)
        self.reconciler.reconcile(id_)
        return id_

    def reconciled(self, notebook_id: str) -> Any:
        """The notebook after a reconciliation."""
        self.reconciler.reconcile(notebook_id)
        return self.store.get(self.project_id, notebook_id)


def emit_notebook_events(database: Database, keys: Keys, owner: KeyOwner) -> None:
    """Make every event of notebooks happen."""
    desk = NotebookDesk(database, keys, owner)
    id_ = desk.running()
    desk.scripted.say(id_, ServerPhase.FAILED, "out_of_memory", "It used 2100 MiB of memory and was ended.")
    desk.reconciler.reconcile(id_)
    desk.store.delete(desk.caller, id_)
