"""Who may use a notebook: its owner, and where it is shared the members of its project who may write notebooks.

A browser can't send a key, so who may use a notebook gets a link that opens it once, within a minute; what it opens sets a
cookie that is good for this notebook alone. Each request is checked by what its caller may do then.
"""

from __future__ import annotations

import hashlib
import json
import secrets as random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.audit.request_context import client_address
from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.gateway.authentication.signed_tokens import sign, verified_claims
from llmariner.notebooks.credentials import Credentials
from llmariner.notebooks.stored import append_audit, load_notebook
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy.keys.allowed_networks import is_allowed
from llmariner.tenancy.keys.key import KEYS, key_from_row
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller, maker_of
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import api_keys

__all__ = ["SCOPE", "SESSION_SECONDS", "NotebookAccess", "OpenNotebook"]

SCOPE = "api.workspaces.notebooks.write"
"""Who uses a notebook runs programs in it."""
SESSION_SECONDS = 12 * 3600
"""How long a browser that opened a notebook may use it, unless its user loses the right before."""
_LINK_SECONDS = 60
_AUDIENCE = "notebook"


@dataclass(frozen=True)
class OpenNotebook:
    """What a request to a notebook needs. `token`: of its server; empty while it does not run."""

    id: str
    status: str
    error: str
    ports: tuple[int, ...]
    token: str


@dataclass(frozen=True)
class _Holder:
    """Whose request or cookie it is, as `maker_of` reads it."""

    user_id: str
    key_id: str | None
    organization_id: str
    project_id: str

    @property
    def caller(self) -> Caller:
        return maker_of(self)


class NotebookAccess:
    """Decides it. `secret` signs cookies. All methods block."""

    def __init__(self, database: Database, credentials: Credentials, secret: Secret) -> None:
        self._database = database
        self._credentials = credentials
        self._secret = secret.reveal().encode()

    def make_link(self, caller: Caller, notebook_id: str) -> str:
        """The secret of a link that opens a notebook once. Raises NotFound, PermissionDenied."""
        owner, secret = caller.key_owner, random.token_urlsafe(32)
        holder = {"user_id": owner.user_id, "key_id": caller.key_id}

        def store(session: WriteSession) -> None:
            row = load_notebook(session, owner.project_id, notebook_id, lock=True)
            _check(session, caller, row)
            values = {"link_digest": _digest(secret), "link_expires_at": time.time() + _LINK_SECONDS}
            this = notebooks.c.id == notebook_id
            session.run(update(notebooks).where(this).values(**values, link_caller=json.dumps(holder)))
            append_audit(session, caller, "opened", row)

        self._database.transact(store)
        return secret

    def set_shared(self, caller: Caller, notebook_id: str, *, shared: bool) -> None:
        """Let members of its project use a notebook besides its owner, or no longer: its owner alone decides that.

        Links that nobody used are void then. Raises NotFound, PermissionDenied.
        """

        def change(session: WriteSession) -> None:
            row = load_notebook(session, caller.key_owner.project_id, notebook_id, lock=True)
            if caller.user_id != row.user_id:
                raise PermissionDenied(
                    "Who shares a notebook gives others what its key may do, so its owner alone does that.",
                    code="not_notebook_owner",
                )
            _check(session, caller, row)
            if row.shared != shared:
                this = notebooks.c.id == notebook_id
                session.run(update(notebooks).where(this).values(shared=shared, link_digest=None))
                append_audit(session, caller, "updated", row, changes_requested={"shared": shared})

        self._database.transact(change)

    def redeem_link(self, notebook_id: str, secret: str) -> str:
        """The value of a cookie for a link that nobody used. Raises AuthenticationFailed."""

        def use(session: WriteSession) -> Row[Any] | None:
            this = (notebooks.c.id == notebook_id) & (notebooks.c.link_digest == _digest(secret))
            row = session.first(select(notebooks).where(this).with_for_update())
            session.run(update(notebooks).where(this).values(link_digest=None))
            return row

        row = self._database.transact(use)
        if row is None or row.deleted_at is not None or (row.link_expires_at or 0) < time.time():
            raise AuthenticationFailed(
                "This link was used already or is over a minute old: get another one with `llma workspace notebooks open`.",
                code="invalid_link",
            )
        place = {"organization_id": row.organization_id, "project_id": row.project_id}
        claims = {**json.loads(row.link_caller), **place, "aud": _AUDIENCE, "notebook_id": notebook_id}
        return sign({**claims, "exp": int(time.time()) + SESSION_SECONDS}, self._secret)

    def open_with_cookie(self, notebook_id: str, cookie: str) -> OpenNotebook:
        """The notebook that a browser may use. Raises AuthenticationFailed, PermissionDenied, NotFound."""
        try:
            claims = verified_claims(cookie, self._secret)
            if claims["aud"] != _AUDIENCE or claims["notebook_id"] != notebook_id or claims["exp"] < time.time():
                raise ValueError
            holder = _holder(claims)
        except (KeyError, TypeError, ValueError) as error:
            raise AuthenticationFailed(
                "This browser has not opened the notebook, or too long ago: `llma workspace notebooks open` does.",
                code="notebook_sign_in_required",
            ) from error
        return self.open(holder.caller, notebook_id)

    def open(self, caller: Caller, notebook_id: str) -> OpenNotebook:
        """The notebook that a caller may use now. Raises AuthenticationFailed, PermissionDenied, NotFound."""
        check_still_allowed(self._database, caller, SCOPE)
        with self._database.read() as session:
            row = load_notebook(session, caller.key_owner.project_id, notebook_id)
            _check(session, caller, row)
        token = self._credentials.token(row) if row.status == "running" else ""
        ports = tuple(json.loads(row.ports))
        return OpenNotebook(row.id, row.status, row.error_message or "", ports, token)


def _check(session: ReadSession, caller: Caller, row: Row[Any]) -> None:
    """Raises PermissionDenied for who may not use a notebook of its project.

    A key that may do less than the notebook's own would get the rights of that one in it.
    """
    if caller.user_id != row.user_id and not row.shared:
        raise PermissionDenied(
            "This notebook is its owner's alone: ask for one that is shared, or create your own.",
            code="notebook_not_shared",
        )
    if caller.key_id is None:
        return
    stored = session.first(KEYS.where(api_keys.c.id == caller.key_id))
    key = None if stored is None else key_from_row(stored)
    if key is not None and not is_allowed(key.allowed_sources, client_address.get() or ""):
        raise PermissionDenied(  # a cookie counts by the key that it was made with, wherever its browser is
            "The API key with which this browser opened the notebook can't be used from your network.",
            code="source_not_allowed",
        )
    models = None if row.key_models is None else set(json.loads(row.key_models))
    narrower = key is None or not set(row.key_scopes.split()) <= with_implied(key.scopes)
    bound = key is not None and key.allowed_models is not None and not (models or {None}) <= set(key.allowed_models)
    if narrower or bound:
        raise PermissionDenied(
            "The notebook's own key may do what yours may not. Use a key with its scopes and models, or sign in.",
            code="notebook_exceeds_key",
        )


def _holder(claims: Mapping[str, Any]) -> _Holder:
    return _Holder(**{name: claims[name] for name in _Holder.__dataclass_fields__})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
