"""`llma storage files upload`: by one form, in parts, interrupted, and again."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.storage.files.uploads import PART_BYTES, Uploader
from llmariner.cli.support.api import ApiClient
from llmariner.cli.support.configuration import resolve_target
from llmariner.cli.support.errors import CommandError

from .conftest import API_KEY
from .storage_cases import FILE

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

UPLOAD = {"id": "upload_1", "object": "upload", "status": "pending"}
COMPLETED = {**UPLOAD, "status": "completed", "file": FILE}
PARTS, COMPLETE, CANCEL = (f"POST /uploads/upload_1/{what}" for what in ("parts", "complete", "cancel"))


@pytest.fixture
def document(home: Path) -> Path:
    path = home / "a.bin"
    path.write_bytes(bytes(range(250)) * 10)
    return path


@pytest.fixture
def in_parts(platform: FakePlatform) -> FakePlatform:
    """A platform that takes one upload of parts, with ids in the order of arrival."""
    platform.respond("POST /uploads", UPLOAD)
    platform.respond(PARTS, *({"id": f"part_{number}"} for number in range(9)))
    platform.respond(COMPLETE, COMPLETED)
    platform.respond(CANCEL, UPLOAD)
    return platform


def upload(platform: FakePlatform, path: Path, **options: Any) -> dict[str, Any]:
    """Upload in parts of 1,000 bytes."""
    target = resolve_target({"LLMARINER_BASE_URL": platform.url, "LLMARINER_API_KEY": API_KEY})
    with ApiClient(target) as api:
        uploader = Uploader(api, target, "assistants", part_bytes=1000)
        return uploader.upload(LocalFile.from_path(path), lambda _: None, **options)


def sent_to(platform: FakePlatform, route: str) -> list[Any]:
    return [each.body for each in platform.requests if f"{each.method} {each.path}" == route]


def sent_parts(platform: FakePlatform) -> list[bytes]:
    return [body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0] for body in sent_to(platform, PARTS)]


def test_a_small_file_is_one_form_with_its_name_and_purpose(llma: Llma, platform: FakePlatform, home: Path) -> None:
    platform.respond("POST /files", FILE)
    path = home / 'Ärger "1".pdf'
    path.write_bytes(b"%PDF \x00\xff")
    result = llma("storage", "files", "upload", str(path), "--purpose", "assistants", "--expires-in", "0.5")
    assert (result.code, result.out) == (0, 'Uploaded Ärger "1".pdf as file-1 (1.5 KiB).\n'), result.err
    body = platform.requests[0].body
    assert b'name="purpose"\r\n\r\nassistants\r\n' in body
    assert b'name="expires_after[anchor]"\r\n\r\ncreated_at\r\n' in body
    assert b'name="expires_after[seconds]"\r\n\r\n43200\r\n' in body
    assert (
        'filename="Ärger %221%22.pdf"\r\nContent-Type: application/pdf\r\n\r\n'.encode() + b"%PDF \x00\xff\r\n" in body
    )
    assert platform.requests[0].headers["content-length"] == str(len(body))


def test_an_empty_file_is_sent(llma: Llma, platform: FakePlatform, home: Path) -> None:
    platform.respond("POST /files", FILE)
    (home / "empty.txt").touch()
    assert llma("storage", "files", "upload", str(home / "empty.txt"), "--purpose", "user_data").code == 0
    assert b'filename="empty.txt"\r\nContent-Type: text/plain\r\n\r\n\r\n--' in platform.requests[0].body


def test_a_name_that_is_not_unicode_is_sent_with_replacements(llma: Llma, platform: FakePlatform, home: Path) -> None:
    platform.respond("POST /files", FILE)
    path = os.fsdecode(os.fsencode(home) + b"/caf\xe9.txt")
    Path(path).write_text("x")
    assert llma("storage", "files", "upload", path, "--purpose", "user_data").code == 0
    assert b'filename="caf?.txt"' in platform.requests[0].body


class _Input:
    """Standard input with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_standard_input_is_uploaded_under_its_given_name(
    llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.respond("POST /files", FILE)
    monkeypatch.setattr(sys, "stdin", _Input(b"piped \x00"))
    assert llma("storage", "files", "upload", "-", "--purpose", "batch", "--name", "in.jsonl").code == 0
    assert b'filename="in.jsonl"' in platform.requests[0].body
    assert b"\r\n\r\npiped \x00\r\n" in platform.requests[0].body


REFUSED = [
    ("upload {home} --purpose batch", "is a directory"),
    ("upload {home}/missing --purpose batch", "No such file"),
    ("upload /dev/zero --purpose batch", "is not a regular file"),
    ("upload {home}/a.bin", "--purpose"),
    ("upload {home}/a.bin --purpose assistants_output", "--purpose"),
    ("upload - --purpose batch", "give --name"),
    ("upload {home}/a.bin --purpose batch --expires-in 0", "--expires-in"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_uploaded_is_refused_before_a_request(
    line: str, words: str, llma: Llma, platform: FakePlatform, home: Path, document: Path
) -> None:
    result = llma("storage", "files", *line.format(home=home).split())
    assert (result.code, result.out, platform.requests) == (2, "", [])
    assert words in result.err


def test_a_quota_that_is_used_up_has_a_next_step(llma: Llma, platform: FakePlatform, document: Path) -> None:
    platform.respond_error("POST /files", 429, message="Full.", code="storage_quota_exceeded")
    result = llma("storage", "files", "upload", str(document), "--purpose", "batch")
    assert (result.code, result.out) == (1, "")
    assert "`llma storage files list`" in result.err


def test_a_big_file_goes_in_parts_through_the_command(llma: Llma, in_parts: FakePlatform, home: Path) -> None:
    with (home / "big.bin").open("wb") as big:
        big.truncate(PART_BYTES + 5)
    result = llma("storage", "files", "upload", str(home / "big.bin"), "--purpose", "batch", "--expires-in", "1")
    assert (result.code, result.out) == (0, "Uploaded big.bin as file-1 (1.5 KiB).\n"), result.err
    assert result.err.splitlines()[-1] == "big.bin: 100%"
    assert sent_to(in_parts, "POST /uploads") == [
        {
            "filename": "big.bin",
            "bytes": PART_BYTES + 5,
            "mime_type": "application/octet-stream",
            "purpose": "batch",
            "expires_after": {"anchor": "created_at", "seconds": 86_400},
        }
    ]
    assert [len(part) for part in sent_parts(in_parts)] == [PART_BYTES, 5]
    assert sent_to(in_parts, COMPLETE)[0]["part_ids"] == ["part_0", "part_1"]


def test_parts_are_the_file_and_completed_with_its_md5(in_parts: FakePlatform, document: Path) -> None:
    assert upload(in_parts, document) == FILE
    assert b"".join(sent_parts(in_parts)) == document.read_bytes()
    assert [len(part) for part in sent_parts(in_parts)] == [1000, 1000, 500]
    digest = hashlib.md5(document.read_bytes(), usedforsecurity=False).hexdigest()
    assert sent_to(in_parts, COMPLETE) == [{"part_ids": ["part_0", "part_1", "part_2"], "md5": digest}]


def test_an_interrupted_upload_continues_with_the_parts_that_are_missing(
    in_parts: FakePlatform, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_parts.respond(PARTS, {"id": "part_0"})
    in_parts.respond_next_error(PARTS, 429)
    with pytest.raises(CommandError) as caught:
        upload(in_parts, document)
    assert "continues with upload upload_1" in caught.value.next_step
    assert "1 of 3 parts" in caught.value.next_step
    in_parts.respond(PARTS, {"id": "part_1"}, {"id": "part_2"})
    in_parts.requests.clear()
    assert upload(in_parts, document) == FILE
    assert "Continuing with upload_1, of which 1 of 3 parts are there." in capsys.readouterr().err
    assert sent_to(in_parts, "POST /uploads") == []
    assert b"".join(sent_parts(in_parts)) == document.read_bytes()[1000:]
    assert sent_to(in_parts, COMPLETE)[0]["part_ids"] == ["part_0", "part_1", "part_2"]


def test_after_its_completion_an_upload_begins_again(in_parts: FakePlatform, document: Path) -> None:
    upload(in_parts, document)
    upload(in_parts, document)
    assert len(sent_to(in_parts, "POST /uploads")) == 2


def interrupt(platform: FakePlatform, document: Path) -> None:
    """Leave an upload with one of its three parts, and take all requests from now on."""
    platform.respond(PARTS, {"id": "part_0"})
    platform.respond_next_error(PARTS, 429)
    with pytest.raises(CommandError):
        upload(platform, document)
    platform.respond(PARTS, *({"id": f"part_{number}"} for number in range(9)))
    platform.requests.clear()


def test_a_changed_file_begins_again(in_parts: FakePlatform, document: Path) -> None:
    interrupt(in_parts, document)
    os.utime(document, ns=(1, 1))
    upload(in_parts, document)
    assert len(sent_parts(in_parts)) == 3


def test_with_restart_the_interrupted_upload_is_cancelled(in_parts: FakePlatform, document: Path) -> None:
    interrupt(in_parts, document)
    upload(in_parts, document, restart=True)
    assert [request.path.rsplit("/", 1)[1] for request in in_parts.requests[:2]] == ["cancel", "uploads"]
    assert len(sent_parts(in_parts)) == 3


@pytest.mark.parametrize("status", [404, 409])
def test_an_upload_that_has_ended_on_the_server_begins_again(
    status: int, in_parts: FakePlatform, document: Path
) -> None:
    interrupt(in_parts, document)
    in_parts.respond_error(PARTS, status, message="It expired.", code="upload_expired")
    in_parts.respond_next(PARTS, *({"id": f"part_{number}"} for number in range(9)))
    assert upload(in_parts, document) == FILE
    assert len(sent_to(in_parts, "POST /uploads")) == 1


def test_a_refused_completion_is_forgotten(in_parts: FakePlatform, document: Path) -> None:
    in_parts.respond_error(COMPLETE, 400, message="Line 3 is not JSON.")
    for _ in range(2):
        with pytest.raises(CommandError, match="Line 3"):
            upload(in_parts, document)
    assert len(sent_to(in_parts, "POST /uploads")) == len(sent_to(in_parts, CANCEL)) == 2


def test_resumed_content_that_is_refused_is_not_sent_again(in_parts: FakePlatform, document: Path) -> None:
    interrupt(in_parts, document)
    in_parts.respond_error(COMPLETE, 400, message="Line 3 is not JSON.")
    with pytest.raises(CommandError, match="Line 3"):
        upload(in_parts, document)
    assert sent_to(in_parts, "POST /uploads") == []


def test_a_completion_that_is_under_way_keeps_the_upload(in_parts: FakePlatform, document: Path) -> None:
    in_parts.respond_error(COMPLETE, 409, code="upload_in_progress")
    with pytest.raises(CommandError) as caught:
        upload(in_parts, document)
    assert "again in a minute" in caught.value.next_step
    in_parts.respond(COMPLETE, COMPLETED)
    in_parts.requests.clear()
    assert upload(in_parts, document) == FILE
    assert [request.path for request in in_parts.requests] == ["/uploads/upload_1/complete"]


def test_a_broken_connection_costs_one_part(in_parts: FakePlatform, document: Path) -> None:
    in_parts.respond_with(PARTS, drop=True)
    in_parts.respond_next(PARTS, {"id": "part_0"}, {"id": "part_1"}, {"id": "part_2"})
    assert upload(in_parts, document) == FILE
    assert [len(part) for part in sent_parts(in_parts)] == [1000, 1000, 1000, 500]


def test_a_file_that_changes_meanwhile_is_not_completed(in_parts: FakePlatform, document: Path) -> None:
    file = LocalFile.from_path(document)
    os.utime(document, ns=(1, 1))
    target = resolve_target({"LLMARINER_BASE_URL": in_parts.url, "LLMARINER_API_KEY": API_KEY})
    with ApiClient(target) as api, pytest.raises(CommandError, match="changed while"):
        Uploader(api, target, "batch", part_bytes=1000).upload(file, lambda _: None)
    assert (sent_to(in_parts, COMPLETE), len(sent_to(in_parts, CANCEL))) == ([], 1)


def test_a_file_that_becomes_shorter_is_an_error_of_the_file(in_parts: FakePlatform, document: Path) -> None:
    file = replace(LocalFile.from_path(document), size=2600)
    target = resolve_target({"LLMARINER_BASE_URL": in_parts.url, "LLMARINER_API_KEY": API_KEY})
    with ApiClient(target) as api, pytest.raises(CommandError, match="changed while"):
        Uploader(api, target, "batch", part_bytes=1000).upload(file, lambda _: None)


def test_a_home_that_cannot_be_written_prevents_only_the_resumption(
    in_parts: FakePlatform, document: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "state").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert upload(in_parts, document) == FILE


def test_a_damaged_record_is_ignored(in_parts: FakePlatform, document: Path, home: Path) -> None:
    interrupt(in_parts, document)
    (record,) = (home / ".local/state/llmariner/uploads").glob("*.yaml")
    assert API_KEY not in record.read_text()
    record.write_text("parts: [")
    assert upload(in_parts, document) == FILE
    assert len(sent_parts(in_parts)) == 3


def test_two_uploads_of_one_file_at_once_are_refused(in_parts: FakePlatform, document: Path) -> None:
    second: list[CommandError] = []

    def again(_: int) -> None:
        if not second:
            with pytest.raises(CommandError) as caught:
                upload(in_parts, document)
            second.append(caught.value)

    target = resolve_target({"LLMARINER_BASE_URL": in_parts.url, "LLMARINER_API_KEY": API_KEY})
    with ApiClient(target) as api:
        Uploader(api, target, "assistants", part_bytes=1000).upload(LocalFile.from_path(document), again)
    assert "another llma" in second[0].message


def endless() -> Iterator[bytes]:
    while True:
        time.sleep(0.05)
        yield b" "


def test_an_interrupt_exits_with_130_and_says_how_to_continue(
    platform: FakePlatform, home: Path, program: list[str]
) -> None:
    platform.respond("POST /uploads", UPLOAD)
    platform.respond_with(PARTS, chunks=endless())
    with (home / "big.bin").open("wb") as big:
        big.truncate(PART_BYTES + 5)
    environment = {**os.environ, "LLMARINER_BASE_URL": platform.url, "LLMARINER_API_KEY": API_KEY}
    line = [*program, "storage", "files", "upload", str(home / "big.bin"), "--purpose", "batch"]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not sent_to(platform, PARTS) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "The same command continues with upload upload_1" in err
