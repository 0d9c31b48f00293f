"""Uploads a file again and again, and is killed before another step each time, until it is not.

A step is a call of the object store, and the begin or the commit of a transaction. Arguments: the database's URL, the folder
of the objects, and the owner's ids (user, project, organization). Prints the number of steps.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import event

from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.upload_completion import UploadCompletion
from llmariner.files.uploads import Uploads
from llmariner.platform.database import Database
from llmariner.platform.objects import ObjectInfo
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.principal import KeyOwner


class Fate:
    """Kills this process before the step of that number."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._steps = 0

    def step(self, *_: Any) -> None:
        """One step."""
        self._steps += 1
        if self._steps == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalObjects(FolderObjects):
    """A folder whose every change is a step, before and after it."""

    def __init__(self, root: Path, fate: Fate) -> None:
        super().__init__(root)
        self._fate = fate

    def writer(self, key: str) -> Any:
        """A writer whose commit is two steps."""
        writer: Any = super().writer(key)
        writer.commit = self._mortal(writer.commit)
        return writer

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Join."""
        joined: ObjectInfo = self._mortal(lambda: super(MortalObjects, self).concatenate(key, parts))()
        return joined

    def delete(self, keys: Any) -> None:
        """Delete one after the other."""
        for key in keys:
            self._fate.step()
            super().delete([key])

    def _mortal(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def called() -> Any:
            self._fate.step()
            result = call()
            self._fate.step()
            return result

        return called


def upload(url: str, folder: Path, owner: KeyOwner, last: int) -> None:
    """The whole way, and a second upload that is cancelled."""
    fate = Fate(last)
    database = Database(DatabaseSettings(url))
    event.listen(database.engine, "begin", fate.step)
    event.listen(database.engine, "commit", fate.step)
    objects, settings = MortalObjects(folder, fate), FileSettings()
    files, uploads = Files(database, objects, settings), Uploads(database, objects, settings)
    completion = UploadCompletion(database, objects, files, uploads)
    for ends in (completion.complete, None):
        data = b"%07d" % last + (b"+" if ends else b"-")
        made = uploads.create(owner, NewFile("a.txt", Purpose.USER_DATA, "text/plain"), len(data))
        parts = []
        for part in (data[:4], data[4:]):
            with uploads.receive_part(owner, made.id) as incoming:
                incoming.write(part)
                parts.append(uploads.add_part(owner, incoming).id)
        if ends is not None:
            ends(owner, made.id, parts)
        else:
            uploads.cancel(owner, made.id)
    database.close()


def main(url: str, folder: str, *ids: str) -> None:
    """Fork for each step. The first upload is not killed: what it imports and compiles, the others have."""
    upload(url, Path(folder), KeyOwner(*ids), 0)
    last, status = 0, -1
    while status:
        last += 1
        child = os.fork()
        if not child:
            try:
                upload(url, Path(folder), KeyOwner(*ids), last)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), status
    print(last - 1)


main(*sys.argv[1:])
