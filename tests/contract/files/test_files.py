"""Files: rows, contents that are stored once, quotas, deletion, expiry, and what a process that is killed leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import BodyTooLarge, Conflict, InsufficientQuota, InvalidRequest, NotFound, Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files import bytes_in_flight
from llmariner.files.content import IncomingContent
from llmariner.files.events import CREATED, DELETED
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.references import FileUse
from llmariner.files.tables import file_contents, file_usage, files
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.events.tables import events
from llmariner.platform.objects import ObjectStoreUnavailable
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.organizations import active_projects
from llmariner.tenancy.tables import projects

from ..killed_process import Killed
from ..team import Team

NO_LIMIT = 1 << 40


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "objects")


@pytest.fixture
def store(database: Database, objects: FolderObjects) -> Files:
    return Files(database, objects, FileSettings())


def put(
    store: Files,
    owner: KeyOwner,
    data: bytes = b"hello",
    *,
    name: str = "a.txt",
    purpose: Purpose = Purpose.USER_DATA,
    seconds: int | None = None,
) -> File:
    """A file that is received in two writes."""
    with store.receive(owner, purpose=None, size_bytes=len(data), limit_bytes=NO_LIMIT) as content:
        content.write(data[:2])
        content.write(data[2:])
        return store.save(owner, NewFile(name, purpose, "text/plain", seconds), content)


def keys_of(objects: FolderObjects) -> list[str]:
    return [each.key for each in objects.list("")]


def usage(database: Database, project_id: str) -> tuple[int, int]:
    with database.read() as session:
        row = session.first(select(file_usage).where(file_usage.c.project_id == project_id))
    return (0, 0) if row is None else (row.files, row.bytes)


def test_a_file_is_read_as_it_was_written(store: Files, owner: KeyOwner) -> None:
    file = put(store, owner, b"0123456789")
    assert store.get(owner.project_id, file.id) == file
    assert b"".join(store.read(file)) == b"0123456789"
    assert b"".join(store.read(file, 3, 4)) == b"3456"
    assert (file.size_bytes, file.expires_at) == (10, None)
    assert file.id.startswith("file-")


def test_an_empty_file_is_a_file(store: Files, owner: KeyOwner) -> None:
    file = put(store, owner, b"")
    assert b"".join(store.read(file)) == b""
    assert file.size_bytes == 0


def test_a_file_of_another_project_is_unknown(store: Files, owner: KeyOwner, other_owner: KeyOwner) -> None:
    file = put(store, owner)
    with pytest.raises(NotFound) as theirs:
        store.get(other_owner.project_id, file.id)
    with pytest.raises(NotFound) as unknown:
        store.get(other_owner.project_id, "file-x")
    assert theirs.value.message.replace(file.id, "file-x") == unknown.value.message
    assert store.page(other_owner.project_id, purpose=None, after=None, limit=9, order="asc") == []
    assert store.get_many(other_owner.project_id, [file.id]) == {}


def test_the_same_content_is_stored_once_per_project(
    store: Files, objects: FolderObjects, owner: KeyOwner, other_owner: KeyOwner, team: Team
) -> None:
    first, second, theirs = put(store, owner), put(store, owner, name="b.txt"), put(store, other_owner)
    assert first.content_key == second.content_key
    assert theirs.content_key != first.content_key
    assert len(keys_of(objects)) == 2
    store.delete(team.admin, first.id)
    assert b"".join(store.read(second)) == b"hello"
    store.delete(team.admin, second.id)
    assert keys_of(objects) == [theirs.content_key]


def test_concurrent_uploads_of_the_same_content_share_it(
    store: Files, objects: FolderObjects, owner: KeyOwner, run_concurrently: Callable[..., list[Any]]
) -> None:
    made = run_concurrently([lambda: put(store, owner) for _ in range(4)])
    assert {file.content_key for file in made} == set(keys_of(objects))
    assert len(keys_of(objects)) == 1


def test_content_that_is_freed_while_the_same_arrives_is_stored_again(
    database: Database, objects: FolderObjects, owner: KeyOwner, team: Team
) -> None:
    class Late(Files):
        def _share(self, *arguments: Any) -> File:
            self.delete(team.admin, first.id)
            return super()._share(*arguments)

    store = Late(database, objects, FileSettings())
    first = put(store, owner)
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=NO_LIMIT) as content:
        content.write(b"hello")
        second = store.save(owner, NewFile("b.txt", Purpose.USER_DATA, "text/plain"), content)
    assert b"".join(store.read(second)) == b"hello"
    assert keys_of(objects) == [second.content_key]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_list_is_paged_by_id(store: Files, owner: KeyOwner, team: Team, order: Any) -> None:
    made = [put(store, owner, name=f"{number}.txt") for number in range(5)]
    ids = sorted((file.id for file in made), reverse=order == "desc")
    page = store.page(owner.project_id, purpose=None, after=None, limit=2, order=order)
    assert [file.id for file in page] == ids[:2]
    store.delete(team.admin, ids[1])
    rest = store.page(owner.project_id, purpose=None, after=ids[1], limit=9, order=order)
    assert [file.id for file in rest] == ids[2:]


def test_a_list_of_one_purpose(store: Files, owner: KeyOwner) -> None:
    put(store, owner)
    wanted = put(store, owner, purpose=Purpose.ASSISTANTS)
    assert store.page(owner.project_id, purpose=Purpose.ASSISTANTS, after=None, limit=9, order="asc") == [wanted]
    assert store.count(owner.project_id, purpose=Purpose.ASSISTANTS) == 1
    assert store.count(owner.project_id, purpose=None) == 2


def test_a_deleted_file_leaves_nothing(
    store: Files, objects: FolderObjects, owner: KeyOwner, team: Team, database: Database
) -> None:
    file = put(store, owner)
    store.delete(team.admin, file.id)
    with pytest.raises(NotFound):
        store.delete(team.admin, file.id)
    with pytest.raises(NotFound):
        store.get(owner.project_id, file.id)
    assert keys_of(objects) == []
    assert usage(database, owner.project_id) == (0, 0)
    with database.read() as session:
        assert session.rows(select(files)) == session.rows(select(file_contents)) == []
        written = session.rows(select(events).order_by(events.c.time, events.c.id))
    assert [(row.type, row.subject) for row in written] == [
        (CREATED, f"files/{file.id}"),
        (DELETED, f"files/{file.id}"),
    ]
    assert json.loads(written[0].data)["filename"] == "a.txt"


def test_two_deletions_of_a_file_at_once_delete_it_once(
    store: Files, owner: KeyOwner, team: Team, database: Database, run_concurrently: Callable[..., list[Any]]
) -> None:
    file = put(store, owner)
    results = run_concurrently([lambda: store.delete(team.admin, file.id) for _ in range(3)])
    assert [type(each) for each in results].count(NotFound) == 2
    assert usage(database, owner.project_id) == (0, 0)


class References:
    """A domain that uses files until it is notified that they are deleted."""

    def __init__(self, users: Sequence[str] = ()) -> None:
        self.users = [FileUse(user) for user in users]
        self.deleted: list[str] = []

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
        return self.users

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        self.deleted.append(file.id)


def test_a_file_in_use_is_not_deleted(database: Database, objects: FolderObjects, owner: KeyOwner, team: Team) -> None:
    references = References(["the fine-tuning job ftjob-1"])
    store = Files(database, objects, FileSettings(), [references])
    file = put(store, owner, seconds=3600)
    with pytest.raises(Conflict, match="in use by the fine-tuning job ftjob-1") as refused:
        store.delete(team.admin, file.id)
    assert refused.value.body()["error"]["in_use_by"] == ["the fine-tuning job ftjob-1"]
    assert b"".join(store.read(file)) == b"hello"
    assert references.deleted == []
    references.users.clear()
    store.delete(team.admin, file.id)
    assert references.deleted == [file.id]


def test_quotas_count_files_and_bytes(database: Database, objects: FolderObjects, owner: KeyOwner, team: Team) -> None:
    store = Files(database, objects, FileSettings(project_files=2, project_bytes=11))
    first = put(store, owner)
    with pytest.raises(InsufficientQuota, match="may have 11 bytes"):
        put(store, owner, b"1234567")
    put(store, owner, b"123456")
    with pytest.raises(InsufficientQuota, match="has 2 files"):
        put(store, owner, b"")
    assert usage(database, owner.project_id) == (2, 11)
    assert len(keys_of(objects)) == 2
    store.delete(team.admin, first.id)
    put(store, owner, b"1")


def test_content_of_unknown_size_that_exceeds_the_quota_is_not_kept(
    database: Database, objects: FolderObjects, owner: KeyOwner
) -> None:
    store = Files(database, objects, FileSettings(project_bytes=4))
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=NO_LIMIT) as content:
        content.write(b"hello")
        with pytest.raises(InsufficientQuota):
            store.save(owner, NewFile("a", Purpose.USER_DATA, "text/plain"), content)
    assert keys_of(objects) == []


def test_bytes_that_arrive_count_against_the_quota(
    database: Database, objects: FolderObjects, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytes_in_flight, "_CHECKED_EVERY", 4)
    store = Files(database, objects, FileSettings(project_bytes=10))

    def receive(size_bytes: int = 0) -> IncomingContent:
        return store.receive(owner, purpose=None, size_bytes=size_bytes, limit_bytes=NO_LIMIT)

    with receive() as one:
        one.write(b"123456")
        with receive() as other, pytest.raises(InsufficientQuota, match="may have 10 bytes"):
            other.write(b"12345")
        with pytest.raises(InsufficientQuota):
            receive(5)
        # What was refused counts no more, and what arrives does not count besides what is saved.
        store.save(owner, NewFile("a", Purpose.USER_DATA, "text/plain"), one)
        put(store, owner, b"1234")
    assert usage(database, owner.project_id) == (2, 10)
    with pytest.raises(InsufficientQuota):
        receive(1)
    assert len(keys_of(objects)) == 2


def test_content_that_the_project_has_counts_once_when_it_is_saved(
    database: Database, objects: FolderObjects, owner: KeyOwner
) -> None:
    store = Files(database, objects, FileSettings(project_bytes=10))
    put(store, owner, b"1234")
    with store.receive(owner, purpose=None, size_bytes=4, limit_bytes=NO_LIMIT) as same:
        same.write(b"1234")
        store.save(owner, NewFile("a", Purpose.USER_DATA, "text/plain"), same)
        store.receive(owner, purpose=None, size_bytes=2, limit_bytes=NO_LIMIT)
    assert usage(database, owner.project_id) == (2, 8)


def test_concurrent_uploads_do_not_exceed_a_quota(
    database: Database, objects: FolderObjects, owner: KeyOwner, run_concurrently: Callable[..., list[Any]]
) -> None:
    store = Files(database, objects, FileSettings(project_files=2))
    results = run_concurrently([lambda text=str(n): put(store, owner, text.encode()) for n in range(5)])
    assert sum(isinstance(each, File) for each in results) == 2
    assert usage(database, owner.project_id)[0] == len(keys_of(objects)) == 2


def test_more_bytes_than_the_form_may_have_are_refused(store: Files, objects: FolderObjects, owner: KeyOwner) -> None:
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=4) as content:
        content.write(b"1234")
        with pytest.raises(BodyTooLarge, match="POST /v1/uploads"):
            content.write(b"5")
    assert keys_of(objects) == []


def test_content_is_checked_for_a_purpose_that_follows_it(store: Files, owner: KeyOwner) -> None:
    assert put(store, owner, b"\x00 not lines").size_bytes == 11
    with pytest.raises(InvalidRequest, match="Line 1 is not valid JSON"):
        put(store, owner, b"\x00 not lines", purpose=Purpose.BATCH)


def test_a_file_that_expired_is_gone_and_the_sweep_deletes_it(
    store: Files, objects: FolderObjects, owner: KeyOwner, database: Database
) -> None:
    file, kept = put(store, owner, seconds=3600), put(store, owner, b"kept", seconds=7200)
    assert file.expires_at == file.created_at + 3600
    with database.write() as session:
        session.run(update(files).where(files.c.id == file.id).values(expires_at=int(time.time()) - 1))
    with pytest.raises(NotFound):
        store.get(owner.project_id, file.id)
    assert store.page(owner.project_id, purpose=None, after=None, limit=9, order="asc") == [kept]
    assert store.expire() == 1
    assert keys_of(objects) == [kept.content_key]
    assert usage(database, owner.project_id) == (1, 4)


def test_expiry_passes_over_files_in_use(database: Database, objects: FolderObjects, owner: KeyOwner) -> None:
    references = References(["a job"])
    store = Files(database, objects, FileSettings(), [references])
    put(store, owner, seconds=3600)
    with database.write() as session:
        session.run(update(files).values(expires_at=1))
    assert store.expire() == 0
    references.users.clear()
    assert store.expire() == 1


def test_files_for_batches_expire_after_thirty_days(store: Files, owner: KeyOwner) -> None:
    line = b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {}}'
    file = put(store, owner, line, purpose=Purpose.BATCH)
    assert file.expires_at == file.created_at + 30 * 86400


def test_files_of_a_project_that_is_gone_are_deleted(
    store: Files, objects: FolderObjects, owner: KeyOwner, other_owner: KeyOwner, database: Database
) -> None:
    kept = put(store, owner)
    for number in range(3):
        put(store, other_owner, str(number).encode())
    with database.write() as session:
        session.run(projects.delete().where(projects.c.id == other_owner.project_id))
    assert store.delete_orphans() == 3
    assert keys_of(objects) == [kept.content_key]
    with database.read() as session:
        assert [row.project_id for row in session.rows(select(file_usage))] == [owner.project_id]


def archive(database: Database, project_id: str, *, days: float | None) -> None:
    """Archive a project so many days ago; None: restore it."""
    with database.write() as session:
        archived_at = None if days is None else session.now() - days * 86400
        session.run(update(projects).where(projects.c.id == project_id).values(archived_at=archived_at))


def test_files_of_an_archived_project_are_deleted_after_thirty_days(
    store: Files, objects: FolderObjects, owner: KeyOwner, other_owner: KeyOwner, database: Database
) -> None:
    kept, orphans = put(store, owner), [put(store, other_owner, str(number).encode()) for number in range(2)]
    archive(database, other_owner.project_id, days=20)
    assert store.delete_orphans() == 0
    archive(database, other_owner.project_id, days=60)
    assert store.delete_orphans(seconds=-1) == 0
    assert (store.delete_orphans(), store.delete_orphans()) == (2, 0)
    assert keys_of(objects) == [kept.content_key]
    with database.read() as session:
        assert [row.project_id for row in session.rows(select(file_usage))] == [owner.project_id]
        deleted = session.rows(select(audit_log).where(audit_log.c.type == "file.deleted"))
    assert {(json.loads(row.payload)["id"], row.project_id) for row in deleted} == {
        (each.id, other_owner.project_id) for each in orphans
    }


@pytest.mark.parametrize("days", [None, 0])
def test_a_project_that_is_restored_meanwhile_keeps_its_files(
    days: float | None, database: Database, objects: FolderObjects, owner: KeyOwner
) -> None:
    class Restored:
        """The project is restored with the deletion of its first file; 0 days: and archived again."""

        def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
            return ()

        def on_file_deleted(self, session: WriteSession, file: File) -> None:
            archived_at = None if days is None else session.now()
            session.run(update(projects).where(projects.c.id == file.project_id).values(archived_at=archived_at))

    store = Files(database, objects, FileSettings(), (Restored(),))
    made = [put(store, owner, str(number).encode()) for number in range(3)]
    archive(database, owner.project_id, days=60)
    assert store.delete_orphans() == 1
    assert len(store.get_many(owner.project_id, [each.id for each in made])) == len(keys_of(objects)) == 2


@pytest.mark.parametrize("ahead", ["database", "machine"])
def test_one_clock_that_is_set_forward_deletes_no_files_of_an_archived_project(
    ahead: str, store: Files, team: Team, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 2_000_000_000.0
    clocks = {"database": now, "machine": now}
    monkeypatch.setattr(ReadSession, "now", lambda _session: clocks["database"])
    monkeypatch.setattr(active_projects, "time", SimpleNamespace(time=lambda: clocks["machine"]))
    project_id = team.project()
    put(store, replace(team.owner, project_id=project_id))
    # By the clock of the database: the one of the machine where somebody archives may be years behind.
    assert team.projects.archive(team.admin, project_id).archived_at == now
    clocks[ahead] += 10 * 365 * 86400
    assert store.delete_orphans() == 0
    clocks.update(database=now + 30 * 86400, machine=now + 30 * 86400)
    assert store.delete_orphans() == 1


def test_a_process_that_is_killed_before_its_row_leaves_an_object_that_no_row_refers_to(
    store: Files, objects: FolderObjects, owner: KeyOwner, database: Database
) -> None:
    def killed(*_: Any) -> Any:
        raise Killed

    store._database = type("Broken", (), {"read": database.read, "transact": killed})()
    with pytest.raises(Killed):
        put(store, owner)
    [key] = keys_of(objects)
    assert store.referenced([key]) == set()
    with database.read() as session:
        assert session.rows(select(files)) == []
    assert usage(database, owner.project_id) == (0, 0)


def test_a_process_that_is_killed_before_it_deletes_an_object_leaves_it_without_a_row(
    database: Database, objects: FolderObjects, owner: KeyOwner, team: Team
) -> None:
    class Dying(FolderObjects):
        def delete(self, keys: Any) -> None:
            raise Killed

    store = Files(database, Dying(objects._root), FileSettings())
    file, shared = put(store, owner), put(store, owner, b"shared")
    with pytest.raises(Killed):
        store.delete(team.admin, file.id)
    with pytest.raises(NotFound):
        store.get(owner.project_id, file.id)
    assert store.referenced(keys_of(objects)) == {shared.content_key}


def test_a_process_that_is_killed_while_bytes_arrive_leaves_no_object(
    store: Files, objects: FolderObjects, owner: KeyOwner
) -> None:
    def receive() -> None:
        with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=NO_LIMIT) as content:
            content.write(b"half")
            raise Killed

    with pytest.raises(Killed):
        receive()
    assert keys_of(objects) == []


def test_an_object_store_that_fails_is_unavailable_and_leaves_no_row(
    database: Database, objects: FolderObjects, owner: KeyOwner
) -> None:
    class Failing(FolderObjects):
        def writer(self, key: str) -> Any:
            writer = super().writer(key)
            writer.commit = self._fail  # type: ignore[method-assign]
            return writer

        def _fail(self) -> Any:
            raise ObjectStoreUnavailable("no answer")

    with pytest.raises(Unavailable, match="nothing was stored"):
        put(Files(database, Failing(objects._root), FileSettings()), owner)
    assert usage(database, owner.project_id) == (0, 0)


def test_a_read_of_a_store_that_fails_says_nothing_of_storing(
    database: Database, store: Files, objects: FolderObjects, owner: KeyOwner
) -> None:
    class Failing(FolderObjects):
        def read(self, key: str, start: int = 0, size: int | None = None, version: str | None = None) -> Any:
            raise ObjectStoreUnavailable("no answer")

    file = put(store, owner)
    with pytest.raises(Unavailable) as failed:
        list(Files(database, Failing(objects._root), FileSettings()).read(file))
    assert failed.value.message == "The store of files does not answer. Try again."


def test_a_lost_object_is_reported_as_a_lost_file(store: Files, objects: FolderObjects, owner: KeyOwner) -> None:
    file = put(store, owner)
    objects.delete([str(file.content_key)])
    with pytest.raises(NotFound):
        store.read(file)
