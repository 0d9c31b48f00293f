"""Helpers for tests of sign-ins: tokens, users, invitations and group roles."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.platform.database import Database
from llmariner.platform.identity import Identity
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import group_roles, invites, organization_users, users

__all__ = [
    "ALICE",
    "ISSUER",
    "Tokens",
    "add_user",
    "assert_no_membership",
    "audit_entries",
    "invite",
    "join",
    "map_group",
    "user_row",
]

ISSUER = "https://issuer.example"

ALICE = Identity(
    issuer=ISSUER,
    subject="0001",
    email="alice@example.org",
    email_verified=True,
    name="Alice",
    groups=None,
    signed_in_at=1000,
    issued_at=1000,
    expires_at=2_000_000_000,
)


class Tokens:
    """A token verifier that accepts the tokens it issued; tests/identity tests the real one."""

    def __init__(self) -> None:
        self._identities: dict[str, Identity] = {}

    def verify(self, token: str) -> Identity:
        if token not in self._identities:
            raise AuthenticationFailed("no token")
        return self._identities[token]

    def issue_now(self, **changed: Any) -> str:
        """As `issue`, with the current time as `issued_at`."""
        return self.issue(issued_at=int(time.time()), **changed)

    def issue(self, **changed: Any) -> str:
        """A token of alice's identity with these fields changed."""
        token = f"token {len(self._identities)}"
        self._identities[token] = dataclasses.replace(ALICE, **changed)
        return token


def add_user(database: Database, email: str, **values: Any) -> str:
    user_id = f"user_{email}"
    with database.write() as session:
        session.add(users, **{"id": user_id, "email": email, "created_at": 1, **values})
    return user_id


def join(database: Database, owner: KeyOwner, user_id: str, role: str = "reader", **values: Any) -> None:
    with database.write() as session:
        key = {"organization_id": owner.organization_id, "user_id": user_id}
        session.add(organization_users, **key, role=role, created_at=1, **values)


def invite(database: Database, owner: KeyOwner, email: str, *, role: str = "reader", **values: Any) -> str:
    row = {
        "id": f"invite_{email}",
        "organization_id": owner.organization_id,
        "email": email,
        "role": role,
        "projects": json.dumps([{"id": owner.project_id, "role": "member"}]),
        "digest": email,
        "invited_by": owner.user_id,
        "created_at": 1,
        "expires_at": int(time.time()) + 3600,
    }
    with database.write() as session:
        session.add(invites, **{**row, **values})
    return str(row["id"])


def map_group(
    database: Database, owner: KeyOwner, group: str, role: str, *, project: bool = False, issuer: str = ISSUER
) -> None:
    with database.write() as session:
        session.add(
            group_roles,
            id=f"group_role_{group}_{role}_{project}",
            organization_id=owner.organization_id,
            issuer=issuer,
            group_name=group,
            project_id=owner.project_id if project else None,
            role=role,
            created_at=1,
        )


def user_row(database: Database, email: str) -> Any:
    with database.read() as session:
        return session.first(select(users).where(users.c.email == email))


def audit_entries(database: Database, type_: str) -> list[Any]:
    with database.read() as session:
        return list(session.rows(select(audit_log).where(audit_log.c.type == type_).order_by(audit_log.c.sequence)))


def assert_no_membership(people: TokenSignIn, token: str) -> None:
    with pytest.raises(PermissionDenied, match="not a member of any organization"):
        people.authenticate(token)
