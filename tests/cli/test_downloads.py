"""`llma storage files download`: whole, interrupted, resumed, and under names that a hostile server gives."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.cli.storage.files import downloads
from llmariner.cli.storage.files.local_files import safe_file_name

from .conftest import API_KEY, Response
from .storage_cases import FILE

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma, Result

CONTENT = bytes(range(256)) * 4
ROUTE = "GET /files/file-1/content"
ETAG = {"etag": '"abc"'}
DOWNLOAD = ("storage", "files", "download", "file-1")


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder of the command."""
    path = home / "folder"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setattr(downloads, "_RETRY_SECONDS", (0.01, 0.01))
    return path


def cut(content: bytes, size: int, **headers: str) -> dict[str, Any]:
    """A response that announces all of the content and breaks off after `size` bytes."""
    length = {"content-length": str(len(content)), "connection": "close"}
    return {"raw": content[:size], "headers": {**ETAG, **length, **headers}}


def rest(start: int, etag: str = '"abc"') -> dict[str, Any]:
    """A response with the content from `start` on."""
    total = len(CONTENT)
    headers = {"etag": etag, "content-range": f"bytes {start}-{total - 1}/{total}"}
    return {"raw": CONTENT[start:], "status": 206, "headers": headers}


def serve(platform: FakePlatform, *responses: dict[str, Any], **file: Any) -> None:
    platform.respond("GET /files/file-1", {**FILE, "bytes": len(CONTENT), "filename": "a.bin", **file})
    platform.script(ROUTE, *(Response(**response) for response in responses))


def ranges(platform: FakePlatform) -> list[str | None]:
    return [each.headers.get("range") for each in platform.requests if f"{each.method} {each.path}" == ROUTE]


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def interrupted(llma: Llma, platform: FakePlatform, folder: Path) -> Result:
    """Leave 300 bytes in a partial file."""
    serve(platform, cut(CONTENT, 300), {"status": 503, "raw": b""})
    result = llma(*DOWNLOAD)
    assert [each.stat().st_size for each in folder.iterdir()] == [300]
    assert not (folder / "a.bin").exists()
    platform.requests.clear()
    return result


def test_a_file_is_written_under_its_own_name(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    result = llma(*DOWNLOAD)
    assert (result.code, result.out) == (0, "Downloaded file-1 to a.bin (1.0 KiB).\n"), result.err
    assert names(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_json_is_the_file_object(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    assert llma(*DOWNLOAD, "-o", "json").json["id"] == "file-1"


def test_an_empty_file_is_written(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": b"", "headers": ETAG}, bytes=0)
    assert llma(*DOWNLOAD).code == 0
    assert (folder / "a.bin").read_bytes() == b""


def test_another_name_or_folder_can_be_given(llma: Llma, platform: FakePlatform, folder: Path, home: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    assert llma(*DOWNLOAD, "--file", str(home / "ä.bin")).code == 0
    assert llma(*DOWNLOAD, "--file", str(home)).code == 0
    assert (home / "ä.bin").read_bytes() == (home / "a.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_is_replaced_only_by_force(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    (folder / "a.bin").write_text("mine")
    result = llma(*DOWNLOAD)
    assert (result.code, ranges(platform)) == (2, [])
    assert "--force" in result.err
    assert (folder / "a.bin").read_text() == "mine"
    assert llma(*DOWNLOAD, "--force").code == 0
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_no_device_is_replaced(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    result = llma(*DOWNLOAD, "--force", "--file", "/dev/null")
    assert (result.code, ranges(platform)) == (2, [])
    assert "not a regular file" in result.err


def test_a_broken_connection_is_resumed_in_the_same_run(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, cut(CONTENT, 300), cut(CONTENT[300:], 200, **rest(300)["headers"]) | {"status": 206}, rest(500))
    assert llma(*DOWNLOAD).code == 0
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert ranges(platform) == [None, "bytes=300-", "bytes=500-"]


def test_an_interrupted_download_has_no_final_name_and_continues(
    llma: Llma, platform: FakePlatform, folder: Path
) -> None:
    result = interrupted(llma, platform, folder)
    assert (result.code, result.out) == (5, "")
    assert "The same command continues: 300 B of 1.0 KiB are in " in result.err
    serve(platform, rest(300))
    assert llma(*DOWNLOAD).code == 0
    assert ranges(platform) == ["bytes=300-"]
    assert (names(folder), (folder / "a.bin").read_bytes()) == (["a.bin"], CONTENT)


def test_a_complete_partial_file_needs_no_content(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    interrupted(llma, platform, folder)
    (partial,) = folder.iterdir()
    partial.write_bytes(CONTENT)
    assert llma(*DOWNLOAD).code == 0
    assert ranges(platform) == []
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_parts_of_different_content_are_never_joined(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    interrupted(llma, platform, folder)
    serve(platform, rest(300, etag='"other"'), {"raw": CONTENT, "headers": {"etag": '"other"'}})
    assert llma(*DOWNLOAD).code == 0
    assert ranges(platform) == ["bytes=300-", None]
    assert (names(folder), (folder / "a.bin").read_bytes()) == (["a.bin"], CONTENT)


def test_a_server_without_ranges_sends_the_file_again(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    interrupted(llma, platform, folder)
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    assert llma(*DOWNLOAD).code == 0
    assert (names(folder), (folder / "a.bin").read_bytes()) == (["a.bin"], CONTENT)


WRONG = {"too little": CONTENT[:-1], "too much": CONTENT + b"x"}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_content_of_another_size_gets_no_final_name(
    content: bytes, llma: Llma, platform: FakePlatform, folder: Path
) -> None:
    serve(platform, {"raw": content, "headers": ETAG})
    result = llma(*DOWNLOAD)
    assert result.code == 5
    assert "another number of bytes" in result.err
    assert not (folder / "a.bin").exists()


NAMES = {
    "../../etc/passwd": "passwd",
    "/etc/passwd": "passwd",
    "..\\..\\boot.ini": "boot.ini",
    "..": "file-1",
    "": "file-1",
    "a/": "file-1",
    ".bashrc": "bashrc",
    "x\x00\x1b[2J\ny": "x[2J y",
    "日本 é.pdf": "日本 é.pdf",
    "\ud800.txt": "?.txt",
    "é" * 300 + ".pdf": "é" * 98 + ".pdf",
}


@pytest.mark.parametrize(("given", "used"), NAMES.items(), ids=[ascii(name)[:30] for name in NAMES])
def test_a_servers_name_stays_in_the_folder(
    given: str, used: str, llma: Llma, platform: FakePlatform, folder: Path, home: Path
) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG}, filename=given)
    before = names(home)
    result = llma(*DOWNLOAD)
    assert result.code == 0, result.err
    assert names(folder) == [used]
    assert names(home) == before


def test_the_last_resort_of_a_name_is_a_name() -> None:
    assert safe_file_name("..", "/") == "download"


def test_a_link_in_place_of_the_partial_file_is_not_followed(
    llma: Llma, platform: FakePlatform, folder: Path, home: Path
) -> None:
    interrupted(llma, platform, folder)
    (partial,) = folder.iterdir()
    partial.unlink()
    (home / "precious").write_text("mine")
    partial.symlink_to(home / "precious")
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    assert llma(*DOWNLOAD).code == 2
    assert (home / "precious").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    result = llma(*DOWNLOAD, "--file", "missing/a.bin")
    assert result.code == 2
    assert "No such file or directory" in result.err


def test_a_missing_file_leaves_nothing(llma: Llma, platform: FakePlatform, folder: Path) -> None:
    platform.respond_error("GET /files/file-1", 404)
    assert llma(*DOWNLOAD).code == 4
    assert names(folder) == []


def test_standard_output_gets_the_exact_bytes(platform: FakePlatform, folder: Path, program: list[str]) -> None:
    serve(platform, {"raw": CONTENT, "headers": ETAG})
    environment = {**os.environ, "LLMARINER_BASE_URL": platform.url, "LLMARINER_API_KEY": API_KEY}
    line = [*program, *DOWNLOAD, "--file", "-"]
    done = subprocess.run(line, env=environment, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr, names(folder)) == (CONTENT, b"", [])


def test_an_interrupt_keeps_what_has_arrived(platform: FakePlatform, folder: Path, program: list[str]) -> None:
    def slow() -> Any:
        while True:
            yield b"x"
            time.sleep(0.02)

    serve(platform, {"chunks": slow(), "headers": ETAG})
    environment = {**os.environ, "LLMARINER_BASE_URL": platform.url, "LLMARINER_API_KEY": API_KEY}
    process = subprocess.Popen([*program, *DOWNLOAD], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not names(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command continues" in err
    assert [name.endswith(".part") for name in names(folder)] == [True]
