"""Contents that no row refers to are deleted once they are old; those of files never are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmariner.file_settings import FileSettings
from llmariner.files import garbage
from llmariner.files.content import new_content_key
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.garbage import GRACE_SECONDS, collect_garbage
from llmariner.files.purposes import Purpose
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.keys.store import KeyOwner


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path)


@pytest.fixture
def store(database: Database, objects: FolderObjects) -> Files:
    return Files(database, objects, FileSettings())


def put(objects: FolderObjects, root: Path, *, age: float) -> str:
    """An object without a row, of that age in seconds."""
    key = new_content_key()
    with objects.writer(key) as writer:
        writer.commit()
    old(root, key, age)
    return key


def old(root: Path, key: str, age: float) -> None:
    at = time.time() - age
    os.utime(root / key, (at, at))


def a_file(store: Files, owner: KeyOwner, data: bytes) -> str:
    """The key of the content of a new file."""
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(data)
        return str(store.save(owner, NewFile("a", Purpose.EVALS, "text/plain"), content).content_key)


@pytest.mark.parametrize("at_once", [2, 5000])
def test_old_garbage_is_deleted(
    at_once: int,
    store: Files,
    objects: FolderObjects,
    owner: KeyOwner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "_AT_ONCE", at_once)
    kept = []
    for number in range(4):
        kept.append(a_file(store, owner, b"%d" % number))
        old(tmp_path, kept[-1], GRACE_SECONDS * 9)
        put(objects, tmp_path, age=GRACE_SECONDS + 60)
    kept.append(put(objects, tmp_path, age=GRACE_SECONDS - 600))
    assert collect_garbage(store, objects, seconds=60) == 4
    assert [each.key for each in objects.list("files/")] == sorted(kept)
    assert collect_garbage(store, objects, seconds=60) == 0


def test_a_pass_ends_in_time(store: Files, objects: FolderObjects, tmp_path: Path) -> None:
    put(objects, tmp_path, age=GRACE_SECONDS * 2)
    assert collect_garbage(store, objects, seconds=-1) == 0


def test_an_empty_store_has_no_garbage(store: Files, objects: FolderObjects) -> None:
    assert collect_garbage(store, objects, seconds=60) == 0
