"""API keys: making, finding, changing, rotating, revoking. Every change raises the revision and tells of itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, or_, select, union_all, update

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.settings import Secret
from llmariner.tenancy import secrets
from llmariner.tenancy.caller import Owner
from llmariner.tenancy.tables import api_keys, organizations, projects, users

__all__ = ["ApiKey", "Keys", "NewKey", "Owner", "key_with_digest"]

_CREATED = "ai.llmariner.api_key.created.v1"
_UPDATED = "ai.llmariner.api_key.updated.v1"
_REVOKED = "ai.llmariner.api_key.revoked.v1"
_LONGEST_OVERLAP = 30 * 86400


@dataclass(frozen=True)
class NewKey:
    """What a caller says of a key to be made. `expires_in` in seconds; None: never."""

    name: str
    scopes: frozenset[str]
    expires_in: int | None = None
    excluded_from_rate_limiting: bool = False


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored. Times in seconds since 1970; `project_id` None: of the kind 'admin'."""

    id: str
    name: str
    kind: str
    user_id: str
    project_id: str | None
    organization_id: str
    email: str
    organization_title: str
    project_title: str | None
    prefix: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    excluded_from_rate_limiting: bool
    digest: str
    previous_digest: str | None
    previous_expires_at: float | None
    revoked_at: float | None
    revision: int
    project_archived: bool

    def usable(self, at: float) -> bool:
        """Neither revoked nor expired at that time, nor of a project that is archived."""
        alive = self.revoked_at is None and not self.project_archived
        return alive and (self.expires_at is None or at < self.expires_at)

    def superseded(self, digest: str, at: float) -> bool:
        """Whether that digest is of the secret before the last rotation, and its overlap is over."""
        return digest == self.previous_digest and (self.previous_expires_at or 0) <= at


class Keys:
    """The API keys of one installation."""

    def __init__(self, database: Database, pepper: Secret) -> None:
        self._database = database
        self._pepper = pepper

    def create(self, owner: Owner, new: NewKey, secret: str = "") -> tuple[ApiKey, str]:
        """Make a key; the secret is returned this once. Conflict when the owner has a live key of that name.

        `secret` only where it had to be known before there was a database.
        """
        if not 1 <= len(new.name) <= 256:
            raise InvalidRequest("'name' must be 1 to 256 characters long.", param="name")
        secret = secret or secrets.new_secret()
        now = int(time.time())
        key_id = new_id("key")
        with self._database.write() as session:
            # Taken before the look at the names: whoever holds the revision's row is the only one who gives out names.
            revision = next_revision(session, "api_keys")
            if _named(session, owner.user_id, new.name):
                raise Conflict(f"You have a key named '{new.name}' already; choose another name.", param="name")
            session.add(
                api_keys,
                id=key_id,
                name=new.name,
                user_id=owner.user_id,
                project_id=owner.project_id,
                organization_id=owner.organization_id,
                prefix=secrets.mask(secret),
                scopes=" ".join(sorted(new.scopes)),
                created_at=now,
                expires_at=now + new.expires_in if new.expires_in else None,
                excluded_from_rate_limiting=new.excluded_from_rate_limiting,
                digest=secrets.digest(self._pepper, secret),
                revision=revision,
            )
            outbox.add(session, _CREATED, f"api_keys/{key_id}", _told(owner, key_id, new.name))
        return self.get(owner, key_id), secret

    def of_project(self, owner: Owner) -> list[ApiKey]:
        """The live keys of the owner's project, newest first."""
        live = and_(api_keys.c.project_id == owner.project_id, api_keys.c.revoked_at.is_(None))
        with self._database.read() as session:
            rows = session.rows(_KEYS.where(live).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()))
        return [_key(row) for row in rows]

    def get(self, owner: Owner, key_id: str) -> ApiKey:
        """One live key of the owner's project. NotFound otherwise."""
        with self._database.read() as session:
            return _live(session, owner, key_id)

    def update(self, owner: Owner, key_id: str, *, name: str | None, excluded: bool | None) -> ApiKey:
        """Rename a key, or change whether limits apply to it."""
        values: dict[str, Any] = {}
        if name is not None:
            if not 1 <= len(name) <= 256:
                raise InvalidRequest("'name' must be 1 to 256 characters long.", param="name")
            values["name"] = name
        if excluded is not None:
            values["excluded_from_rate_limiting"] = excluded
        with self._database.write() as session:
            if name is not None:
                next_revision(session, "api_keys")  # as in `create`
            key = _live(session, owner, key_id)
            if name is not None and name != key.name and _named(session, key.user_id, name):
                raise Conflict(f"A key named '{name}' exists already; choose another name.", param="name")
            _change(session, key, **values)
            outbox.add(session, _UPDATED, f"api_keys/{key_id}", _told(owner, key_id, name or key.name))
        return self.get(owner, key_id)

    def rotate(self, owner: Owner, key_id: str, *, overlap: int) -> tuple[ApiKey, str]:
        """Give a key a new secret, returned this once; the old one works for `overlap` more seconds."""
        if not 0 <= overlap <= _LONGEST_OVERLAP:
            raise InvalidRequest(f"'overlap_seconds' must be 0 to {_LONGEST_OVERLAP}.", param="overlap_seconds")
        secret = secrets.new_secret()
        with self._database.write() as session:
            key = _live(session, owner, key_id)
            _change(
                session,
                key,
                digest=secrets.digest(self._pepper, secret),
                prefix=secrets.mask(secret),
                previous_digest=key.digest if overlap else None,
                previous_expires_at=time.time() + overlap if overlap else None,
            )
            outbox.add(session, _UPDATED, f"api_keys/{key_id}", _told(owner, key_id, key.name))
        return self.get(owner, key_id), secret

    def revoke(self, owner: Owner, key_id: str) -> None:
        """End a key; every process refuses it within its polling interval (2 s)."""
        with self._database.write() as session:
            key = _live(session, owner, key_id)
            _change(session, key, revoked_at=time.time())
            outbox.add(session, _REVOKED, f"api_keys/{key_id}", _told(owner, key_id, key.name))

    def by_digest(self, digest: str) -> ApiKey | None:
        """The key whose present or previous secret has that digest; expiry is for the caller to look at."""
        with self._database.read() as session:
            return key_with_digest(session, digest)

    def by_secret(self, secret: str) -> ApiKey | None:
        """The key with that secret, present or previous."""
        return self.by_digest(secrets.digest(self._pepper, secret))

    def changed_since(self, revision: int) -> tuple[int, list[str]]:
        """The newest revision, and the ids of the keys, and of the people, changed after `revision`."""
        changes = [
            select(table.c.id, table.c.revision).where(table.c.revision > revision) for table in (api_keys, users)
        ]
        with self._database.read() as session:
            rows = session.rows(union_all(*changes))
        return max([revision, *(row.revision for row in rows)]), [row.id for row in rows]

    def used(self, last_used: dict[str, int]) -> None:
        """Note when keys were last used: key id → seconds since 1970. Coarse, and off the hot path."""
        with self._database.write() as session:
            for key_id, at in last_used.items():
                session.run(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    def digest(self, secret: str) -> str:
        """The digest under which a secret is stored."""
        return secrets.digest(self._pepper, secret)


_KEYS = select(
    api_keys,
    users.c.email,
    organizations.c.title.label("organization_title"),
    projects.c.title.label("project_title"),
    projects.c.archived_at,
).select_from(
    api_keys.join(users)
    .join(organizations, organizations.c.id == api_keys.c.organization_id)
    .outerjoin(projects, projects.c.id == api_keys.c.project_id)
)


def key_with_digest(session: ReadSession, digest: str) -> ApiKey | None:
    """The key whose present or previous secret has that digest."""
    row = session.first(_KEYS.where(or_(api_keys.c.digest == digest, api_keys.c.previous_digest == digest)))
    return _key(row) if row else None


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        kind=row.kind,
        user_id=row.user_id,
        project_id=row.project_id,
        organization_id=row.organization_id,
        email=row.email,
        organization_title=row.organization_title,
        project_title=row.project_title,
        prefix=row.prefix,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        excluded_from_rate_limiting=row.excluded_from_rate_limiting,
        digest=row.digest,
        previous_digest=row.previous_digest,
        previous_expires_at=row.previous_expires_at,
        revoked_at=row.revoked_at,
        revision=row.revision,
        project_archived=row.archived_at is not None,
    )


def _live(session: ReadSession, owner: Owner, key_id: str) -> ApiKey:
    row = session.first(_KEYS.where(api_keys.c.id == key_id, api_keys.c.project_id == owner.project_id))
    if row is None or row.revoked_at is not None:
        raise NotFound(f"No API key with id '{key_id}'. List yours with GET /v1/api_keys.", param="id")
    return _key(row)


def _named(session: ReadSession, user_id: str, name: str) -> bool:
    query = select(api_keys.c.id).where(
        api_keys.c.user_id == user_id, api_keys.c.name == name, api_keys.c.revoked_at.is_(None)
    )
    return session.first(query) is not None


def _change(session: WriteSession, key: ApiKey, **values: Any) -> None:
    statement = update(api_keys).where(api_keys.c.id == key.id, api_keys.c.revision == key.revision)
    try:
        changed = session.run(statement.values(revision=next_revision(session, "api_keys"), **values))
    except Duplicate as error:
        raise Conflict("The key was changed at the same time; read it again and retry.") from error
    if not changed:
        raise Conflict("The key was changed at the same time; read it again and retry.")


def _told(owner: Owner, key_id: str, name: str) -> dict[str, Any]:
    return {
        "id": key_id,
        "name": name,
        "user_id": owner.user_id,
        "project_id": owner.project_id,
        "organization_id": owner.organization_id,
    }
