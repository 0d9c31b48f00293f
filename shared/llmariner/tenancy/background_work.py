"""Work that the platform continues with after a request has ended, such as embedding the chunks of an added file.

It calls the token path with a token that names the user, the project and, if the request carried one, the API key that
caused it, so that usage, limits and budgets are theirs. Work that nobody asked for, such as the repair of an index, names
the project alone. The token is valid for a few minutes, for the token path alone and
for nothing but inference there. It gives no right of its own: each look-up reads what its user, project and key may do now.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.gateway.authentication.signed_tokens import NotSigned, sign, verified_claims
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.keys.key import ApiKey
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.current_rights import read_rights

__all__ = ["TOKEN_SECONDS", "BackgroundTokens", "Originator", "authorize"]

TOKEN_SECONDS = 300
"""The lifetime of a token: longer than a request may wait in a slice of work."""

_AUDIENCE = "token_path"
_SCOPE = "api.inference.write"
# Clocks of two nodes differ.
_LEEWAY_SECONDS = 5


@dataclass(frozen=True)
class Originator:
    """The user, project, organization and API key (None: a signed-in person) whose request caused the work.

    The id of the project as `user_id` stands for the project itself.
    """

    user_id: str
    project_id: str
    organization_id: str
    key_id: str | None = None

    @classmethod
    def of(cls, caller: Caller) -> Originator:
        """The originator of work that a request of this caller causes. Raises InvalidRequest without a project."""
        owner = caller.key_owner
        return cls(owner.user_id, owner.project_id, owner.organization_id, caller.key_id)

    @classmethod
    def of_project(cls, project_id: str, organization_id: str) -> Originator:
        """The originator of work that the platform does for a project by itself."""
        return cls(project_id, project_id, organization_id)

    @property
    def is_project(self) -> bool:
        """Whether nobody asked for the work: usage, limits and budgets are the project's alone."""
        return self.user_id == self.project_id


class BackgroundTokens:
    """Issues and verifies the tokens. Thread-safe."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def issue(self, originator: Originator) -> str:
        """A token that is valid for `TOKEN_SECONDS`."""
        now = int(time.time())
        claims = {"aud": _AUDIENCE, "iat": now, "exp": now + TOKEN_SECONDS, "originator": asdict(originator)}
        return sign(claims, self._secret.reveal().encode())

    def verify(self, token: str) -> tuple[Originator, float] | None:
        """The originator and the expiry (Unix seconds); None for a token that this platform did not sign.

        Raises AuthenticationFailed for one that it signed for another purpose, or that has expired.
        """
        try:
            claims = verified_claims(token, self._secret.reveal().encode())
        except NotSigned:
            return None
        try:
            now = time.time()
            premature, expired = claims["iat"] - _LEEWAY_SECONDS > now, claims["exp"] <= now
            if claims["aud"] != _AUDIENCE or premature or expired:
                raise ValueError
            return Originator(**claims["originator"]), float(claims["exp"])
        except (KeyError, TypeError, ValueError) as error:
            raise AuthenticationFailed("This token is not valid for inference.", code="invalid_token") from error


def authorize(database: Database, originator: Originator) -> tuple[ApiKey | None, frozenset[str]]:
    """The key of the originator, if it has one, and the scopes of the work.

    Raises PermissionDenied once the user has left the project or may not use models in it, the project is archived, or the
    key is revoked or expired. Work of the project itself needs neither user nor key. A key without the scope of inference
    may cause such work by the scope that it has.
    """
    rights = read_rights(
        database,
        user_id=originator.user_id,
        organization_id=originator.organization_id,
        project_id=originator.project_id,
        key_id=originator.key_id,
    )
    if not rights.is_project_active:
        raise PermissionDenied("The project of this work is archived or deleted.", code="project_archived")
    if originator.is_project:
        return None, frozenset({_SCOPE})
    if _SCOPE not in rights.scopes:
        raise PermissionDenied(
            "The user who started this work may not use models in the project any more. Let another member start it again."
        )
    if originator.key_id is not None and rights.key is None:
        raise PermissionDenied(
            "The API key that started this work is revoked or expired. Start it again with another key.",
            code="key_revoked",
        )
    return rights.key, frozenset({_SCOPE})
