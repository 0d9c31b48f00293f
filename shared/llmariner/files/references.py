"""What other domains have that refers to files of projects, and the check before a file is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import select

from llmariner.errors import Conflict
from llmariner.files.file import File
from llmariner.files.tables import files
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["FileReferences", "FileUse", "check_unused", "lock_file"]


@dataclass(frozen=True)
class FileUse:
    """What would break without a file, such as 'the fine-tuning job ftjob-1', and how its use ends."""

    user: str
    ending: str = "Wait for its end or cancel it"


class FileReferences(Protocol):
    """What another domain has that refers to files. Both methods run in the transaction that deletes a file."""

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
        """What would break without the file; empty where nothing would."""

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """Remove what refers to the file, or let an event do it."""


def lock_file(session: WriteSession, file_id: str) -> bool:
    """Keep a file from being deleted until the transaction ends. False: it is deleted.

    After it, a transaction waits for the audit log at most: one that deletes a file holds this lock, and waits for that.
    """
    return session.first(select(files.c.id).where(files.c.id == file_id).with_for_update()) is not None


def check_unused(session: WriteSession, references: Sequence[FileReferences], file: File) -> None:
    """Raises Conflict where something would break without the file. Locks the file, so that nothing is added meanwhile."""
    lock_file(session, file.id)
    if uses := [use for each in references for use in each.in_use_by(session, file)]:
        users = list(dict.fromkeys(use.user for use in uses))
        endings = ". ".join(dict.fromkeys(use.ending for use in uses))
        message = f"The file '{file.id}' is in use by {', '.join(users)}. {endings}. Then delete the file again."
        error = Conflict(message, param="file_id", code="file_in_use")
        error.details["in_use_by"] = users
        raise error
