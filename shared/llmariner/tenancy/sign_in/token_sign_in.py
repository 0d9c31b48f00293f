"""Sign-in with a token of an OpenID Connect issuer: finds or creates the account, and provisions its memberships.

Issuer and subject identify a person; an issuer never assigns a subject to another person. The e-mail identifies an account
only once, before anyone has signed in to it, as it was invited or added by e-mail. Afterwards another issuer or subject
with the same e-mail cannot take the account over; see `unlink`. Accounts that administer an organization have stricter
rules; see `account_claims`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, or_, select, update

from llmariner.audit import log
from llmariner.errors import AuthenticationFailed, NotFound, PermissionDenied
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.identity import Identity, TokenVerifier
from llmariner.tenancy import validators
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import is_default_organization
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.sign_in.account_claims import check_claimable, claim_deadline
from llmariner.tenancy.sign_in.jit_provisioning import MembershipReconciliation, reconcile_memberships
from llmariner.tenancy.sign_in.refused_sign_ins import RefusedSignIns, UnauthenticatedSubject
from llmariner.tenancy.tables import organization_users, organizations, user_groups, users

__all__ = ["TokenSignIn"]

_CACHE_SECONDS = 5.0
"""The maximum delay until an invitation or a new role of a group applies to a person who is signed in."""

_MAX_CACHED = 10_000
_UNLINKED = {"issuer": None, "subject": None, "groups": None}


@dataclass(frozen=True)
class _CachedSignIn:
    user_id: str
    revision: int
    at: float


class TokenSignIn:
    """Authenticates the people of one installation. `default_role` is the setting `LLMARINER_OIDC_NEWCOMERS`."""

    def __init__(
        self, database: Database, verifier: TokenVerifier, authenticator: Authenticator, *, default_role: str = "none"
    ) -> None:
        self._database = database
        self._verifier = verifier
        self._authenticator = authenticator
        self._default_role = default_role
        self._refused = RefusedSignIns(database)
        self._cache: dict[bytes, _CachedSignIn] = {}
        self._lock = threading.Lock()

    def authenticate(
        self, token: str, organization: str | None = None, project: str | None = None, *, source: str | None = None
    ) -> Caller:
        """The caller of a token, in the organization and project selected by id or title, or in the default ones.

        Raises AuthenticationFailed for an invalid token, PermissionDenied if the e-mail belongs to another account or the
        person is no member of the selection, Unavailable if the token cannot be verified. `source`: the client's address,
        for the audit log.
        """
        try:
            identity = self._verifier.verify(token)
        except AuthenticationFailed as error:
            self._refused.record(error, source=source)
            raise
        token_hash = hashlib.sha256(token.encode()).digest()
        cached, revision = self._cache.get(token_hash), self._revision(identity)
        if cached is not None and cached.revision == revision and time.monotonic() - cached.at < _CACHE_SECONDS:
            return self._authenticator.caller_for_user(cached.user_id, organization, project)
        caller = self._resolve_caller(identity, organization, project, source)
        self._record_login(caller, identity, source)
        if revision is None:  # a first sign-in, or one of an unlinked account
            return caller
        with self._lock:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[token_hash] = _CachedSignIn(caller.user_id, revision, time.monotonic())
        return caller

    def unlink(self, actor: Caller, user_id: str) -> None:
        """Unlink an account from its sign-in: the next issuer and subject with its verified e-mail can claim it.

        Tokens issued earlier cannot. Use it for people who moved to another issuer. Raises NotFound for an unknown person,
        and PermissionDenied unless the actor owns the default organization: accounts belong to the installation.
        """
        with self._database.write() as session:
            serialize_mutations(session, actor)
            if not (actor.is_owner and is_default_organization(session, actor.organization_id)):
                raise PermissionDenied("Only an owner of the default organization may change how people sign in.")
            one = and_(users.c.id == user_id, users.c.kind == "person")
            person = session.first(select(users.c.email).where(one))
            if person is None:
                raise NotFound(f"No person with id '{user_id}'. List them with GET /v1/users.", param="user_id")
            unlinked = {**_UNLINKED, "unlinked_at": int(time.time()), "claimable_until": claim_deadline()}
            session.run(update(users).where(one).values(**unlinked))
            session.run(user_groups.delete().where(user_groups.c.user_id == user_id))
            bump_revision(session, user_ids=[user_id])
            log.append_entry(
                session,
                actor,
                "user.updated",
                {"id": user_id, "changes_requested": {"sign_in": None}},
                organization_id=actor.organization_id,
            )
        with self._lock:
            self._cache.clear()

    def _resolve_caller(
        self, identity: Identity, organization: str | None, project: str | None, source: str | None
    ) -> Caller:
        """The caller of a verified token. A refusal is recorded for the organization that the person has no access to."""
        user_id = None
        try:
            user_id = self._provision_if_changed(identity)
            return self._authenticator.caller_for_user(user_id, organization, project)
        except (AuthenticationFailed, PermissionDenied) as error:
            with self._database.read() as session:
                requested = _requested_organization_id(session, organization)
                is_member = user_id is not None and requested is not None and _is_member(session, user_id, requested)
            if not is_member:  # a member without access to the selected project is no refused sign-in
                subject = UnauthenticatedSubject(user_id, identity.email)
                self._refused.record(error, source=source, subject=subject, organization_id=requested)
            raise

    def _revision(self, identity: Identity) -> int | None:
        """The revision of the person's permissions; None before the first sign-in."""
        one = and_(users.c.issuer == identity.issuer, users.c.subject == identity.subject)
        with self._database.read() as session:
            found: int | None = session.value(select(users.c.revision).where(one))
        return found

    def _provision_if_changed(self, identity: Identity) -> str:
        with self._database.read() as session:
            user_id = _linked_user_id(session, identity)
            if user_id is not None and not (
                _changed_email(session, user_id, identity)
                or MembershipReconciliation(session, user_id, identity).has_changes()
            ):
                return user_id
        return self._database.transact(lambda session: self._provision(session, identity))

    def _provision(self, session: WriteSession, identity: Identity) -> str:
        revision = serialize_mutations(session)
        user_id = _linked_user_id(session, identity)
        new = user_id is None
        if user_id is None:
            user_id = _link_or_create(session, identity)
        if address := _changed_email(session, user_id, identity):
            session.run(update(users).where(users.c.id == user_id).values(email=address))
        default_role = self._default_role if new else "none"
        reconcile_memberships(
            session, revision, [MembershipReconciliation(session, user_id, identity, default_role=default_role)]
        )
        return user_id

    def _record_login(self, caller: Caller, identity: Identity, source: str | None) -> None:
        """Append one audit entry per sign-in, however many instances see its tokens."""
        signed_in_at = identity.signed_in_at
        with self._database.read() as session:
            last_login = session.value(select(users.c.last_login_at).where(users.c.id == caller.user_id))
        if last_login is not None and last_login >= signed_in_at:
            return
        earlier = or_(users.c.last_login_at.is_(None), users.c.last_login_at < signed_in_at)
        payload = {"id": caller.user_id, "issuer": identity.issuer}

        def write(session: WriteSession) -> None:
            if session.run(
                update(users).where(users.c.id == caller.user_id, earlier).values(last_login_at=signed_in_at)
            ):
                place: Any = {"organization_id": caller.organization_id, "source": source}
                log.append_entry(session, caller, "login.succeeded", payload, **place)

        self._database.transact(write)


def _requested_organization_id(session: ReadSession, requested: str | None) -> str | None:
    """The organization that the request selects by id or title; the default one without a selection. None if unknown."""
    if requested and not validators.looks_like_id(requested):
        which = or_(organizations.c.id == requested, organizations.c.title == requested)
    else:
        which = organizations.c.id == requested if requested else organizations.c.is_default
    first = (organizations.c.id == requested).desc()
    found: str | None = session.value(select(organizations.c.id).where(which).order_by(first))
    return found


def _is_member(session: ReadSession, user_id: str, organization_id: str) -> bool:
    one = and_(organization_users.c.user_id == user_id, organization_users.c.organization_id == organization_id)
    return session.first(select(organization_users.c.role).where(one)) is not None


def _linked_user_id(session: ReadSession, identity: Identity) -> str | None:
    user_id = session.value(
        select(users.c.id).where(users.c.issuer == identity.issuer, users.c.subject == identity.subject)
    )
    return None if user_id is None else str(user_id)


def _changed_email(session: ReadSession, user_id: str, identity: Identity) -> str | None:
    """The person's verified e-mail if it changed and no other account has it."""
    if identity.email is None or not identity.email_verified:
        return None
    taken = session.value(select(users.c.id).where(users.c.email == identity.email))
    return identity.email if taken is None else None


def _link_or_create(session: WriteSession, identity: Identity) -> str:
    """Link the account with the identity's e-mail, or create one; returns its id."""
    address = _account_email(identity)
    linkage = {"issuer": identity.issuer, "subject": identity.subject}
    found = session.first(select(users).where(users.c.email == address))
    if found is None:
        user_id = new_id("user")
        session.add(
            users, id=user_id, email=address, name=identity.name, created_at=int(time.time()), kind="person", **linkage
        )
        return user_id
    check_claimable(session, found, issued_at=identity.issued_at)
    session.run(update(users).where(users.c.id == found.id).values(**linkage, name=found.name or identity.name))
    return str(found.id)


def _account_email(identity: Identity) -> str:
    """The `email` of the account: the e-mail, else the subject. PermissionDenied if the issuer did not verify it."""
    if identity.email is not None:
        if not identity.email_verified:
            raise PermissionDenied(
                f"The issuer does not say that it verified your e-mail '{identity.email}'. Verify it there and sign in "
                "again; where the issuer never says so, an administrator may set LLMARINER_OIDC_TRUST_EMAIL=1.",
                code="email_not_verified",
            )
        return identity.email
    subject = identity.subject.lower()
    if "@" in subject or subject.startswith("system:"):
        raise PermissionDenied(
            f"The issuer calls you '{identity.subject}' and does not say that this is your e-mail. It must send the "
            "claims 'email' and 'email_verified': ask for the scope 'email'.",
            code="email_not_verified",
        )
    return subject
