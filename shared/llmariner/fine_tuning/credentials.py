"""Credentials by which the metrics of a project's jobs are sent to tracking servers.

An owner of the project sets them; nobody reads them back. They are encrypted in the database, each good for one server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, select, update

from llmariner.audit import log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.fine_tuning.tables import fine_tuning_credentials, fine_tuning_runs
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.encryption import Encryption, Undecipherable
from llmariner.platform.trackers import Credential
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects
from llmariner.tracking_settings import TrackingSettings

__all__ = ["Credentials", "NewCredential", "StoredCredential", "has_credential"]

_BATCH = 100
_LOST = "lost"
"""The key of a credential that no secret of the installation decrypts."""
_SECRET = re.compile(r"[\x21-\x7e]{1,4096}")
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]{1,256}")


@dataclass(frozen=True)
class NewCredential:
    """A credential to set. `server` None: the default of the type. `username` None: the secret is a token or an API key."""

    type: str
    secret: Secret
    server: str | None = None
    username: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what no server takes."""
        if not _SECRET.fullmatch(self.secret.reveal()):
            raise InvalidRequest(
                "'secret' must have 1 to 4096 printable ASCII characters without spaces.",
                param="secret",
                code="invalid_value",
            )
        if self.username is None:
            return
        if self.type != "mlflow":
            raise InvalidRequest(
                f"'{self.type}' takes an API key alone: send no 'username'.", param="username", code="invalid_value"
            )
        if not _USERNAME.fullmatch(self.username):
            raise InvalidRequest(
                "'username' must have 1 to 256 characters, without ':' and control characters.",
                param="username",
                code="invalid_value",
            )


@dataclass(frozen=True)
class StoredCredential:
    """A credential without its secret. Times are Unix seconds."""

    id: str
    type: str
    server: str
    username: str | None
    created_at: int
    updated_at: int


class Credentials:
    """The credentials of the projects of one installation. All methods block.

    `secrets`: those of the installation, the first encrypts.
    """

    def __init__(self, database: Database, settings: TrackingSettings, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._settings = settings
        self._encryption = Encryption(secrets, "credentials of tracking servers")

    def put(self, caller: Caller, new: NewCredential) -> StoredCredential:
        """Set the credential of the caller's project for a server, in place of the one before.

        Runs that wait for it are tried again soon. Raises InvalidRequest.
        """
        owner, server = caller.key_owner, self._server(new)
        new.check()
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
        this = _of(owner.project_id, new.type, server)

        def write(session: WriteSession) -> Row[Any]:
            now, id_ = int(time.time()), new_id("ftcred")
            blank = {"username": None, "sealed": "", "key_id": "", "created_at": now, "updated_at": now}
            row = {"id": id_, **place, "type": new.type, "server": server, **blank}
            session.insert_if_absent(fine_tuning_credentials, [row])
            found = session.first(select(fine_tuning_credentials).where(this).with_for_update())
            assert found is not None
            encrypted = self._encryption.encrypt(new.secret.reveal(), found.id)
            values = {"username": new.username, "sealed": encrypted, "key_id": self._encryption.key_id}
            session.run(update(fine_tuning_credentials).where(this).values(**values, updated_at=now))
            c = fine_tuning_runs.c
            waits = and_(c.project_id == owner.project_id, c.type == new.type, c.server == server, c.failures > 0)
            session.run(update(fine_tuning_runs).where(waits, c.state == "active").values(retry_at=0.0, asked_at=0.0))
            stored = session.first(select(fine_tuning_credentials).where(this))
            assert stored is not None
            payload = {"id": stored.id, "type": new.type, "server": server}
            log.append_entry(session, caller, "fine_tuning_credential.set", payload, **place)
            return stored

        return _stored(self._database.transact(write))

    def all(self, project_id: str) -> list[StoredCredential]:
        """The credentials of a project: one for each server at most."""
        query = select(fine_tuning_credentials).where(fine_tuning_credentials.c.project_id == project_id)
        with self._database.read() as session:
            rows = session.rows(query.order_by(fine_tuning_credentials.c.id))
        return [_stored(row) for row in rows]

    def delete(self, caller: Caller, credential_id: str) -> None:
        """Delete a credential of the caller's project. NotFound."""
        owner, c = caller.key_owner, fine_tuning_credentials.c
        this = and_(c.id == credential_id, c.project_id == owner.project_id)

        def remove(session: WriteSession) -> None:
            if not session.run(delete(fine_tuning_credentials).where(this)):
                raise NotFound(
                    f"No such credential: '{credential_id[:64]}'. List those of your project with "
                    "GET /v1/fine_tuning/credentials.",
                    param="credential_id",
                )
            place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
            log.append_entry(session, caller, "fine_tuning_credential.deleted", {"id": credential_id}, **place)

        self._database.transact(remove)

    def find(self, project_id: str, type_: str, server: str) -> Credential | None:
        """The credential of a project for a server. Raises Undecipherable."""
        with self._database.read() as session:
            row = session.first(select(fine_tuning_credentials).where(_of(project_id, type_, server)))
        if row is None:
            return None
        return Credential(row.username or "", Secret(self._encryption.decrypt(row.sealed, row.id)))

    def renew(self) -> None:
        """Encrypt again what another of the secrets encrypted, some credentials at a time."""
        c = fine_tuning_credentials.c
        known = (self._encryption.key_id, _LOST)
        with self._database.read() as session:
            old = session.rows(select(fine_tuning_credentials).where(c.key_id.not_in(known)).limit(_BATCH))
        for row in old:
            key_id = self._encryption.key_id
            try:
                renewed = self._encryption.renewed(row.sealed, row.id)
            except Undecipherable:  # the project must set it again, which its jobs say
                renewed, key_id = row.sealed, _LOST
            unchanged = and_(c.id == row.id, c.sealed == row.sealed)
            with self._database.write() as session:
                session.run(update(fine_tuning_credentials).where(unchanged).values(sealed=renewed, key_id=key_id))

    def delete_orphans(self) -> None:
        """Delete what gone projects had. For the sweep."""
        c = fine_tuning_credentials.c
        gone = select(c.id).where(c.project_id.not_in(select(projects.c.id))).limit(_BATCH)
        with self._database.read() as session:
            ids = [row.id for row in session.rows(gone)]
        if ids:
            with self._database.write() as session:
                session.run(delete(fine_tuning_credentials).where(c.id.in_(ids)))

    def _server(self, new: NewCredential) -> str:
        servers = self._settings.servers(new.type)
        if not servers:
            raise InvalidRequest(
                f"This installation has no server of the type '{new.type[:64]}'.",
                param="type",
                code="unsupported_integration",
            )
        named = servers[0] if new.server is None else new.server.rstrip("/")
        if named not in servers:
            raise InvalidRequest(
                f"'server' must be one of the servers that the installation allows: {', '.join(servers)}.",
                param="server",
                code="tracking_server_not_allowed",
            )
        return named


def has_credential(session: ReadSession, project_id: str, type_: str, server: str) -> bool:
    """Whether the project has a credential for a server."""
    return session.first(select(fine_tuning_credentials.c.id).where(_of(project_id, type_, server))) is not None


def _of(project_id: str, type_: str, server: str) -> ColumnElement[bool]:
    c = fine_tuning_credentials.c
    return and_(c.project_id == project_id, c.type == type_, c.server == server)


def _stored(row: Row[Any]) -> StoredCredential:
    return StoredCredential(**{name: getattr(row, name) for name in StoredCredential.__dataclass_fields__})
