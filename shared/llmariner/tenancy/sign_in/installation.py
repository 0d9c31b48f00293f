"""Sign-in of an installation, by its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmariner.environment import Environment
from llmariner.platform.database import Database
from llmariner.settings import IdentitySettings
from llmariner.tenancy.authenticator import Authenticator

if TYPE_CHECKING:
    from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn

__all__ = ["token_sign_in"]


def token_sign_in(env: Environment, database: Database, authenticator: Authenticator) -> TokenSignIn | None:
    """Sign-in through the issuer of `LLMARINER_OIDC_ISSUER`; None if it is not set, and nothing is imported for it."""
    settings = IdentitySettings.load(env)
    if not settings.issuer:
        return None
    from llmariner.platform.identity.oidc import OidcTokenVerifier
    from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn

    return TokenSignIn(database, OidcTokenVerifier(settings), authenticator, default_role=settings.default_role)
