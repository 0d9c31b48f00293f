"""The notebooks of projects: created, listed, started, stopped, deleted. `reconciler` makes the notebooks port run them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, func, select, update

from llmariner.errors import Conflict, InvalidRequest, Unavailable
from llmariner.identifiers import new_id
from llmariner.notebook_settings import NotebookSettings
from llmariner.notebooks.credentials import Credentials, key_columns
from llmariner.notebooks.events import CHANGE_REQUESTED, CREATED, DELETED, add_notebook_event
from llmariner.notebooks.notebook import NewNotebook, Notebook, Status
from llmariner.notebooks.stored import append_audit, load_notebook
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.platform.notebooks import NotebookServers
from llmariner.showback.budgets import check_compute_budgets
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.principal import Caller, KeyOwner

__all__ = ["Notebooks"]

_MEGABYTE = 1024**2


class Notebooks:
    """The notebooks of one installation; others' notebooks are NotFound.

    `servers` returns the notebooks port or raises Unavailable where the installation has none. All methods block.
    """

    def __init__(
        self,
        database: Database,
        settings: NotebookSettings,
        credentials: Credentials,
        servers: Callable[[], NotebookServers],
    ) -> None:
        self._database = database
        self._settings = settings
        self._credentials = credentials
        self._servers = servers

    def create(self, caller: Caller, new: NewNotebook) -> Notebook:
        """Create a notebook, which starts. InvalidRequest; Conflict for a taken name or too many notebooks.

        InsufficientQuota where a budget is spent that compute counts in, Unavailable where nothing would run it.
        """
        owner = caller.key_owner
        new.check()
        image_type = self._check_room(new)
        row = _row(caller, owner, new, image_type)

        def insert(session: WriteSession) -> Notebook:
            serialize_mutations(session)
            self._check_number(session, owner.project_id)
            check_compute_budgets(session, owner)
            columns = row | key_columns(session, caller)
            columns |= self._credentials.issue(session, caller, columns, 1)
            try:
                session.add(notebooks, **columns)
            except Duplicate as error:
                raise Conflict(
                    f"A notebook of your project is named '{new.name}' already; choose another name, or delete that one.",
                    param="name",
                    code="notebook_exists",
                ) from error
            made = load_notebook(session, owner.project_id, row["id"])
            add_notebook_event(session, CREATED, made, name=made.name)
            add_notebook_event(session, CHANGE_REQUESTED, made, change="start")
            append_audit(session, caller, "created", made, data={"name": made.name})
            return Notebook.from_row(made)

        return self._database.transact(insert)

    def page(self, project_id: str, *, after: str | None, limit: int) -> tuple[list[Notebook], bool]:
        """Up to `limit` notebooks, newest first, and whether more follow. `after`: an id that exists or existed."""
        query = select(notebooks).where(notebooks.c.project_id == project_id, notebooks.c.deleted_at.is_(None))
        if after is not None:
            query = query.where(notebooks.c.id < after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(notebooks.c.id.desc()).limit(limit + 1))
        return [self._shown(row) for row in rows[:limit]], len(rows) > limit

    def count(self, project_id: str) -> int:
        """The number of notebooks on all pages."""
        with self._database.read() as session:
            return _number(session, project_id)

    def get(self, project_id: str, notebook_id: str) -> Notebook:
        """One notebook. NotFound."""
        with self._database.read() as session:
            row = load_notebook(session, project_id, notebook_id)
        return self._shown(row)

    def start(self, caller: Caller, notebook_id: str) -> Notebook:
        """Start a notebook that has stopped or failed, with its files as they are. No effect on another one.

        Conflict while it stops; InsufficientQuota and Unavailable as `create`. Who starts another's notebook gets no access.
        """
        owner = caller.key_owner
        self._servers()

        def request(session: WriteSession) -> Row[Any]:
            serialize_mutations(session)
            found = load_notebook(session, owner.project_id, notebook_id, lock=True)
            status = Status(found.status)
            if status.is_active:
                return found
            if status is Status.STOPPING or found.api_key_id is not None:
                raise Conflict(
                    "The notebook stops at the moment: start it once its status is 'stopped'.", code="notebook_stopping"
                )
            check_compute_budgets(session, KeyOwner(found.user_id, found.project_id, found.organization_id))
            values = self._credentials.issue(session, caller, dict(found._mapping), found.run + 1)
            values |= {"status": Status.QUEUED.value, "error_code": None, "error_message": None}
            values |= {"started_at": None, "stopped_at": None}
            return _change(session, caller, found, values, "start")

        return self._shown(self._database.transact(request))

    def stop(self, caller: Caller, notebook_id: str) -> Notebook:
        """Ask for the end of a notebook's server, which follows soon; its files stay. No effect on one that has ended."""
        owner = caller.key_owner

        def request(session: WriteSession) -> Row[Any]:
            found = load_notebook(session, owner.project_id, notebook_id, lock=True)
            if not Status(found.status).is_active:
                return found
            return _change(session, caller, found, {"status": Status.STOPPING.value}, "stop")

        return self._shown(self._database.transact(request))

    def delete(self, caller: Caller, notebook_id: str) -> None:
        """Delete a notebook with its files; its server ends soon. NotFound."""
        owner = caller.key_owner

        def remove(session: WriteSession) -> None:
            serialize_mutations(session)
            found = load_notebook(session, owner.project_id, notebook_id, lock=True)
            gone = {"deleted_at": time.time(), "active_name": None, "link_digest": None}
            session.run(update(notebooks).where(notebooks.c.id == notebook_id).values(**gone))
            add_notebook_event(session, DELETED, found)
            add_notebook_event(session, CHANGE_REQUESTED, found, change="delete")
            append_audit(session, caller, "deleted", found)

        self._database.transact(remove)

    def _check_room(self, new: NewNotebook) -> str:
        """The type of its image. Raises InvalidRequest, Unavailable."""
        servers = self._servers()
        if problem := servers.problem:
            raise Unavailable(
                f"This machine cannot run notebooks: {problem}",
                code="no_notebooks",
                headers={"x-should-retry": "false"},
            )
        image_type = new.image_of(servers.images)
        new.check_gpus(has_gpus=servers.has_gpus)
        size = new.amount("memory_megabytes") * _MEGABYTE
        if refusal := servers.check_size(new.amount("cpu_milicore"), size):
            raise InvalidRequest(refusal, param="resources", code="notebook_too_large")
        return image_type

    def _check_number(self, session: ReadSession, project_id: str) -> None:
        number = _number(session, project_id)
        if number >= self._settings.project_notebooks:
            raise Conflict(
                f"Your project has {number} notebooks, as many as it may have: delete one first.",
                code="too_many_notebooks",
            )

    def _shown(self, row: Row[Any]) -> Notebook:
        """The notebook of a row, with the reason why it waits."""
        reason = ""
        if row.status in (Status.QUEUED, Status.INITIALIZING):
            try:
                status = self._servers().status(row.id)
                reason = status.reason if status is not None and status.run == row.run else ""
            except Unavailable as error:
                reason = error.message
        return Notebook.from_row(row, reason)


def _change(session: WriteSession, caller: Caller, found: Row[Any], values: dict[str, Any], change: str) -> Row[Any]:
    """Change a row, and ask for what follows from it; returns the changed row."""
    session.run(update(notebooks).where(notebooks.c.id == found.id).values(**values))
    add_notebook_event(session, CHANGE_REQUESTED, found, change=change)
    append_audit(session, caller, "started" if change == "start" else "stopped", found)
    return load_notebook(session, found.project_id, found.id)


def _number(session: ReadSession, project_id: str) -> int:
    query = select(func.count()).select_from(notebooks)
    alive = query.where(notebooks.c.project_id == project_id, notebooks.c.deleted_at.is_(None))
    return int(session.value(alive))


def _row(caller: Caller, owner: KeyOwner, new: NewNotebook, image_type: str) -> dict[str, Any]:
    return {
        "id": new_id("nb").replace("_", "-"),
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "key_id": caller.key_id,
        "name": new.name,
        "active_name": new.name,
        "image_type": image_type,
        "millicores": new.amount("cpu_milicore"),
        "memory_megabytes": new.amount("memory_megabytes"),
        "storage_megabytes": new.amount("storage_megabytes"),
        "gpu_count": new.gpu_count,
        "envs": json.dumps(dict(new.envs)),
        "ports": json.dumps(list(new.ports)),
        "shared": new.shared,
        "status": Status.QUEUED.value,
        "created_at": int(time.time()),
    }
