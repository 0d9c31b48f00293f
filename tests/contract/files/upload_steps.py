"""What tests of uploads do: parts, completions, and the time that passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select, update

from llmariner.file_settings import FileSettings
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.tables import file_usage, upload_parts, uploads
from llmariner.files.upload import Part, Upload
from llmariner.files.upload_completion import UploadCompletion
from llmariner.files.upload_rows import load_upload
from llmariner.files.uploads import Uploads
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.principal import KeyOwner

__all__ = ["Desk"]


@dataclass
class Desk:
    """Uploads of one project on a folder."""

    database: Database
    objects: FolderObjects
    owner: KeyOwner
    settings: FileSettings = field(default_factory=FileSettings)

    @classmethod
    def open(cls, database: Database, folder: Path, owner: KeyOwner) -> Desk:
        """With the objects in a folder."""
        return cls(database, FolderObjects(folder), owner)

    @property
    def files(self) -> Files:
        """The files of the installation."""
        return Files(self.database, self.objects, self.settings)

    @property
    def uploads(self) -> Uploads:
        """Its uploads."""
        return Uploads(self.database, self.objects, self.settings)

    def create(self, size: int, purpose: Purpose = Purpose.USER_DATA, seconds: int | None = None) -> Upload:
        """A pending upload."""
        return self.uploads.create(self.owner, NewFile("a.txt", purpose, "text/plain", seconds), size)

    def send(self, upload: Upload, data: bytes) -> Part:
        """One part."""
        with self.uploads.receive_part(self.owner, upload.id) as incoming:
            incoming.write(data)
            return self.uploads.add_part(self.owner, incoming)

    def complete(self, upload: Upload, parts: list[Part], md5: str | None = None) -> tuple[Upload, File]:
        """Complete an upload with these parts."""
        completion = UploadCompletion(self.database, self.objects, self.files, self.uploads)
        return completion.complete(self.owner, upload.id, [part.id for part in parts], md5)

    def uploaded(self, *parts: bytes, purpose: Purpose = Purpose.USER_DATA) -> tuple[Upload, File]:
        """The whole way."""
        upload = self.create(sum(map(len, parts)), purpose)
        return self.complete(upload, [self.send(upload, part) for part in parts])

    def every_end(self) -> None:
        """Uploads that are completed, cancelled and expired."""
        self.uploaded(b"hello")
        self.uploads.cancel(self.owner, self.create(1).id)
        self.create(1)
        self.pass_time(self.settings.upload_seconds)
        self.uploads.expire()

    def content(self, file: File) -> bytes:
        """The bytes of a file."""
        return b"".join(self.files.read(file))

    def object_keys(self) -> list[str]:
        """The objects that there are."""
        return [each.key for each in self.objects.list("")]

    def usage(self) -> tuple[int, int]:
        """Files and bytes that count against the project's quota."""
        with self.database.read() as session:
            row = session.first(select(file_usage).where(file_usage.c.project_id == self.owner.project_id))
        return (0, 0) if row is None else (row.files, row.bytes)

    def stored(self, upload: Upload) -> Upload:
        """The upload as it is now."""
        with self.database.read() as session:
            return load_upload(session, upload.project_id, upload.id)

    def parts(self) -> int:
        """The number of rows of parts."""
        with self.database.read() as session:
            return len(session.rows(select(upload_parts.c.id)))

    def pass_time(self, seconds: float) -> None:
        """Make every upload that much older."""
        older = {name: uploads.c[name] - seconds for name in ("created_at", "expires_at", "ended_at", "claimed_until")}
        with self.database.write() as session:
            session.run(update(uploads).values(**older))
