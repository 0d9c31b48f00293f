"""Links to the contents of files: tokens with which anybody may read one file until they expire (decision 24).

A token gives no right of its own. Each use reads what the user and the API key that made it may do now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from llmariner.audit import log
from llmariner.client_networks import client_network
from llmariner.errors import InvalidRequest, NotFound, PermissionDenied
from llmariner.files.files import Files
from llmariner.files.link_uses import LinkUses
from llmariner.files.tables import files as file_rows
from llmariner.gateway.authentication.signed_tokens import NotSigned, sign, verified_claims
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.current_rights import read_rights
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import users

__all__ = ["FileLink", "FileLinks", "OpenedLink"]

_AUDIENCE = "file_download"
_SCOPE = "api.files.read"
_LONGEST_TOKEN = 2048


@dataclass(frozen=True)
class FileLink:
    """A link to the content of a file. Times are Unix seconds. Any holder of the `token` may use it."""

    id: str
    file_id: str
    created_at: int
    expires_at: int
    token: str


@dataclass(frozen=True)
class OpenedLink:
    """A link that is valid now. `maker`: who made it, with the right to read its file and no other."""

    id: str
    file_id: str
    maker: Caller


class FileLinks:
    """The links of one installation. All methods block; all times are those of the database.

    `secrets`: the first signs, each of them verifies.
    """

    def __init__(self, database: Database, files: Files, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._files = files
        self._secrets = [secret.reveal().encode() for secret in secrets]
        self._uses = LinkUses(files.settings.link_requests_per_minute)

    def create(self, caller: Caller, file_id: str, seconds: int) -> FileLink:
        """A link that is valid for that time. Raises NotFound, InvalidRequest for a time beyond the limit."""
        owner, longest = caller.key_owner, self._files.settings.link_seconds
        if not 1 <= seconds <= longest:
            raise InvalidRequest(
                f"'expires_in_seconds' must be from 1 to {longest}.", param="expires_in_seconds", code="invalid_value"
            )
        file = self._files.get(owner.project_id, file_id)
        link_id = new_id("link")

        def audit(session: WriteSession) -> int:
            now = int(session.now())
            payload = {"id": link_id, "data": {"file_id": file.id, "expires_at": now + seconds}}
            place = {"organization_id": file.organization_id, "project_id": file.project_id}
            log.append_entry(session, caller, "file.link.created", payload, **place)
            return now

        now = self._database.transact(audit)
        claims = {"aud": _AUDIENCE, "exp": now + seconds, "file": file.id, "jti": link_id, "user": owner.user_id}
        if caller.key_id is not None:
            claims["key"] = caller.key_id
        return FileLink(link_id, file.id, now, now + seconds, sign(claims, self._secrets[0]))

    def open(self, token: str, file_id: str) -> OpenedLink:
        """The link to that file with this token.

        Raises PermissionDenied for a text that is no link to it, for an expired one, and where its maker may not read the
        file any more; NotFound where the file is gone; RateLimited.
        """
        claims = self._verified(token, file_id)
        self._uses.admit(claims["jti"])
        with self._database.read() as session:
            if claims["exp"] <= session.now():
                raise PermissionDenied("The link has expired. Ask for another one.", code="link_expired")
            place = session.first(
                select(file_rows.c.organization_id, file_rows.c.project_id).where(file_rows.c.id == file_id)
            )
        if place is None:
            raise NotFound("The file of this link was deleted.", param="file_id")
        maker = self._maker(claims["user"], claims.get("key"), place.organization_id, place.project_id)
        return OpenedLink(claims["jti"], file_id, maker)

    def audit_use(self, link: OpenedLink, client_address: str | None) -> None:
        """Add the use of a link from that address to the audit log: once an hour in each process."""
        network = client_network(client_address)
        if not self._uses.is_first(link.id, network):
            return

        def append(session: WriteSession) -> None:
            payload = {"id": link.id, "data": {"file_id": link.file_id}}
            owner = link.maker.key_owner
            place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
            log.append_entry(session, link.maker, "file.link.used", payload, **place)

        try:
            self._database.transact(append)
        except BaseException:
            self._uses.forget(link.id, network)
            raise

    def _verified(self, token: str, file_id: str) -> dict[str, Any]:
        """The claims of a token for this file. Raises PermissionDenied."""
        for secret in self._secrets:
            try:
                claims = verified_claims(token[:_LONGEST_TOKEN], secret)
            except NotSigned:
                continue
            if claims.get("aud") == _AUDIENCE and claims.get("file") == file_id:
                return claims
        raise PermissionDenied(
            "The link is not valid. Use it exactly as it was given to you, or ask for another one.", code="invalid_link"
        )

    def _maker(self, user_id: str, key_id: str | None, organization_id: str, project_id: str) -> Caller:
        rights = read_rights(
            self._database, user_id=user_id, organization_id=organization_id, project_id=project_id, key_id=key_id
        )
        scopes = rights.scopes
        if key_id is not None:
            scopes = frozenset() if rights.key is None else scopes & with_implied(rights.key.scopes)
        if not rights.is_project_active or _SCOPE not in scopes:
            raise PermissionDenied(
                "Who made this link may not read the file any more. Ask for another one.", code="link_revoked"
            )
        with self._database.read() as session:
            email = session.value(select(users.c.email).where(users.c.id == user_id))
        return Caller(
            user_id=user_id,
            email=email or "",
            organization_id=organization_id,
            project_id=project_id,
            organization_role=None,
            project_role=None,
            scopes=frozenset({_SCOPE}),
            key_id=key_id,
            key_name=None if rights.key is None else rights.key.name,
            allowed_sources=None if rights.key is None else rights.key.allowed_sources,
        )
