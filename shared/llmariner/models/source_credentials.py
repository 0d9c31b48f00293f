"""Credentials of projects for the sources of models: private repositories of a hub or a registry, and buckets.

An owner of the project sets them, by name; models refer to them, and nobody reads them back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, delete, select

from llmariner.audit import log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.models.model import Model, SourceRepository
from llmariner.models.tables import model_credentials
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.encryption import Undecipherable
from llmariner.platform.model_files import FilesUnavailable
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.sealed_credentials import SealedCredentials, check_secret, check_username

__all__ = ["NewSourceCredential", "SourceCredential", "SourceCredentials", "StoredSourceCredential"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MAX_PER_PROJECT = 100
_SOURCES = (SourceRepository.HUGGING_FACE, SourceRepository.OLLAMA, SourceRepository.OBJECT_STORE)


@dataclass(frozen=True)
class NewSourceCredential:
    """A credential to set. `username`: of a registry's account, or a bucket's access key; else the secret is a token."""

    name: str
    source: SourceRepository
    secret: Secret
    username: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what no source takes."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                "'name' must have 1 to 64 letters, digits, and . _ -, and begin with a letter or digit.",
                param="name",
                code="invalid_value",
            )
        if self.source not in _SOURCES:
            raise InvalidRequest(
                f"'source_repository' must be one of {', '.join(_SOURCES)}.",
                param="source_repository",
                code="invalid_value",
            )
        check_secret(self.secret)
        if self.username is not None:
            check_username(self.username)
        if (self.source is SourceRepository.HUGGING_FACE) and self.username is not None:
            raise InvalidRequest(
                "A hub takes a token alone: send no 'username'.", param="username", code="invalid_value"
            )
        if self.source is SourceRepository.OBJECT_STORE and self.username is None:
            raise InvalidRequest(
                "A bucket needs the access key as 'username', and its secret key as 'secret'.",
                param="username",
                code="missing_required_parameter",
            )


@dataclass(frozen=True)
class StoredSourceCredential:
    """A credential without its secret. Times are Unix seconds."""

    id: str
    name: str
    source: str
    username: str | None
    created_at: int
    updated_at: int


@dataclass(frozen=True)
class SourceCredential:
    """A credential as a source gets it. `username` empty: the secret is a token."""

    username: str
    secret: Secret


class SourceCredentials:
    """The credentials of the projects of one installation. `secrets`: the installation's, the first encrypts. Blocks."""

    def __init__(self, database: Database, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._sealed = SealedCredentials(
            database, model_credentials, secrets, "credentials of model sources", id_prefix="mcred"
        )

    def put(self, caller: Caller, new: NewSourceCredential) -> StoredSourceCredential:
        """Set the credential of that name of the caller's project, in place of the one before. Raises InvalidRequest."""
        new.check()
        owner, c = caller.key_owner, model_credentials.c

        def write(session: WriteSession) -> Row[Any]:
            rows = session.rows(select(c.name, c.source).where(c.project_id == owner.project_id))
            found = {row.name: row.source for row in rows}
            if found.get(new.name, new.source) != new.source:
                raise InvalidRequest(
                    f"The credential '{new.name}' is for {found[new.name]}, and models refer to it. Choose another name.",
                    param="name",
                    code="invalid_value",
                )
            if new.name not in found and len(found) >= _MAX_PER_PROJECT:
                raise InvalidRequest(f"A project has at most {_MAX_PER_PROJECT} credentials. Delete one.", param="name")
            identity = {"name": new.name, "source": new.source.value}
            stored = self._sealed.put(session, owner, identity, new.secret, new.username)
            _audit(session, caller, "set", {"id": stored.id, "name": new.name})
            return stored

        return _stored(self._database.transact(write))

    def all(self, project_id: str) -> list[StoredSourceCredential]:
        """The credentials of a project, at most 100."""
        return [_stored(row) for row in self._sealed.all(project_id)]

    def delete(self, caller: Caller, credential_id: str) -> None:
        """Delete a credential of the caller's project. NotFound. Models that are loaded already stay."""
        c = model_credentials.c
        this = and_(c.id == credential_id, c.project_id == caller.key_owner.project_id)

        def remove(session: WriteSession) -> None:
            if not session.run(delete(model_credentials).where(this)):
                raise NotFound(
                    f"No such credential: '{credential_id[:64]}'. List those of your project with "
                    "GET /v1/model_credentials.",
                    param="credential_id",
                )
            _audit(session, caller, "deleted", {"id": credential_id})

        self._database.transact(remove)

    def id_of(self, project_id: str, name: str, source: SourceRepository) -> str:
        """The id of the project's credential of that name, for a model of that source. Raises InvalidRequest."""
        c = model_credentials.c
        with self._database.read() as session:
            row = session.first(select(c.id, c.source).where(c.project_id == project_id, c.name == name))
        if row is None or row.source != source:
            what = (
                "The project has no credential" if row is None else f"The credential is for {row.source}, and not one"
            )
            raise InvalidRequest(
                f"{what} '{name[:64]}' for {source}. An owner of the project sets it with POST /v1/model_credentials.",
                param="credential",
                code="invalid_value",
            )
        return str(row.id)

    def of_model(self, model: Model) -> SourceCredential | None:
        """The credential that a model refers to; None for one of the installation. FilesUnavailable where it is gone."""
        if model.credential_id is None:
            return None
        try:
            found = self._sealed.find(model_credentials.c.id == model.credential_id)
        except Undecipherable as error:
            raise FilesUnavailable(
                "The model's credential can't be decrypted any more. An owner of the project sets it again; then retry the "
                "model."
            ) from error
        if found is None:
            raise FilesUnavailable(
                "The model's credential was deleted. Delete the model, and create it again with another credential."
            )
        return SourceCredential(found[0].username or "", found[1])

    def maintain(self) -> None:
        """Encrypt with the present secret, and delete what gone projects had. For the sweep."""
        self._sealed.renew()
        self._sealed.delete_orphans()


def _audit(session: WriteSession, caller: Caller, what: str, payload: dict[str, str]) -> None:
    place = {"organization_id": caller.key_owner.organization_id, "project_id": caller.key_owner.project_id}
    log.append_entry(session, caller, f"model_credential.{what}", payload, **place)


def _stored(row: Row[Any]) -> StoredSourceCredential:
    return StoredSourceCredential(**{name: getattr(row, name) for name in StoredSourceCredential.__dataclass_fields__})
