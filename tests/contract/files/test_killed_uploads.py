"""What remains of uploads whose process is killed, whose store fails, or which end while they are completed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from llmariner.errors import Conflict, Unavailable
from llmariner.files.garbage import GRACE_SECONDS, collect_garbage, collect_parts
from llmariner.files.tables import file_contents, upload_parts, uploads
from llmariner.files.upload import Status, Upload, upload_from_row
from llmariner.files.upload_rows import parts_of
from llmariner.platform.database import Database
from llmariner.platform.objects import ObjectInfo, ObjectStoreUnavailable
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.principal import KeyOwner

from .upload_steps import Desk

KILLED = Path(__file__).parent / "killed_upload.py"


class InterruptedObjects(FolderObjects):
    """A folder that calls a function before it joins or deletes objects."""

    def __init__(self, root: Path, *, join: Callable[[], object] = lambda: None, delete: object = None) -> None:
        super().__init__(root)
        self._join = join
        self._delete_error = delete

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Join, after the function."""
        self._join()
        return super().concatenate(key, parts)

    def delete(self, keys: object) -> None:
        """Delete, or fail."""
        if isinstance(self._delete_error, Exception):
            raise self._delete_error
        super().delete(keys)  # type: ignore[arg-type]


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> Desk:
    return Desk.open(database, tmp_path / "objects", owner)


def sweep_old_objects(desk: Desk) -> None:
    """What the sweep does a day later with objects that nothing refers to."""
    for key in desk.object_keys():
        at = time.time() - GRACE_SECONDS - 1
        os.utime(desk.objects._root / key, (at, at))
    collect_garbage(desk.files, desk.objects, seconds=60)
    collect_parts(desk.uploads, desk.objects, seconds=60)


def assert_rows_have_objects(desk: Desk) -> None:
    with desk.database.read() as session:
        contents = {row.key: row.size_bytes for row in session.rows(select(file_contents))}
        rows = session.rows(select(upload_parts))
    parts = {f"uploads/{row.upload_id}/{row.id}": row.size_bytes for row in rows}
    assert {each.key: each.size for each in desk.objects.list("")}.items() >= {**contents, **parts}.items()


def all_uploads(desk: Desk) -> list[Upload]:
    with desk.database.read() as session:
        return [upload_from_row(row) for row in session.rows(select(uploads).order_by(uploads.c.id))]


def test_a_process_that_is_killed_at_any_step_leaves_no_orphan_and_no_row_without_bytes(
    desk: Desk, tmp_path: Path
) -> None:
    arguments = [desk.database.url, str(tmp_path / "objects"), *vars(desk.owner).values()]
    done = subprocess.run(
        [sys.executable, str(KILLED), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40, "The upload has fewer steps than before: does every one count?"
    assert_rows_have_objects(desk)
    for upload in all_uploads(desk):
        if upload.status is Status.COMPLETED:
            assert len(desk.content(desk.files.get(upload.project_id, str(upload.file_id)))) == 8
    sweep_old_objects(desk)
    assert_rows_have_objects(desk)
    finish_what_has_its_parts(desk)
    desk.pass_time(desk.settings.upload_seconds)
    desk.uploads.expire()
    sweep_old_objects(desk)
    found = all_uploads(desk)
    files = [upload for upload in found if upload.status is Status.COMPLETED]
    assert {upload.status for upload in found} == set(Status) - {Status.PENDING}
    assert desk.usage() == (len(files), 8 * len(files))
    assert len(desk.object_keys()) == len(files)
    assert desk.parts() == 0


def finish_what_has_its_parts(desk: Desk) -> None:
    """Complete again, as a client does that got no response. The claim of a killed completion has ended."""
    desk.pass_time(90)
    finished = 0
    for upload in all_uploads(desk):
        with desk.database.read() as session:
            parts = parts_of(session, upload)
        if upload.status is Status.PENDING and len(parts) == 2:
            _, file = desk.complete(upload, parts)
            assert len(desk.content(file)) == 8
            finished += 1
    assert finished >= 10


def test_an_upload_that_is_cancelled_while_it_is_completed_makes_no_file(desk: Desk) -> None:
    upload = desk.create(10)
    parts = [desk.send(upload, b"hello"), desk.send(upload, b"world")]
    root = desk.objects._root
    cancelled = InterruptedObjects(root, join=lambda: desk.uploads.cancel(desk.owner, upload.id))
    with pytest.raises(Conflict, match="was cancelled"):
        replace(desk, objects=cancelled).complete(upload, parts)
    assert (desk.object_keys(), desk.usage(), desk.parts()) == ([], (0, 0), 0)


def test_an_upload_that_is_cancelled_after_its_parts_are_joined_makes_no_file(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")

    class Late(FolderObjects):
        """Joins, then cancels."""

        def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
            info = super().concatenate(key, parts)
            desk.uploads.cancel(desk.owner, upload.id)
            return info

    with pytest.raises(Conflict) as refused:
        replace(desk, objects=Late(desk.objects._root)).complete(upload, [part])
    assert refused.value.code == "upload_cancelled"
    assert (desk.object_keys(), desk.usage()) == ([], (0, 0))


def test_a_completion_that_lost_its_claim_makes_no_second_file(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")

    def overtaken() -> None:
        desk.pass_time(90)
        desk.complete(upload, [part])

    with pytest.raises(Conflict) as refused:
        replace(desk, objects=InterruptedObjects(desk.objects._root, join=overtaken)).complete(upload, [part])
    assert refused.value.code == "upload_completed"
    assert (desk.usage(), len(desk.object_keys())) == ((1, 5), 1)


def test_a_completion_whose_claim_another_holds_ends_nothing(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")

    def claimed() -> None:
        with desk.database.write() as session:
            session.run(uploads.update().values(claim="claim_other"))

    with pytest.raises(Conflict) as refused:
        replace(desk, objects=InterruptedObjects(desk.objects._root, join=claimed)).complete(upload, [part])
    assert refused.value.code == "upload_in_progress"
    assert desk.object_keys() == [part.key]


def test_a_store_that_fails_leaves_the_upload_pending(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")

    def fail() -> None:
        raise ObjectStoreUnavailable("full")

    with pytest.raises(Unavailable):
        replace(desk, objects=InterruptedObjects(desk.objects._root, join=fail)).complete(upload, [part])
    _, file = desk.complete(upload, [part])
    assert desk.content(file) == b"hello"


def test_a_store_that_does_not_delete_does_not_fail_the_request(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")
    stuck = replace(desk, objects=InterruptedObjects(desk.objects._root, delete=ObjectStoreUnavailable("down")))
    completed, _ = stuck.complete(upload, [part])
    assert completed.status is Status.COMPLETED
    assert part.key in desk.object_keys()
    sweep_old_objects(desk)
    assert len(desk.object_keys()) == 1
