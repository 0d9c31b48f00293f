"""`llma storage vector-stores add-files`: folders, what is ingested, what fails, and the same command again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.storage.vector_stores import add_files
from llmariner.cli.storage.vector_stores.ingestion_table import IngestionRow, show_ingestion
from llmariner.cli.support.output import Printer

from .conftest import Response
from .storage_cases import FILE, LOOKUP, STORE_FILE

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma, Result

ADD = ("storage", "vector-stores", "add-files", "handbook")
FILES, STORE_FILES = "POST /files", "POST /vector_stores/vs_1/files"


def store_file(file_id: str, status: str, **fields: Any) -> dict[str, Any]:
    return {**STORE_FILE, "id": file_id, "last_error": None, "status": status, **fields}


def done(file_id: str) -> dict[str, Any]:
    return store_file(file_id, "completed", progress={"step": "done", "chunks_indexed": 12, "chunks": 12})


@pytest.fixture
def documents(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two documents, and things that are none."""
    monkeypatch.setattr(add_files, "POLL_SECONDS", 0.01)
    folder = home / "documents"
    (folder / "b").mkdir(parents=True)
    (folder / "a.pdf").write_text("a")
    (folder / "b" / "ü.md").write_text("b")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / ".hidden").write_text("x")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def store(platform: FakePlatform) -> FakePlatform:
    """A platform with a vector store that takes two files, of which no state is known yet."""
    for route, document in LOOKUP.items():
        platform.respond(route, document)
    platform.respond(FILES, {**FILE, "id": "file-1"}, {**FILE, "id": "file-2"})
    platform.respond(STORE_FILES, store_file("file-1", "in_progress"), store_file("file-2", "in_progress"))
    for file_id in ("file-1", "file-2"):
        state = store_file(file_id, "in_progress")
        platform.respond(f"GET /vector_stores/vs_1/files/{file_id}", state, done(file_id))
    return platform


def sent(platform: FakePlatform, route: str) -> list[Any]:
    return [each.body for each in platform.requests if f"{each.method} {each.path}" == route]


def uploaded(platform: FakePlatform) -> list[str]:
    return [body.split(b'filename="', 1)[1].split(b'"', 1)[0].decode() for body in sent(platform, FILES)]


def rows(result: Result) -> list[list[str]]:
    return [line.split() for line in result.out.splitlines()[1:]]


def test_files_of_a_folder_are_added_and_followed(llma: Llma, store: FakePlatform, documents: Path) -> None:
    line = ("--attribute", "year=2026", "--attribute", "ok=true", "--attribute", 'v="2"', "--attribute", "t=a=b")
    result = llma(*ADD, ".", *line, "--chunk-tokens", "300")
    assert result.code == 0, result.err
    assert uploaded(store) == ["a.pdf", "ü.md"]
    assert rows(result) == [["a.pdf", "completed", "12", "file-1", "-"], ["b/ü.md", "completed", "12", "file-2", "-"]]
    assert result.err.splitlines() == ["a.pdf: completed", "b/ü.md: completed"]
    assert sent(store, STORE_FILES)[0] == {
        "file_id": "file-1",
        "attributes": {"year": 2026, "ok": True, "v": "2", "t": "a=b"},
        "chunking_strategy": {
            "type": "static",
            "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 150},
        },
    }


def test_json_is_the_list_of_the_stores_files(llma: Llma, store: FakePlatform, documents: Path) -> None:
    document = llma(*ADD, ".", "-o", "json").json
    assert document == {"object": "list", "data": [done("file-1"), done("file-2")], "has_more": False}


def test_patterns_select_files_of_folders(llma: Llma, store: FakePlatform, documents: Path) -> None:
    assert llma(*ADD, ".", "a.pdf", "--include", "*.md").code == 0
    assert uploaded(store) == ["ü.md", "a.pdf"]


def test_a_file_that_is_named_twice_is_added_once(llma: Llma, store: FakePlatform, documents: Path) -> None:
    assert llma(*ADD, "a.pdf", str(documents / "a.pdf"), "loop/a.pdf").code == 0
    assert uploaded(store) == ["a.pdf"]


def test_without_waiting_the_command_ends_when_all_are_added(llma: Llma, store: FakePlatform, documents: Path) -> None:
    result = llma(*ADD, ".", "--no-wait")
    assert [row[1] for row in rows(result)] == ["added", "added"]
    assert [request.method for request in store.requests].count("GET") == 1


def test_a_file_that_cannot_be_ingested_fails_with_its_reason(llma: Llma, store: FakePlatform, documents: Path) -> None:
    error = {"code": "unsupported_file", "message": "It is encrypted."}
    store.respond("GET /vector_stores/vs_1/files/file-1", store_file("file-1", "failed", last_error=error))
    result = llma(*ADD, ".")
    assert result.code == 1
    assert "a.pdf: failed: It is encrypted." in result.err
    assert "1 of 2 files are not in the vector store, first a.pdf: It is encrypted." in result.err
    assert "It is encrypted." in result.out
    assert rows(result)[1][1] == "completed"


def test_a_refused_file_does_not_stop_the_others(llma: Llma, store: FakePlatform, documents: Path) -> None:
    store.respond_error(FILES, 400, message="It is empty.")
    store.respond_next(FILES, {**FILE, "id": "file-2"})
    store.respond(STORE_FILES, store_file("file-2", "in_progress"))
    result = llma(*ADD, ".")
    assert (result.code, [row[1] for row in rows(result)]) == (1, ["failed", "completed"])


def test_a_file_that_the_store_refuses_is_not_left_behind(llma: Llma, store: FakePlatform, documents: Path) -> None:
    store.respond_error(STORE_FILES, 400, message="Too many attributes.")
    store.respond("DELETE /files/file-1", {})
    assert llma(*ADD, "a.pdf").code == 1
    assert len(sent(store, "DELETE /files/file-1")) == 1


def test_a_quota_that_is_used_up_ends_the_command(llma: Llma, store: FakePlatform, documents: Path) -> None:
    store.respond(FILES, {**FILE, "id": "file-1"})
    store.respond_next_error(FILES, 429, message="Full.", code="storage_quota_exceeded")
    result = llma(*ADD, ".")
    assert (result.code, result.out) == (1, "")
    assert "Full." in result.err
    assert "The same command continues with the rest." in result.err
    assert len(sent(store, FILES)) == 2


def test_the_same_command_uploads_nothing_again(llma: Llma, store: FakePlatform, documents: Path) -> None:
    assert llma(*ADD, ".").code == 0
    store.requests.clear()
    result = llma(*ADD, ".")
    assert (result.code, sent(store, FILES), sent(store, STORE_FILES)) == (0, [], [])
    assert [row[1] for row in rows(result)] == ["unchanged", "unchanged"]


def test_a_changed_file_is_uploaded_again(llma: Llma, store: FakePlatform, documents: Path) -> None:
    assert llma(*ADD, "a.pdf").code == 0
    os.utime(documents / "a.pdf", ns=(1, 1))
    assert llma(*ADD, "a.pdf").code == 0
    assert uploaded(store) == ["a.pdf", "a.pdf"]


def test_a_file_that_was_uploaded_but_not_added_is_only_added(llma: Llma, store: FakePlatform, documents: Path) -> None:
    store.respond_error(STORE_FILES, 503)
    assert llma(*ADD, "a.pdf").code == 5
    store.respond_error("GET /vector_stores/vs_1/files/file-1", 404)
    store.respond_next("GET /vector_stores/vs_1/files/file-1", done("file-1"))
    store.respond("GET /files/file-1", FILE)
    store.respond(STORE_FILES, store_file("file-1", "in_progress"))
    assert llma(*ADD, "a.pdf").code == 0
    assert uploaded(store) == ["a.pdf"]


def test_a_file_that_failed_before_is_added_again(llma: Llma, store: FakePlatform, documents: Path) -> None:
    path = "GET /vector_stores/vs_1/files/file-1"
    store.respond(path, store_file("file-1", "failed", last_error={"code": "server_error", "message": "No."}))
    assert llma(*ADD, "a.pdf").code == 1
    store.respond_next(path, done("file-1"))
    store.respond("DELETE /vector_stores/vs_1/files/file-1", {})
    store.respond("GET /files/file-1", FILE)
    store.respond(STORE_FILES, store_file("file-1", "in_progress"))
    assert llma(*ADD, "a.pdf").code == 0
    assert len(sent(store, "DELETE /vector_stores/vs_1/files/file-1")) == 1
    assert uploaded(store) == ["a.pdf"]


def test_a_file_that_is_deleted_meanwhile_is_reported(llma: Llma, store: FakePlatform, documents: Path) -> None:
    store.respond_error("GET /vector_stores/vs_1/files/file-1", 404)
    result = llma(*ADD, "a.pdf")
    assert result.code == 1
    assert "taken out of the vector store" in result.err


@pytest.mark.parametrize(("failures", "code"), [(3, 0), (30, 5)])
def test_a_short_failure_of_the_server_does_not_end_the_watch(
    failures: int, code: int, llma: Llma, store: FakePlatform, documents: Path
) -> None:
    route = "GET /vector_stores/vs_1/files/file-1"
    store.script(route, *[Response(drop=True)] * failures, Response(done("file-1")))
    assert llma(*ADD, "a.pdf").code == code


REFUSED = [
    ("missing.pdf", "does not exist"),
    (". --include *.docx", "no files"),
    (". --attribute year", "is not KEY=VALUE"),
    (". --chunk-tokens 200 --overlap-tokens 101", "at most half"),
    (". --chunk-tokens 99", "--chunk-tokens"),
    ("pipe", "not a regular file"),
    ("", "PATH"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_cannot_be_added_is_refused_before_a_request(
    line: str, words: str, llma: Llma, platform: FakePlatform, documents: Path
) -> None:
    result = llma(*ADD, *line.split())
    assert (result.code, platform.requests) == (2, [])
    assert words in result.err


def test_an_unknown_store_is_not_found(llma: Llma, platform: FakePlatform, documents: Path) -> None:
    platform.respond("GET /vector_stores", {"object": "list", "data": [], "has_more": False})
    result = llma(*ADD, ".")
    assert result.code == 4
    assert "llma storage vector-stores list" in result.err


def test_a_terminal_shows_a_table_that_fits(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [IngestionRow(LocalFile.from_path(documents / "a.pdf"), file_id=f"file-{n}") for n in range(500)]
    files[400].fail("It is encrypted.")
    with show_ingestion(files, Printer("table", "always")) as display:
        display.show(files[0])
    shown = capsys.readouterr().err
    assert "It is encrypted." in shown
    assert "1 of 500 files are through, 1 failed." in shown
    assert len(shown.splitlines()) < 100
