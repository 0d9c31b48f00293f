"""Makes the notebooks port do what the rows of notebooks ask for, and the rows say what became of it.

`reconcile` is idempotent and looks at the present state alone, so events may come late, twice or out of order; a periodic
call for every notebook that has not ended makes up for those that were lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, delete, or_, select, update

from llmariner.errors import Unavailable
from llmariner.notebooks.credentials import Credentials
from llmariner.notebooks.events import STARTED, STOPPED, add_notebook_event
from llmariner.notebooks.notebook import Status
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.keyed_walk import KeyedWalk
from llmariner.platform.notebooks import NotebookServer, NotebookServers, ServerPhase, ServerStatus
from llmariner.tenancy.gone_projects import gone_projects
from llmariner.tenancy.tables import projects

__all__ = ["NotebookReconciler"]

_BATCH = 200
_MEGABYTE = 1024**2
_ACTIVE = tuple(each.value for each in Status if each.is_active)
_LOST = "The platform that ran it knows nothing of it any more. Start it again."


class NotebookReconciler:
    """See the module. `servers` raises Unavailable in an installation without notebooks."""

    def __init__(self, database: Database, credentials: Credentials, servers: Callable[[], NotebookServers]) -> None:
        self._database = database
        self._credentials = credentials
        self._servers = servers
        c = notebooks.c
        pending = or_(
            c.status.in_((*_ACTIVE, Status.STOPPING.value)), c.deleted_at.is_not(None), c.api_key_id.is_not(None)
        )
        self._walk = KeyedWalk(database, c.id, pending, "notebook")

    def reconcile_all(self, *, seconds: float) -> None:
        """Reconcile every notebook that is to run or to end, or whose project is gone or archived. For the sweep.

        It ends after that many seconds; the next call does the rest. One that fails to be reconciled holds up no other.
        """
        self._end_of_gone_projects()
        self._walk.reconcile_each(self.reconcile, seconds=seconds)

    def reconcile(self, notebook_id: str) -> None:
        """Bring one notebook's row and the port together. The port forgets an id without a row."""
        with self._database.read() as session:
            row = session.first(select(notebooks).where(notebooks.c.id == notebook_id))
        try:
            port = self._servers()
        except Unavailable:
            if row is not None:
                self._reconcile_without_port(row)
            return
        if row is None:
            port.remove(notebook_id)
        elif row.deleted_at is not None:
            self._credentials.revoke(row)
            if port.remove(notebook_id):
                self._delete_row(notebook_id)
        else:
            self._converge(port, row)

    def _converge(self, port: NotebookServers, row: Row[Any]) -> None:
        status = port.status(row.id)
        own = status if status is not None and status.run == row.run else None
        if row.status in _ACTIVE:
            if own is not None:
                self._record(row, own)
            elif status is not None and not status.phase.is_final:
                port.stop(row.id)  # that of an earlier start; its end is reported, and this one begins then
            elif row.status == Status.QUEUED:
                port.start(self._server(row))
            else:
                self._end(row, ServerStatus(row.run, ServerPhase.FAILED, time.time(), "interrupted", _LOST))
            return
        if status is not None and not status.phase.is_final:
            port.stop(row.id)
            own = status = port.status(row.id)
        if status is not None and not status.phase.is_final:
            return  # its end is reported
        if row.status == Status.STOPPING or row.api_key_id is not None:
            ended = own if own is not None and own.phase is ServerPhase.STOPPED else None
            self._end(row, ended or ServerStatus(row.run, ServerPhase.STOPPED, time.time()))

    def _server(self, row: Row[Any]) -> NotebookServer:
        key = self._credentials.key(row)
        return NotebookServer(
            notebook_id=row.id,
            run=row.run,
            project_id=row.project_id,
            token=self._credentials.token(row),
            millicores=row.millicores,
            memory_bytes=row.memory_megabytes * _MEGABYTE,
            storage_bytes=row.storage_megabytes * _MEGABYTE,
            organization_id=row.organization_id,
            image=row.image_type,
            gpu_count=row.gpu_count or 0,
            environment={**json.loads(row.envs), "OPENAI_API_KEY": key, "LLMARINER_API_KEY": key},
        )

    def _record(self, row: Row[Any], own: ServerStatus) -> None:
        """Write what the port says of the row's present start."""
        if own.phase.is_final:
            if own.phase is ServerPhase.FAILED:
                self._servers().stop(row.id)  # what can't start may still wait for its image, and hold its quota
            self._end(row, own)
        elif own.phase.value != row.status:
            self._database.transact(lambda session: _note(session, row, own))

    def _end(self, row: Row[Any], ended: ServerStatus) -> None:
        """Revoke the key of a start, and say how it ended."""
        self._credentials.revoke(row)

        def change(session: WriteSession) -> None:
            found = _locked(session, row)
            if found is None or found.api_key_id is None:
                return
            final = Status(found.status) if not _is_open(found) else Status(ended.phase.value)
            values: dict[str, Any] = {
                "status": final.value,
                "api_key_id": None,
                "sealed_key": None,
                "sealed_token": None,
            }
            values |= {"link_digest": None, "stopped_at": found.stopped_at or ended.since}
            if ended.code and _is_open(found):
                values |= {"error_code": ended.code, "error_message": ended.reason}
            session.run(update(notebooks).where(notebooks.c.id == row.id).values(**values))
            error = {"code": ended.code, "message": ended.reason} if ended.code else None
            add_notebook_event(session, STOPPED, found, status=final.value, error=error)

        self._database.transact(change)

    def _reconcile_without_port(self, row: Row[Any]) -> None:
        """Nothing runs notebooks in this installation any more."""
        if row.deleted_at is not None:
            self._credentials.revoke(row)
            self._delete_row(row.id)
        elif row.api_key_id is not None and row.status != Status.QUEUED:
            self._end(row, ServerStatus(row.run, ServerPhase.FAILED, time.time(), "interrupted", _LOST))

    def _end_of_gone_projects(self) -> None:
        """Delete the notebooks of projects that are gone, and stop those of archived ones: nobody can see them any more."""
        c = notebooks.c
        archived = select(projects.c.id).where(projects.c.archived_at.is_not(None))
        with self._database.read() as session:
            gone = gone_projects(session, c.project_id, _BATCH)
            of_gone = select(c.id).where(c.project_id.in_(gone), c.deleted_at.is_(None)).limit(_BATCH)
            of_archived = select(c.id).where(c.status.in_(_ACTIVE), c.project_id.in_(archived)).limit(_BATCH)
            deleted = [row.id for row in session.rows(of_gone)] if gone else []
            stopped = [row.id for row in session.rows(of_archived)]
        if deleted or stopped:
            with self._database.write() as session:
                session.run(update(notebooks).where(c.id.in_(deleted)).values(deleted_at=time.time()))
                # One that has ended meanwhile has no key any more, whose end is what ends a stop.
                still = c.id.in_(stopped) & c.status.in_(_ACTIVE)
                session.run(update(notebooks).where(still).values(status=Status.STOPPING.value))

    def _delete_row(self, notebook_id: str) -> None:
        with self._database.write() as session:
            session.run(delete(notebooks).where(notebooks.c.id == notebook_id))


def _locked(session: WriteSession, row: Row[Any]) -> Row[Any] | None:
    """The row as it is now, unless the notebook was deleted or started again meanwhile."""
    this = (notebooks.c.id == row.id) & (notebooks.c.run == row.run) & notebooks.c.deleted_at.is_(None)
    return session.first(select(notebooks).where(this).with_for_update())


def _is_open(row: Row[Any]) -> bool:
    return row.status in (*_ACTIVE, Status.STOPPING)


def _note(session: WriteSession, row: Row[Any], own: ServerStatus) -> None:
    """Write the phase of a server that has not ended."""
    found = _locked(session, row)
    if found is None or found.status not in _ACTIVE or found.status == own.phase.value:
        return
    values: dict[str, Any] = {"status": own.phase.value}
    if own.phase is ServerPhase.RUNNING:
        values["started_at"] = own.since
        add_notebook_event(session, STARTED, found)
    session.run(update(notebooks).where(notebooks.c.id == row.id).values(**values))
