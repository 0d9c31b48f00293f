"""Credentials by which the metrics of a project's jobs are sent to tracking servers.

An owner of the project sets them; nobody reads them back. They are encrypted in the database, each good for one server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, select, update

from llmariner.audit import log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.fine_tuning.tables import fine_tuning_credentials, fine_tuning_runs
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.trackers import Credential
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.sealed_credentials import SealedCredentials, check_secret, check_username
from llmariner.tracking_settings import TrackingSettings

__all__ = ["Credentials", "NewCredential", "StoredCredential", "has_credential"]


@dataclass(frozen=True)
class NewCredential:
    """A credential to set. `server` None: the default of the type. `username` None: the secret is a token or an API key."""

    type: str
    secret: Secret
    server: str | None = None
    username: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what no server takes."""
        check_secret(self.secret)
        if self.username is None:
            return
        if self.type != "mlflow":
            raise InvalidRequest(
                f"'{self.type}' takes an API key alone: send no 'username'.", param="username", code="invalid_value"
            )
        check_username(self.username)


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
        self._sealed = SealedCredentials(
            database, fine_tuning_credentials, secrets, "credentials of tracking servers", id_prefix="ftcred"
        )

    def put(self, caller: Caller, new: NewCredential) -> StoredCredential:
        """Set the credential of the caller's project for a server, in place of the one before.

        Runs that wait for it are tried again soon. Raises InvalidRequest.
        """
        owner, server = caller.key_owner, self._server(new)
        new.check()
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}

        def write(session: WriteSession) -> Row[Any]:
            identity = {"type": new.type, "server": server}
            stored = self._sealed.put(session, owner, identity, new.secret, new.username)
            c = fine_tuning_runs.c
            waits = and_(c.project_id == owner.project_id, c.type == new.type, c.server == server, c.failures > 0)
            session.run(update(fine_tuning_runs).where(waits, c.state == "active").values(retry_at=0.0, asked_at=0.0))
            payload = {"id": stored.id, "type": new.type, "server": server}
            log.append_entry(session, caller, "fine_tuning_credential.set", payload, **place)
            return stored

        return _stored(self._database.transact(write))

    def all(self, project_id: str) -> list[StoredCredential]:
        """The credentials of a project: one for each server at most."""
        return [_stored(row) for row in self._sealed.all(project_id)]

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
        found = self._sealed.find(_of(project_id, type_, server))
        return None if found is None else Credential(found[0].username or "", found[1])

    def renew(self) -> None:
        """Encrypt again what another of the secrets encrypted, some credentials at a time."""
        self._sealed.renew()

    def delete_orphans(self) -> None:
        """Delete what gone projects had. For the sweep."""
        self._sealed.delete_orphans()

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
