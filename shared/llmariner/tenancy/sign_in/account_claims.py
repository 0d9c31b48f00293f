"""Rules for linking a first sign-in to an existing account by its e-mail.

An account that nobody has signed in to belongs to the person whose e-mail the issuer verified. An account that administers
an organization can be claimed only within a week after it was added, got its role or was unlinked, and only by an address
with a public domain.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import PermissionDenied
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.tables import organization_users, users

__all__ = ["check_claimable", "claim_deadline", "open_claim_window"]

_CLAIM_SECONDS = 7 * 86400


def claim_deadline() -> int:
    """The deadline of a claim window that opens now, in seconds since 1970."""
    return int(time.time()) + _CLAIM_SECONDS


def open_claim_window(session: WriteSession, user_id: str) -> None:
    """Let a first sign-in claim the account within a week. Must be called before the account gets a role in an organization.

    Does nothing for an account that administers an organization: the owner of another one must not make it claimable.
    """
    if not _administers(session, user_id):
        unlinked = (users.c.id == user_id) & users.c.issuer.is_(None)
        session.run(update(users).where(unlinked).values(claimable_until=claim_deadline()))


def check_claimable(session: ReadSession, account: Row[Any], *, issued_at: int) -> None:
    """PermissionDenied if a first sign-in with its e-mail may not claim the account (a row of `users`).

    `issued_at`: when the token was issued, in seconds since 1970.
    """
    if account.kind == "bootstrap":
        raise _not_claimable(
            f"The account '{account.email}' is this installation's first administrator, which works with its API key only. "
            "Sign in with an e-mail of your own.",
            "account_not_claimable",
        )
    if account.kind != "person" or account.issuer is not None:
        raise _not_claimable(
            f"There is an account '{account.email}' that signs in through {account.issuer or 'no issuer'} as somebody else, "
            "and it stays theirs. If it is yours, ask an owner of the default organization to unlink it from its sign-in "
            f"(DELETE /v1/organization/sign_in/users/{account.id}), then sign in again.",
            "account_linked",
        )
    if account.unlinked_at is not None and issued_at < account.unlinked_at:
        # An unlinked person still holds such a token and must not claim the account again with it.
        raise _not_claimable(
            f"The account '{account.email}' was unlinked from its sign-in after your token was issued. Sign in again with "
            "`llma auth login`.",
            "account_unlinked",
        )
    if "@" in account.email and not validators.has_public_domain(account.email):
        raise _not_claimable(
            f"There is an account '{account.email}', and its address has no public domain, so it proves nobody to be its "
            "owner. Sign in with an address of a public domain, or ask an administrator to remove that account.",
            "account_not_claimable",
        )
    if (account.claimable_until or 0) <= time.time() and _administers(session, account.id):
        raise _not_claimable(
            f"The account '{account.email}' administers an organization, and nobody claimed it in the week after it was "
            "added. Ask an owner of the default organization to open it for your sign-in "
            f"(DELETE /v1/organization/sign_in/users/{account.id}), then sign in again.",
            "account_unclaimed",
        )


def _administers(session: ReadSession, user_id: str) -> bool:
    """Whether the user has a role above `reader` in an organization."""
    held = select(organization_users.c.role).where(organization_users.c.user_id == user_id)
    return session.first(held.where(organization_users.c.role != "reader")) is not None


def _not_claimable(message: str, code: str) -> PermissionDenied:
    return PermissionDenied(message, code=code)
