"""A token that is good now: the one at hand, or one that is fetched before it ends, without anybody noticing."""

from __future__ import annotations

import time
from pathlib import Path

from llmariner.cli.sign_in.token_store import SignIn, SignInFile
from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["fresh", "from_token_file"]

_RENEW_BEFORE = 60.0


def fresh(file: SignInFile, endpoint: str, sign_in: SignIn) -> SignIn:
    """The sign-in, with a token good for a minute. CommandError when it has ended, or the issuer can't be asked."""
    if not _ends_soon(sign_in):
        return sign_in
    with file.alone():
        known = file.get(endpoint)
        if known is None:  # another command signed out, and that is the last word
            raise _ended("you signed out meanwhile")
        if not _ends_soon(known):  # another command was quicker
            return known
        try:
            renewed = _renewed(known)
        except CommandError:
            if known.expires_at > time.time():  # good for this once
                return known
            raise
        file.put(endpoint, renewed)
    return renewed


def from_token_file(sign_in: SignIn, scopes: list[str] | None = None) -> SignIn:
    """A token for the platform from a workload's own. CommandError when the file or its token is no good."""
    from llmariner.cli.sign_in.issuer import Issuer, Refused

    try:
        subject_token = Path(sign_in.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            ExitCode.USAGE,
            f"cannot read the token in {sign_in.token_file}: {error}.",
            next_step="name the file that your workload's issuer keeps fresh in --token-file.",
        ) from error
    kind = sign_in.subject_token_type or "id_token"
    with Issuer(sign_in.issuer, sign_in.client_id, scopes or ["openid", "email", "profile", "groups"]) as issuer:
        try:
            made = issuer.exchange(subject_token, kind, sign_in.connector)
        except Refused as refused:
            raise CommandError(
                ExitCode.DENIED,
                f"the issuer {sign_in.issuer} does not take the token in {sign_in.token_file} ({refused}).",
                next_step="check that the issuer exchanges tokens of this kind (docs/sign-in.md), and --connector.",
            ) from refused
    kept = (sign_in.token_file, sign_in.connector, sign_in.subject_token_type)
    return SignIn(made.issuer, made.client_id, made.token, "", *kept)


def _renewed(sign_in: SignIn) -> SignIn:
    if sign_in.token_file:
        return from_token_file(sign_in)
    if not sign_in.refresh_token:
        raise _ended("it has expired, and the issuer gave nothing to renew it with")
    from llmariner.cli.sign_in.issuer import Issuer, Refused

    with Issuer(sign_in.issuer, sign_in.client_id) as issuer:
        try:
            return issuer.renew(sign_in)
        except Refused as refused:
            raise _ended(f"{sign_in.issuer} does not renew it any more ({refused})") from refused


def _ends_soon(sign_in: SignIn) -> bool:
    return sign_in.expires_at - _RENEW_BEFORE < time.time()


def _ended(why: str) -> CommandError:
    return CommandError(
        ExitCode.DENIED,
        f"your sign-in has ended: {why}.",
        next_step="sign in again with `llma auth login`, or leave with `llma auth logout`.",
    )
