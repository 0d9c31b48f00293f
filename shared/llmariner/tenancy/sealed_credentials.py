"""Credentials of projects for services outside the platform, encrypted: the part that all kinds have in common.

A kind has a table of its own with the columns `id`, `organization_id`, `project_id`, `username`, `sealed`, `key_id`,
`created_at`, `updated_at` (Unix seconds), and those that identify a credential within its project.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, delete, select, update

from llmariner.errors import InvalidRequest
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.encryption import Encryption, Undecipherable
from llmariner.settings import Secret
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.tables import projects

__all__ = ["SealedCredentials", "check_secret", "check_username"]

_BATCH = 100
_LOST = "lost"
"""The key of a credential that no secret of the installation decrypts."""
_SECRET = re.compile(r"[\x21-\x7e]{1,4096}")
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]{1,256}")


class SealedCredentials:
    """The credentials of one kind. `secrets`: those of the installation, the first encrypts. All methods block."""

    def __init__(
        self, database: Database, table: Table, secrets: Sequence[Secret], purpose: str, *, id_prefix: str
    ) -> None:
        self._database = database
        self._table = table
        self._encryption = Encryption(secrets, purpose)
        self._id_prefix = id_prefix

    def put(
        self, session: WriteSession, owner: KeyOwner, identity: Mapping[str, str], secret: Secret, username: str | None
    ) -> Row[Any]:
        """Set a credential, in place of the one before; `identity`: the columns that identify it. Returns its row."""
        c, now = self._table.c, int(time.time())
        this = and_(c.project_id == owner.project_id, *(c[name] == value for name, value in identity.items()))
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
        blank = {"username": None, "sealed": "", "key_id": "", "created_at": now, "updated_at": now}
        session.insert_if_absent(self._table, [{"id": new_id(self._id_prefix), **place, **identity, **blank}])
        found = session.first(select(self._table).where(this).with_for_update())
        assert found is not None
        encrypted = self._encryption.encrypt(secret.reveal(), found.id)
        values = {"username": username, "sealed": encrypted, "key_id": self._encryption.key_id, "updated_at": now}
        session.run(update(self._table).where(this).values(**values))
        stored = session.first(select(self._table).where(this))
        assert stored is not None
        return stored

    def all(self, project_id: str) -> Sequence[Row[Any]]:
        """The rows of a project, in the order of their ids."""
        c = self._table.c
        with self._database.read() as session:
            return session.rows(select(self._table).where(c.project_id == project_id).order_by(c.id))

    def find(self, this: ColumnElement[bool]) -> tuple[Row[Any], Secret] | None:
        """The credential that a condition selects. Raises Undecipherable."""
        with self._database.read() as session:
            row = session.first(select(self._table).where(this))
        return None if row is None else (row, Secret(self._encryption.decrypt(row.sealed, row.id)))

    def renew(self) -> None:
        """Encrypt again what another of the secrets encrypted, some credentials at a time."""
        c = self._table.c
        known = (self._encryption.key_id, _LOST)
        with self._database.read() as session:
            old = session.rows(select(self._table).where(c.key_id.not_in(known)).limit(_BATCH))
        for row in old:
            key_id = self._encryption.key_id
            try:
                renewed = self._encryption.renewed(row.sealed, row.id)
            except Undecipherable:  # the project must set it again, which its jobs and models say
                renewed, key_id = row.sealed, _LOST
            unchanged = and_(c.id == row.id, c.sealed == row.sealed)
            with self._database.write() as session:
                session.run(update(self._table).where(unchanged).values(sealed=renewed, key_id=key_id))

    def delete_orphans(self) -> None:
        """Delete what gone projects had. For the sweep."""
        c = self._table.c
        gone = select(c.id).where(c.project_id.not_in(select(projects.c.id))).limit(_BATCH)
        with self._database.read() as session:
            ids = [row.id for row in session.rows(gone)]
        if ids:
            with self._database.write() as session:
                session.run(delete(self._table).where(c.id.in_(ids)))


def check_secret(secret: Secret) -> None:
    """Raises InvalidRequest for what no server takes."""
    if not _SECRET.fullmatch(secret.reveal()):
        raise InvalidRequest(
            "'secret' must have 1 to 4096 printable ASCII characters without spaces.",
            param="secret",
            code="invalid_value",
        )


def check_username(username: str) -> None:
    """Raises InvalidRequest for what no server takes."""
    if not _USERNAME.fullmatch(username):
        raise InvalidRequest(
            "'username' must have 1 to 256 characters, without ':' and control characters.",
            param="username",
            code="invalid_value",
        )
