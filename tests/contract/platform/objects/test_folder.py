"""The folder of objects: processes that are killed, full disks, and who may read it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from llmariner.platform.objects import ObjectStoreUnavailable
from llmariner.platform.objects.folder import FolderObjects

from .contents import get, keys, put

_WRITES = """
import sys, time
from pathlib import Path
from llmariner.platform.objects.folder import FolderObjects
with FolderObjects(Path(sys.argv[1])).writer("files/file_1") as writer:
    writer.write(b"x" * 100_000)
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@contextmanager
def writing_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written to an object and not committed it."""
    with subprocess.Popen([sys.executable, "-c", _WRITES, str(root)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            yield process
        finally:
            process.kill()


def unfinished(root: Path) -> list[str]:
    return os.listdir(root / ".unfinished")


def test_the_file_of_a_killed_writer_is_discarded_and_that_of_a_live_one_is_not(root: Path) -> None:
    store = FolderObjects(root)
    with writing_process(root) as process:
        assert store.discard_unfinished("", time.time() + 60) == 0
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert keys(store) == []
        assert len(unfinished(root)) == 1
        assert store.discard_unfinished("", time.time() - 60) == 0
        assert store.discard_unfinished("", time.time() + 60) == 1
        assert unfinished(root) == []
        assert store.discard_unfinished("", time.time() + 60) == 0


def test_the_time_of_an_object_is_by_the_clock_of_the_platform(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's clock may differ, and the sweep compares ages with the platform's."""
    now = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: now)
    store = FolderObjects(root)
    put(store, "files/file_1", b"x")
    info = store.info("files/file_1")
    assert info is not None
    assert info.modified_at == pytest.approx(now, abs=1)


def test_nothing_is_left_of_writers_that_ended(root: Path) -> None:
    store = FolderObjects(root)
    put(store, "files/file_1", b"x")
    with store.writer("files/file_2") as writer:
        writer.write(b"x")
    assert unfinished(root) == []


def test_objects_are_private_to_their_user(root: Path) -> None:
    old = os.umask(0)
    try:
        put(FolderObjects(root), "files/file_1", b"x")
    finally:
        os.umask(old)
    assert (root / "files/file_1").stat().st_mode & 0o777 == 0o600
    assert (root / "files").stat().st_mode & 0o777 == (root / ".unfinished").stat().st_mode & 0o777 == 0o700
    assert root.stat().st_mode & 0o777 == 0o700


def test_zeros_take_no_room_on_disk(root: Path) -> None:
    store = FolderObjects(root)
    put(store, "files/file_1", b"begin", *[bytes(1 << 20)] * 64, b"end")
    assert (root / "files/file_1").stat().st_blocks * 512 < 4 << 20
    assert get(store, "files/file_1", 64 << 20) == b"\0" * 5 + b"end"


def test_a_full_disk_is_an_error_of_the_store_and_loses_nothing(root: Path) -> None:
    store = FolderObjects(root)
    put(store, "files/file_1", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ObjectStoreUnavailable, match="File too large"):
            put(store, "files/file_1", *[b"x" * (1 << 20)] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert unfinished(root) == []
    assert get(store, "files/file_1") == b"old"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = FolderObjects(tmp_path / "file")
    with pytest.raises(ObjectStoreUnavailable), store.writer("files/file_1"):
        pass
    assert keys(store) == []


def test_an_unread_reader_leaves_no_open_file(root: Path) -> None:
    store = FolderObjects(root)
    put(store, "files/file_1", b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.read("files/file_1")
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_empty_folders_are_removed_with_their_last_object(root: Path) -> None:
    store = FolderObjects(root)
    put(store, "uploads/a/part_1", b"x")
    put(store, "uploads/b/part_1", b"x")
    store.delete(["uploads/a/part_1"])
    assert [path.name for path in root.iterdir() if not path.name.startswith(".")] == ["uploads"]
    assert [path.name for path in (root / "uploads").iterdir()] == ["b"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_large_object_is_written_to_disk_while_it_arrives(
    root: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    synced: list[int] = []

    def fdatasync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        if fails:
            raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    store, part = FolderObjects(root), b"x" * 2**24
    with store.writer("files/file_1") as writer, pytest.raises(ObjectStoreUnavailable) if fails else nullcontext():
        for _ in range(3):
            writer.write(part)
        writer.commit()
    assert len(synced) == 1
    assert synced[0] >= 2 * len(part)
    assert len(list(keys(store))) == (0 if fails else 1)
    assert os.listdir(root / ".unfinished") == []


def test_a_folder_that_comes_and_goes_while_it_is_made_delays_a_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has made it when `mkdir` tries to, and removed it when `mkdir` looks whether it is a folder."""
    store, made = FolderObjects(root), os.mkdir
    raced: list[Path] = []

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if Path(path).name == "shared" and not raced:
            raced.append(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        made(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    put(store, "uploads/shared/part_1", b"x")
    assert raced == [root / "uploads/shared"]
    assert get(store, "uploads/shared/part_1") == b"x"
