"""Refreshes stored tokens shortly before they expire."""

from __future__ import annotations

import time
from pathlib import Path

from llmariner.cli.sign_in.token_store import SignIn, SignInFile
from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["ensure_fresh", "exchange_token_file"]

_REFRESH_BEFORE_SECONDS = 60.0


def ensure_fresh(file: SignInFile, endpoint: str, sign_in: SignIn) -> SignIn:
    """The sign-in with a token valid for at least a minute, refreshed if necessary. Safe across processes.

    CommandError when the sign-in has ended, or the issuer is unreachable.
    """
    if not _expires_soon(sign_in):
        return sign_in
    with file.lock():
        stored = file.get(endpoint)
        if stored is None:  # another command signed out meanwhile
            raise _sign_in_ended("you signed out meanwhile")
        if not _expires_soon(stored):  # another command refreshed it meanwhile
            return stored
        try:
            refreshed = _refreshed(stored)
        except CommandError:
            if stored.expires_at > time.time():  # still valid, though about to expire
                return stored
            raise
        file.put(endpoint, refreshed)
    return refreshed


def exchange_token_file(sign_in: SignIn, scopes: list[str] | None = None) -> SignIn:
    """Exchange a workload's token for one for the platform. CommandError for an unreadable file or a rejected token."""
    from llmariner.cli.sign_in.issuer import IssuerClient, OAuthError

    try:
        subject_token = Path(sign_in.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            ExitCode.USAGE,
            f"cannot read the token in {sign_in.token_file}: {error}.",
            next_step="name the file that your workload's issuer keeps fresh in --token-file.",
        ) from error
    token_type = sign_in.subject_token_type or "id_token"
    with IssuerClient(sign_in.issuer, sign_in.client_id, scopes or ["openid", "email", "profile", "groups"]) as issuer:
        try:
            exchanged = issuer.exchange_token(subject_token, token_type, sign_in.connector)
        except OAuthError as refused:
            raise CommandError(
                ExitCode.DENIED,
                f"the issuer {sign_in.issuer} does not take the token in {sign_in.token_file} ({refused}).",
                next_step="check that the issuer exchanges tokens of this kind (docs/sign-in.md), and --connector.",
            ) from refused
    source = (sign_in.token_file, sign_in.connector, sign_in.subject_token_type)
    return SignIn(exchanged.issuer, exchanged.client_id, exchanged.token, "", *source)


def _refreshed(sign_in: SignIn) -> SignIn:
    if sign_in.token_file:
        return exchange_token_file(sign_in)
    if not sign_in.refresh_token:
        raise _sign_in_ended("it has expired, and the issuer gave nothing to renew it with")
    from llmariner.cli.sign_in.issuer import IssuerClient, OAuthError

    with IssuerClient(sign_in.issuer, sign_in.client_id) as issuer:
        try:
            return issuer.refresh(sign_in)
        except OAuthError as refused:
            raise _sign_in_ended(f"{sign_in.issuer} does not renew it any more ({refused})") from refused


def _expires_soon(sign_in: SignIn) -> bool:
    return sign_in.expires_at - _REFRESH_BEFORE_SECONDS < time.time()


def _sign_in_ended(why: str) -> CommandError:
    return CommandError(
        ExitCode.DENIED,
        f"your sign-in has ended: {why}.",
        next_step="sign in again with `llma auth login`, or leave with `llma auth logout`.",
    )
