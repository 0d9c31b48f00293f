"""API keys: created, listed, changed, rotated, revoked. Every change bumps the revision and emits an event."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select, union_all, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.limits.cascade_delete import delete_rules
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.settings import Secret
from llmariner.tenancy import validators
from llmariner.tenancy.keys import allowed_networks, secrets
from llmariner.tenancy.keys.attenuation import (
    attenuate,
    check_can_change,
    check_can_receive_secret,
    scopes_after_rotation,
)
from llmariner.tenancy.keys.key import KEYS, ApiKey, find_key_by_digest, key_from_row
from llmariner.tenancy.members.deprovisioning import delete_service_account
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.tables import api_keys, users

__all__ = ["UNSET", "ApiKey", "KeyOwner", "KeySelector", "Keys", "NewKey", "find_key_by_digest"]

_CREATED = "ai.llmariner.api_key.created.v1"
_UPDATED = "ai.llmariner.api_key.updated.v1"
_REVOKED = "ai.llmariner.api_key.revoked.v1"
_MAX_OVERLAP_SECONDS = 30 * 86400
_MAX_MODELS = 1000


class _Unset:
    """The type of `UNSET`, the default of update parameters for which None is a value."""


UNSET: Final = _Unset()


@dataclass(frozen=True)
class NewKey:
    """A key to create. `expires_in` in seconds; None: never.

    `allowed_models`: ids of the models that it may use, `allowed_sources`: networks from which it may be used, in CIDR form;
    None: all.
    """

    name: str
    scopes: frozenset[str]
    expires_in: int | None = None
    excluded_from_rate_limiting: bool = False
    allowed_models: tuple[str, ...] | None = None
    allowed_sources: tuple[str, ...] | None = None


@dataclass(frozen=True)
class KeySelector:
    """Selects the keys of an organization, optionally of one project and of one user.

    `kind`: 'project' keys, or 'admin' keys, which have no project.
    """

    organization_id: str
    project_id: str | None = None
    user_id: str | None = None
    kind: str = "project"

    def condition(self) -> ColumnElement[bool]:
        """The condition on rows of `api_keys`."""
        requested = {"organization_id": self.organization_id, "kind": self.kind}
        requested |= {"project_id": self.project_id} if self.project_id is not None else {}
        requested |= {"user_id": self.user_id} if self.user_id is not None else {}
        return and_(*(api_keys.c[name] == value for name, value in requested.items()))


class Keys:
    """The API keys of one installation. A `KeyOwner` as selector selects all keys of its project.

    `actor` None: the platform itself.
    """

    def __init__(self, database: Database, pepper: Secret) -> None:
        self._database = database
        self._pepper = pepper

    def create(
        self, owner: KeyOwner, new: NewKey, secret: str = "", *, actor: Caller | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key; returns it with its secret, which is not stored.

        Conflict if the owner has an unrevoked key of that name in the organization. `secret` is given only if it had to
        exist before the database.
        """
        secret = secret or secrets.new_secret()
        with self._database.write() as session:
            place = (owner.user_id, owner.organization_id, owner.project_id)
            key_id = self._insert(session, actor, new, secret, *place)
        return self.get(owner, key_id), secret

    def create_in(
        self, session: WriteSession, owner: KeyOwner, new: NewKey, *, actor: Caller | None = None
    ) -> tuple[str, str]:
        """As `create`, inside the given transaction; returns id and secret."""
        secret = secrets.new_secret()
        return self._insert(session, actor, new, secret, owner.user_id, owner.organization_id, owner.project_id), secret

    def create_admin(self, caller: Caller, new: NewKey) -> tuple[ApiKey, str]:
        """Create a key that administers the caller's organization and belongs to no project; as `create`."""
        secret = secrets.new_admin_secret()
        with self._database.write() as session:
            key_id = self._insert(session, caller, new, secret, caller.user_id, caller.organization_id, None)
        return self.get(KeySelector(caller.organization_id, kind="admin"), key_id), secret

    def of_project(self, owner: KeyOwner) -> list[ApiKey]:
        """The unrevoked keys of the owner's project, newest first."""
        return self.matching(_selector(owner))

    def matching(self, view: KeySelector) -> list[ApiKey]:
        """The unrevoked keys that a selector selects, newest first."""
        live = and_(view.condition(), api_keys.c.revoked_at.is_(None))
        with self._database.read() as session:
            rows = session.rows(KEYS.where(live).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()))
        return [key_from_row(row) for row in rows]

    def get(self, view: KeyOwner | KeySelector, key_id: str) -> ApiKey:
        """One unrevoked key. NotFound otherwise."""
        with self._database.read() as session:
            return _live_key(session, view, key_id)

    def update(
        self,
        view: KeyOwner | KeySelector,
        key_id: str,
        *,
        name: str | None = None,
        excluded: bool | None = None,
        scopes: frozenset[str] | None = None,
        expires_at: int | _Unset | None = UNSET,
        allowed_models: tuple[str, ...] | _Unset | None = UNSET,
        allowed_sources: tuple[str, ...] | _Unset | None = UNSET,
        actor: Caller | None = None,
    ) -> ApiKey:
        """Change a key; UNSET and None leave a field as it is. Conflict if the key's user has another key of that name.

        `expires_at` None: never; `allowed_models`, `allowed_sources` None: all.
        """
        values: dict[str, Any] = {"name": validators.validate_title(name, "name")} if name is not None else {}
        values |= {"excluded_from_rate_limiting": excluded} if excluded is not None else {}
        values |= {"scopes": " ".join(sorted(scopes))} if scopes is not None else {}
        values |= {"expires_at": _validate_expiry(expires_at)} if not isinstance(expires_at, _Unset) else {}
        values |= _restriction_columns(allowed_models, allowed_sources)
        with self._database.write() as session:
            serialize_mutations(session, actor)
            key = _live_key(session, view, key_id)
            check_can_change(session, actor, key)
            new_name = values.get("name", key.name)
            if new_name != key.name and _has_key_named(session, key.organization_id, key.user_id, new_name):
                raise Conflict(f"A key named '{new_name}' exists already; choose another name.", param="name")
            values = attenuate(session, actor, values, user_id=key.user_id, new=False)
            _update_key(session, key, **values)
            outbox.add(session, _UPDATED, f"api_keys/{key_id}", _event_data(key, new_name))
            _log(session, actor, "updated", key, {"changes_requested": values})
        return self.get(view, key_id)

    def rotate(
        self, view: KeyOwner | KeySelector, key_id: str, *, overlap: int, actor: Caller | None = None
    ) -> tuple[ApiKey, str]:
        """Give a key a new secret, which is returned only here; the old one works for `overlap` more seconds.

        PermissionDenied for an actor with fewer permissions than the key. If the actor is neither an owner nor the key's
        user, the key loses the scopes that the actor lacks.
        """
        if not 0 <= overlap <= _MAX_OVERLAP_SECONDS:
            raise InvalidRequest(f"'overlap_seconds' must be 0 to {_MAX_OVERLAP_SECONDS}.", param="overlap_seconds")
        with self._database.write() as session:
            serialize_mutations(session, actor)
            key = _live_key(session, view, key_id)
            check_can_receive_secret(session, actor, key)
            secret = secrets.new_admin_secret() if key.kind == "admin" else secrets.new_secret()
            carried = scopes_after_rotation(session, actor, key)
            _update_key(
                session,
                key,
                scopes=" ".join(sorted(carried)),
                digest=secrets.digest(self._pepper, secret),
                prefix=secrets.mask(secret),
                previous_digest=key.digest if overlap else None,
                previous_expires_at=time.time() + overlap if overlap else None,
            )
            outbox.add(session, _UPDATED, f"api_keys/{key_id}", _event_data(key))
            details: dict[str, Any] = {"secret": "rotated", "overlap_seconds": overlap}
            details |= {"scopes": " ".join(sorted(carried))} if carried != key.scopes else {}
            _log(session, actor, "updated", key, {"changes_requested": details})
        return self.get(view, key_id), secret

    def revoke(self, view: KeyOwner | KeySelector, key_id: str, *, actor: Caller | None = None) -> None:
        """Revoke a key; all instances refuse it within 2 s. With its last key a service account is deleted."""
        with self._database.write() as session:
            serialize_mutations(session, actor)
            key = _live_key(session, view, key_id)
            check_can_change(session, actor, key, revoking=True)
            _update_key(session, key, revoked_at=time.time())
            outbox.add(session, _REVOKED, f"api_keys/{key_id}", _event_data(key))
            delete_rules(session, key.organization_id, "key", [key_id])
            if _was_last_key_of_service_account(session, key):
                delete_service_account(session, next_revision(session, "api_keys"), key.user_id)
            _log(session, actor, "deleted", key, {})

    def by_digest(self, digest: str) -> ApiKey | None:
        """The key whose current or previous secret has that digest, even if it is revoked or expired."""
        with self._database.read() as session:
            return find_key_by_digest(session, digest)

    def by_secret(self, secret: str) -> ApiKey | None:
        """The key with that secret, current or previous."""
        return self.by_digest(secrets.digest(self._pepper, secret))

    def changed_since(self, revision: int) -> tuple[int, list[str]]:
        """The newest revision, and the ids of the keys and users that changed after `revision`."""
        changes = [
            select(table.c.id, table.c.revision).where(table.c.revision > revision) for table in (api_keys, users)
        ]
        with self._database.read() as session:
            rows = session.rows(union_all(*changes))
        return max([revision, *(row.revision for row in rows)]), [row.id for row in rows]

    def digest(self, secret: str) -> str:
        """The digest under which a secret is stored."""
        return secrets.digest(self._pepper, secret)

    def _insert(
        self,
        session: WriteSession,
        actor: Caller | None,
        new: NewKey,
        secret: str,
        user_id: str,
        organization_id: str,
        project_id: str | None,
    ) -> str:
        now, key_id, name = int(time.time()), new_id("key"), validators.validate_title(new.name, "name")
        owner_columns = {"user_id": user_id, "project_id": project_id, "organization_id": organization_id}
        restrictions: dict[str, Any] = {**_restriction_columns(new.allowed_models, new.allowed_sources)}
        restrictions |= {"expires_at": now + new.expires_in if new.expires_in else None}
        # Before the check of the name: only the holder of the lock may assign names.
        revision = serialize_mutations(session, actor)
        if _has_key_named(session, organization_id, user_id, name):
            raise Conflict(f"There is a key named '{name}' of this user already; choose another.", param="name")
        session.add(
            api_keys,
            id=key_id,
            name=name,
            kind="project" if project_id is not None else "admin",
            prefix=secrets.mask(secret),
            scopes=" ".join(sorted(new.scopes)),
            created_at=now,
            excluded_from_rate_limiting=new.excluded_from_rate_limiting,
            digest=secrets.digest(self._pepper, secret),
            revision=revision,
            **owner_columns,
            **attenuate(session, actor, restrictions, user_id=user_id, new=True),
        )
        outbox.add(session, _CREATED, f"api_keys/{key_id}", {"id": key_id, "name": name, **owner_columns})
        _log(session, actor, "created", _key_by_id(session, key_id), {"data": {"scopes": sorted(new.scopes)}})
        return key_id


def _selector(seen: KeyOwner | KeySelector) -> KeySelector:
    return seen if isinstance(seen, KeySelector) else KeySelector(seen.organization_id, seen.project_id)


def _live_key(session: ReadSession, view: KeyOwner | KeySelector, key_id: str) -> ApiKey:
    row = session.first(KEYS.where(api_keys.c.id == key_id, _selector(view).condition()))
    if row is None or row.revoked_at is not None:
        raise NotFound(f"No API key with id '{key_id}'. List yours with GET /v1/api_keys.", param="id")
    return key_from_row(row)


def _key_by_id(session: ReadSession, key_id: str) -> ApiKey:
    row = session.first(KEYS.where(api_keys.c.id == key_id))
    assert row is not None, "it was just made"
    return key_from_row(row)


def _validate_expiry(expires_at: int | None) -> int | None:
    if expires_at is not None and expires_at <= time.time():
        raise InvalidRequest("'expires_at' must be in the future, or null for never.", param="expires_at")
    return expires_at


def _restriction_columns(
    models: tuple[str, ...] | _Unset | None, networks: tuple[str, ...] | _Unset | None
) -> dict[str, str | None]:
    """The columns of both lists as JSON. InvalidRequest for an empty list, with which a key could do nothing."""
    columns: dict[str, str | None] = {}
    for name, value in (("allowed_models", models), ("allowed_sources", networks)):
        if isinstance(value, _Unset):
            continue
        if value is not None and not value:
            raise InvalidRequest(f"'{name}' must not be empty; null allows all.", param=name)
        columns[name] = None if value is None else json.dumps(_validated_list(name, value))
    return columns


def _validated_list(name: str, value: tuple[str, ...]) -> list[str]:
    if name == "allowed_sources":
        return list(allowed_networks.parse_networks(value, name))
    if len(value) > _MAX_MODELS:
        raise InvalidRequest(f"'{name}' must name at most {_MAX_MODELS} models.", param=name)
    return [validators.validate_title(each, f"{name}[{index}]") for index, each in enumerate(value)]


def _has_key_named(session: ReadSession, organization_id: str, user_id: str, name: str) -> bool:
    """Whether the user has an unrevoked key of that name in the organization."""
    of_user = and_(api_keys.c.user_id == user_id, api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
    query = select(api_keys.c.id).where(of_user, api_keys.c.organization_id == organization_id)
    return session.first(query) is not None


def _was_last_key_of_service_account(session: ReadSession, key: ApiKey) -> bool:
    live = select(api_keys.c.id).where(api_keys.c.user_id == key.user_id, api_keys.c.revoked_at.is_(None))
    return key.is_service_account_key and session.first(live) is None


def _update_key(session: WriteSession, key: ApiKey, **values: Any) -> None:
    statement = update(api_keys).where(api_keys.c.id == key.id, api_keys.c.revision == key.revision)
    try:
        changed = session.run(statement.values(revision=next_revision(session, "api_keys"), **values))
    except Duplicate as error:
        raise Conflict("The key was changed at the same time; read it again and retry.") from error
    if not changed:
        raise Conflict("The key was changed at the same time; read it again and retry.")


def _event_data(key: ApiKey, name: str = "") -> dict[str, Any]:
    owner_columns = {"user_id": key.user_id, "project_id": key.project_id, "organization_id": key.organization_id}
    return {"id": key.id, "name": name or key.name, **owner_columns}


def _log(session: WriteSession, actor: Caller | None, what: str, key: ApiKey, details: dict[str, Any]) -> None:
    place: Any = {"organization_id": key.organization_id, "project_id": key.project_id}
    log.append_entry(session, actor, f"api_key.{what}", {"id": key.id, **details}, **place)
