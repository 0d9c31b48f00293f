"""Links to the contents of files: tokens with which anybody may read one file until they expire (decision 24).

A token gives no right of its own. Each use reads what the user and the API key that made it may do now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from llmariner.audit import log
from llmariner.client_networks import client_network
from llmariner.errors import NotFound
from llmariner.files.files import Files
from llmariner.files.link_tokens import PARAMETER, LinkTokens, check_lifetime, maker_claims, read_maker
from llmariner.files.link_uses import LinkUses
from llmariner.files.tables import files as file_rows
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller

__all__ = ["FileLink", "FileLinks", "OpenedLink"]

_SCOPE = "api.files.read"


@dataclass(frozen=True)
class FileLink:
    """A link to the content of a file. Times are Unix seconds. Any holder of the `token` may use it."""

    id: str
    file_id: str
    created_at: int
    expires_at: int
    token: str

    @property
    def path(self) -> str:
        """The path and query of its URL, for GET."""
        return f"/v1/files/{self.file_id}/content?{PARAMETER}={self.token}"


@dataclass(frozen=True)
class OpenedLink:
    """A link that is valid now. `maker`: who made it, with the right to read its file and no other."""

    id: str
    file_id: str
    maker: Caller


class FileLinks:
    """The links to files of one installation. All methods block. `secrets` as those of `LinkTokens`."""

    def __init__(self, database: Database, files: Files, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._files = files
        self._tokens = LinkTokens(secrets, "file_download")
        self._uses = LinkUses(files.settings.link_requests_per_minute)

    @property
    def longest_seconds(self) -> int:
        """The longest time for which a link may be valid."""
        return self._files.settings.link_seconds

    def create(self, caller: Caller, file_id: str, seconds: int) -> FileLink:
        """A link that is valid for that time. Raises NotFound, InvalidRequest for a time beyond the limit."""
        check_lifetime(seconds, self._files.settings.link_seconds)
        file, link_id = self._files.get(caller.key_owner.project_id, file_id), new_id("link")

        def audit(session: WriteSession) -> int:
            now = int(session.now())
            payload = {"id": link_id, "data": {"file_id": file.id, "expires_at": now + seconds}}
            place = {"organization_id": file.organization_id, "project_id": file.project_id}
            log.append_entry(session, caller, "file.link.created", payload, **place)
            return now

        now = self._database.transact(audit)
        claims = {"exp": now + seconds, "file": file.id, "jti": link_id, **maker_claims(caller)}
        return FileLink(link_id, file.id, now, now + seconds, self._tokens.sign(claims))

    def is_signed(self, token: str) -> bool:
        """See `LinkTokens`."""
        return self._tokens.is_signed(token)

    def open(self, token: str, file_id: str) -> OpenedLink:
        """The link to that file with this token.

        Raises PermissionDenied for a text that is no link to it, for an expired one, and where its maker may not read the
        file any more; NotFound where the file is gone; RateLimited.
        """
        claims = self._tokens.verified(token)
        if claims["file"] != file_id:
            raise self._tokens.invalid()
        self._uses.admit(claims["jti"])
        with self._database.read() as session:
            self._tokens.check_time(claims, session.now())
            place = session.first(
                select(file_rows.c.organization_id, file_rows.c.project_id).where(file_rows.c.id == file_id)
            )
        if place is None:
            raise NotFound("The file of this link was deleted.", param="file_id")
        maker = read_maker(self._database, claims, **place._mapping, scope=_SCOPE)
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
