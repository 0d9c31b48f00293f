"""Uploads: parts that become a file, quotas, expiry, and every request that is refused."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from llmariner.errors import (
    BodyTooLarge,
    Conflict,
    InsufficientQuota,
    InvalidRequest,
    NotFound,
    PlatformError,
    Unavailable,
)
from llmariner.file_settings import FileSettings
from llmariner.files import bytes_in_flight
from llmariner.files.purposes import Purpose
from llmariner.files.tables import upload_parts, uploads
from llmariner.files.upload import Part, Status, Upload
from llmariner.files.uploads import IncomingPart
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.tenancy.principal import KeyOwner

from .upload_steps import Desk

HOUR = 3600


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> Desk:
    return Desk.open(database, tmp_path / "objects", owner)


@pytest.fixture
def theirs(desk: Desk, other_owner: KeyOwner) -> Desk:
    """The same installation as another project sees it."""
    return replace(desk, owner=other_owner)


def test_parts_become_a_file_in_the_order_of_the_request(desk: Desk) -> None:
    upload = desk.create(11)
    world, hello = desk.send(upload, b" world"), desk.send(upload, b"hello")
    completed, file = desk.complete(upload, [hello, world])
    assert desk.content(file) == b"hello world"
    assert (completed.status, completed.file_id) == (Status.COMPLETED, file.id)
    assert (file.filename, file.size_bytes, file.content_type) == ("a.txt", 11, "text/plain")
    assert desk.files.get(desk.owner.project_id, file.id) == file
    assert desk.object_keys() == [file.content_key]
    assert (desk.usage(), desk.parts()) == ((1, 11), 0)


def test_an_empty_file_needs_no_part(desk: Desk) -> None:
    _, file = desk.complete(desk.create(0), [])
    assert desk.content(file) == b""


def test_a_part_that_is_not_named_is_dropped(desk: Desk) -> None:
    upload = desk.create(5)
    desk.send(upload, b"wrong")
    _, file = desk.complete(upload, [desk.send(upload, b"right")])
    assert desk.content(file) == b"right"
    assert desk.object_keys() == [file.content_key]


def test_content_that_the_project_has_is_stored_once(desk: Desk) -> None:
    (_, first), (_, second) = desk.uploaded(b"same"), desk.uploaded(b"sa", b"me")
    assert first.id != second.id
    assert desk.object_keys() == [first.content_key] == [second.content_key]
    assert desk.usage() == (2, 8)


def test_the_file_expires_by_what_its_creation_said(desk: Desk) -> None:
    upload = desk.create(1, seconds=HOUR)
    _, file = desk.complete(upload, [desk.send(upload, b"x")])
    assert file.expires_at == file.created_at + HOUR


def test_parts_arrive_in_parallel(desk: Desk) -> None:
    upload = desk.create(80)
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda number: desk.send(upload, b"%02d" % number * 5), range(8)))
    _, file = desk.complete(upload, parts)
    assert desk.content(file) == b"".join(b"%02d" % number * 5 for number in range(8))


def test_parts_that_arrive_count_against_the_room_of_their_upload(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts in flight are on disk without a row: a thousand of them would be a thousand times the upload."""
    monkeypatch.setattr(bytes_in_flight, "_CHECKED_EVERY", 4)
    upload, uploads_of_process = desk.create(5), desk.uploads

    def receive(of: Upload = upload) -> IncomingPart:
        return uploads_of_process.receive_part(desk.owner, of.id)

    with receive() as one, receive() as two, receive() as three:
        one.write(b"hello")
        two.write(b"hello")
        with pytest.raises(Unavailable, match="twice its size") as full:
            three.write(b"hello")
        assert full.value.headers["retry-after"] == "5"
        with receive(desk.create(5)) as of_another_upload:
            of_another_upload.write(b"hello")
        part = uploads_of_process.add_part(desk.owner, one)
    # What was discarded counts no more, and what was added does not count besides its row.
    with receive() as again:
        again.write(b"hello")
        uploads_of_process.add_part(desk.owner, again)
    _, file = desk.complete(upload, [part])
    assert desk.content(file) == b"hello"


def test_a_part_ends_early_once_its_upload_is_cancelled(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytes_in_flight, "_CHECKED_EVERY", 4)
    upload = desk.create(10)
    with desk.uploads.receive_part(desk.owner, upload.id) as incoming:
        desk.uploads.cancel(desk.owner, upload.id)
        with pytest.raises(Conflict, match="was cancelled"):
            incoming.write(b"hello")
    assert desk.object_keys() == []


def test_an_md5_in_any_case_is_compared(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")
    with pytest.raises(InvalidRequest, match="have the MD5 5d41402abc4b2a76b9719d911017c592") as wrong:
        desk.complete(upload, [part], "0" * 32)
    assert (wrong.value.param, wrong.value.code) == ("md5", "md5_mismatch")
    _, file = desk.complete(upload, [part], hashlib.md5(b"hello", usedforsecurity=False).hexdigest().upper())
    assert desk.content(file) == b"hello"


@pytest.mark.parametrize("md5", ["", "x", "0" * 31, "XUFAKrxLKna5cZ2REBfFkg==", "\N{FULLWIDTH DIGIT ONE}" * 32])
def test_what_is_no_md5_is_refused(desk: Desk, md5: str) -> None:
    upload = desk.create(5)
    with pytest.raises(InvalidRequest, match="32 hexadecimal digits"):
        desk.complete(upload, [desk.send(upload, b"hello")], md5)


def test_lines_are_checked_across_parts(desk: Desk) -> None:
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {}}).encode()
    _, file = desk.uploaded(line[:20], line[20:] + b"\n", purpose=Purpose.BATCH)
    assert desk.content(file) == line + b"\n"
    upload = desk.create(len(line) + 3, Purpose.BATCH)
    parts = [desk.send(upload, line + b"\n"), desk.send(upload, b"{]")]
    with pytest.raises(InvalidRequest, match="Line 2 is not valid JSON"):
        desk.complete(upload, parts)
    assert desk.stored(upload).status is Status.PENDING


REFUSED: dict[str, tuple[Callable[[list[Part]], list[Part]], str, str]] = {
    "no part": (lambda parts: [], "size_mismatch", "part_ids"),
    "a part too few": (lambda parts: parts[:1], "size_mismatch", "part_ids"),
    "a part twice": (lambda parts: [parts[0], parts[0]], "duplicate_part", "part_ids[1]"),
    "an unknown part": (lambda parts: [Part("part_x", "", 0, 0)], "part_not_found", "part_ids[0]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_completion_that_is_refused_loses_nothing(desk: Desk, case: str) -> None:
    choose, code, param = REFUSED[case]
    upload = desk.create(10)
    parts = [desk.send(upload, b"hello"), desk.send(upload, b"world")]
    with pytest.raises(InvalidRequest) as refused:
        desk.complete(upload, choose(parts))
    assert (refused.value.code, refused.value.param) == (code, param)
    _, file = desk.complete(upload, parts)
    assert desk.content(file) == b"helloworld"


def test_a_part_of_another_upload_is_unknown(desk: Desk) -> None:
    upload, other = desk.create(5), desk.create(5)
    part = desk.send(other, b"hello")
    with pytest.raises(InvalidRequest, match="has no part"):
        desk.complete(upload, [part])


def test_the_same_completion_gets_the_same_file_again(desk: Desk) -> None:
    upload = desk.create(4)
    parts = [desk.send(upload, b"ab"), desk.send(upload, b"cd")]
    first = desk.complete(upload, parts)
    assert desk.complete(upload, parts) == first
    with pytest.raises(Conflict) as other:
        desk.complete(upload, parts[::-1])
    assert other.value.code == "upload_completed"
    assert desk.usage() == (1, 4)


def test_a_repeated_completion_says_that_the_file_was_deleted(desk: Desk) -> None:
    upload = desk.create(2)
    parts = [desk.send(upload, b"ab")]
    desk.complete(upload, parts)
    with desk.database.write() as session:
        session.run(update(uploads).values(file_id="file-gone"))
    with pytest.raises(Conflict, match="was deleted since"):
        desk.complete(upload, parts)


def test_of_two_completions_at_once_one_makes_the_file(desk: Desk) -> None:
    upload = desk.create(4)
    parts = [desk.send(upload, b"ab"), desk.send(upload, b"cd")]
    start = threading.Barrier(3)

    def complete(_: int) -> str:
        start.wait(30)
        try:
            return desk.complete(upload, parts)[1].id
        except Conflict as error:
            return f"{error.code}, retry: {error.headers['x-should-retry']}"

    with ThreadPoolExecutor(3) as threads:
        answers = set(threads.map(complete, range(3)))
    assert answers - {"upload_in_progress, retry: true"} == {desk.stored(upload).file_id}
    assert desk.usage() == (1, 4)
    assert len(desk.object_keys()) == 1


def test_a_completion_that_is_under_way_excludes_another_and_parts_wait_for_none(desk: Desk) -> None:
    upload = desk.create(2)
    part = desk.send(upload, b"ab")
    with desk.database.write() as session:
        session.run(update(uploads).values(claim="claim_x", claimed_until=session.now() + 50))
    with pytest.raises(Conflict) as busy:
        desk.complete(upload, [part])
    assert busy.value.code == "upload_in_progress"
    desk.pass_time(60)
    desk.complete(upload, [part])


def test_a_claim_of_a_clock_that_was_set_back_is_over(desk: Desk) -> None:
    upload = desk.create(2)
    part = desk.send(upload, b"ab")
    with desk.database.write() as session:
        session.run(update(uploads).values(claim="claim_x", claimed_until=session.now() + 10**6))
    desk.complete(upload, [part])


def test_cancelling_removes_the_parts_and_frees_the_quota(desk: Desk) -> None:
    upload = desk.create(10)
    part = desk.send(upload, b"hello")
    assert desk.usage() == (1, 10)
    assert desk.uploads.cancel(desk.owner, upload.id).status is Status.CANCELLED
    assert (desk.object_keys(), desk.parts(), desk.usage()) == ([], 0, (0, 0))
    assert desk.uploads.cancel(desk.owner, upload.id).status is Status.CANCELLED
    assert desk.usage() == (0, 0)
    assert_ended(desk, upload, part, "upload_cancelled")


def test_a_completed_upload_is_not_cancelled(desk: Desk) -> None:
    upload, file = desk.uploaded(b"hello")
    with pytest.raises(Conflict, match=file.id) as refused:
        desk.uploads.cancel(desk.owner, upload.id)
    assert refused.value.code == "upload_completed"
    assert desk.content(file) == b"hello"


def test_a_part_that_arrives_after_the_cancellation_is_removed(desk: Desk) -> None:
    upload = desk.create(10)
    with desk.uploads.receive_part(desk.owner, upload.id) as incoming:
        incoming.write(b"hello")
        desk.uploads.cancel(desk.owner, upload.id)
        with pytest.raises(Conflict, match="was cancelled"):
            desk.uploads.add_part(desk.owner, incoming)
    assert (desk.object_keys(), desk.parts()) == ([], 0)


def test_an_upload_takes_nothing_after_its_time(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")
    assert upload.expires_at == upload.created_at + HOUR
    desk.pass_time(HOUR)
    assert_ended(desk, upload, part, "upload_expired")
    with pytest.raises(Conflict, match="within 60 minutes"):
        desk.uploads.cancel(desk.owner, upload.id)


def test_the_sweep_ends_what_expired(desk: Desk) -> None:
    over, young = desk.create(5), desk.create(7)
    part = desk.send(over, b"hello")
    with desk.database.write() as session:
        session.run(update(uploads).where(uploads.c.id == over.id).values(expires_at=int(session.now()) - 1))
    assert (desk.uploads.expire(), desk.uploads.expire()) == (1, 0)
    assert (desk.object_keys(), desk.parts(), desk.usage()) == ([], 0, (1, 7))
    assert [desk.stored(each).status for each in (over, young)] == [Status.EXPIRED, Status.PENDING]
    assert_ended(desk, over, part, "upload_expired")


def test_the_sweep_ends_more_than_one_batch(desk: Desk) -> None:
    for _ in range(101):
        desk.create(1)
    desk.pass_time(HOUR)
    assert desk.uploads.expire() == 101
    assert desk.usage() == (0, 0)


def test_the_sweep_spares_a_completion_that_is_under_way(desk: Desk) -> None:
    desk.create(5)
    desk.pass_time(HOUR)
    with desk.database.write() as session:
        session.run(update(uploads).values(claim="claim_x", claimed_until=session.now() + 50))
    assert desk.uploads.expire() == 0
    desk.pass_time(60)
    assert desk.uploads.expire() == 1


def test_ended_uploads_are_forgotten_after_a_week(desk: Desk) -> None:
    upload, file = desk.uploaded(b"hello")
    pending = desk.create(1)
    assert desk.uploads.prune() == 0
    with desk.database.write() as session:
        session.run(update(uploads).where(uploads.c.id == upload.id).values(ended_at=session.now() - 8 * 86400))
    assert desk.uploads.prune() == 1
    with pytest.raises(NotFound):
        desk.complete(upload, [])
    assert desk.stored(pending).status is Status.PENDING
    assert desk.content(file) == b"hello"


def test_a_pending_upload_counts_as_its_file(desk: Desk) -> None:
    desk.settings = FileSettings(project_files=2, project_bytes=100)
    upload = desk.create(60)
    with pytest.raises(InsufficientQuota):
        desk.create(41)
    desk.create(40)
    with pytest.raises(InsufficientQuota):
        desk.create(0)
    desk.complete(upload, [desk.send(upload, b"x" * 60)])
    assert desk.usage() == (2, 100)


def test_a_quota_that_was_lowered_refuses_the_completion_and_loses_nothing(desk: Desk) -> None:
    upload = desk.create(60)
    part = desk.send(upload, b"x" * 60)
    desk.settings = FileSettings(project_bytes=10)
    with pytest.raises(InsufficientQuota):
        desk.complete(upload, [part])
    assert (desk.object_keys(), desk.usage()) == ([part.key], (1, 60))
    desk.settings = FileSettings()
    desk.complete(upload, [part])


@pytest.mark.parametrize("size", [-1, 8 * 1024**3 + 1, 10**30])
def test_a_size_out_of_range_is_refused(desk: Desk, size: int) -> None:
    with pytest.raises(InvalidRequest, match="from 0 to 8589934592") as refused:
        desk.create(size)
    assert refused.value.param == "bytes"


def test_a_part_over_the_limit_leaves_nothing(desk: Desk) -> None:
    desk.settings = FileSettings(upload_part_bytes=4)
    upload = desk.create(100)
    with pytest.raises(BodyTooLarge, match="at most 4 bytes") as refused:
        desk.send(upload, b"hello")
    assert refused.value.param == "data"
    with pytest.raises(InvalidRequest, match="is empty"):
        desk.send(upload, b"")
    assert (desk.object_keys(), desk.parts()) == ([], 0)


def test_a_part_is_not_larger_than_its_upload(desk: Desk) -> None:
    with pytest.raises(BodyTooLarge, match="at most 4 bytes"):
        desk.send(desk.create(4), b"hello")


def test_parts_have_at_most_twice_the_bytes_of_the_upload(desk: Desk) -> None:
    upload = desk.create(4)
    desk.send(upload, b"1234")
    desk.send(upload, b"123")
    with pytest.raises(InvalidRequest, match="9 bytes, more than twice") as refused:
        desk.send(upload, b"12")
    assert refused.value.code == "too_many_parts"
    part = desk.send(upload, b"1")
    assert len(desk.object_keys()) == 3
    with pytest.raises(InvalidRequest):
        desk.send(upload, b"1")
    with pytest.raises(InvalidRequest):
        desk.complete(upload, [part])


def test_an_upload_has_a_maximum_of_parts(desk: Desk) -> None:
    upload = desk.create(100_000)
    place = {"upload_id": upload.id, "organization_id": "org", "project_id": "proj", "created_at": 1, "size_bytes": 1}
    with desk.database.write() as session:
        for start in range(0, 10_000, 500):
            rows = [{"id": f"part_{number}", **place} for number in range(start, start + 500)]
            session.run(insert(upload_parts).values(rows))
    with pytest.raises(InvalidRequest, match="10000 parts, the maximum"):
        desk.send(upload, b"x")


def test_an_upload_of_another_project_is_unknown(desk: Desk, theirs: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")
    for call in (
        lambda: theirs.send(upload, b"hello"),
        lambda: theirs.complete(upload, [part]),
        lambda: theirs.uploads.cancel(theirs.owner, upload.id),
    ):
        with pytest.raises(NotFound, match=f"No such upload: '{upload.id}'"):
            call()
    assert theirs.usage() == (0, 0)
    desk.complete(upload, [part])


def test_only_the_objects_of_parts_are_referenced(desk: Desk) -> None:
    upload = desk.create(5)
    part = desk.send(upload, b"hello")
    elsewhere = f"uploads/upload_x/{part.id}"
    assert desk.uploads.referenced([part.key, elsewhere, "uploads/x/part_x"]) == {part.key}


def test_every_end_has_one_event(desk: Desk) -> None:
    done, file = desk.uploaded(b"hello")
    cancelled, expired = desk.create(1), desk.create(1)
    for _ in range(2):
        desk.uploads.cancel(desk.owner, cancelled.id)
    desk.pass_time(HOUR)
    desk.uploads.expire()
    with desk.database.read() as session:
        rows = session.rows(select(events).where(events.c.subject.like("uploads/%")).order_by(events.c.id))
    found = [(row.type.split(".")[-2], row.subject) for row in rows]
    ends = [("completed", done), ("cancelled", cancelled), ("expired", expired)]
    wanted = [("created", each) for each in (done, cancelled, expired)] + ends
    assert sorted(found) == sorted((kind, f"uploads/{each.id}") for kind, each in wanted)
    assert [json.loads(row.data)["file_id"] for row in rows if "completed" in row.type] == [file.id]
    assert {row.project_id for row in rows} == {desk.owner.project_id}


def assert_ended(desk: Desk, upload: Upload, part: Part, code: str) -> None:
    """Neither a part nor a completion is accepted."""
    for call in (lambda: desk.send(upload, b"hello"), lambda: desk.complete(upload, [part])):
        with pytest.raises(PlatformError, match="Create another one") as refused:
            call()
        assert (refused.value.status, refused.value.code) == (409, code)
