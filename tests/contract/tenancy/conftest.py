"""Sign-in by tokens, in an installation with its default organization."""

from __future__ import annotations

import pytest

from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.sign_in import token_sign_in
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn

from .sign_in_fixtures import Tokens


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def authenticator(database: Database) -> Authenticator:
    return Authenticator(database, Secret("p" * 32))


@pytest.fixture
def people(database: Database, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner) -> TokenSignIn:
    """Of an installation with its default organization."""
    return TokenSignIn(database, tokens, authenticator)


@pytest.fixture
def uncached_sign_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is checked each time."""
    monkeypatch.setattr(token_sign_in, "_CACHE_SECONDS", 0.0)
