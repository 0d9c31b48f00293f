"""What no row points to is collected, and what a row points to never is: also when processes are killed between the two."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.folder import FolderObjects
from llmariner.platform.objects.garbage import Collected, collect

from .contents import get, keys, put

HOUR = 3600


class Rows(set[str]):
    """The keys that rows point to; remembers which were asked for."""

    def __init__(self, *keys: str) -> None:
        super().__init__(keys)
        self.asked: list[list[str]] = []

    def referenced(self, keys: Sequence[str]) -> Collection[str]:
        self.asked.append(list(keys))
        return self.intersection(keys)


def test_an_object_without_a_row_is_deleted_after_the_grace_time(store: ObjectStore) -> None:
    rows = Rows("files/b")
    for key in ("files/a", "files/b", "files/c", "other/d"):
        put(store, key, b"x")
    assert collect(store, "files/", rows.referenced, time.time() - HOUR) == Collected(3, 0, None)
    assert rows.asked == []
    assert collect(store, "files/", rows.referenced, time.time() + HOUR) == Collected(3, 2, None)
    assert keys(store) == ["files/b", "other/d"]
    assert collect(store, "files/", rows.referenced, time.time() + HOUR) == Collected(1, 0, None)


def test_an_upload_that_was_killed_before_its_row_is_collected_and_one_with_its_row_is_not(store: ObjectStore) -> None:
    rows = Rows()
    put(store, "files/no_row", b"x")
    put(store, "files/row", b"y")
    rows.add("files/row")
    collect(store, "files/", rows.referenced, time.time() + HOUR)
    assert keys(store) == ["files/row"]


def test_a_deletion_that_was_killed_after_its_row_is_finished(store: ObjectStore) -> None:
    rows = Rows("files/a", "files/b")
    put(store, "files/a", b"x")
    put(store, "files/b", b"y")
    rows.remove("files/a")
    collect(store, "files/", rows.referenced, time.time() + HOUR)
    assert keys(store) == ["files/b"]
    assert get(store, "files/b") == b"y"


def test_a_long_prefix_is_collected_in_slices(store: ObjectStore) -> None:
    names = [f"files/{number:02}" for number in range(12)]
    rows = Rows(*names[::2])
    for name in names:
        put(store, name, b"x")
    slices = []
    after: str | None = ""
    while after is not None:
        slices.append(collect(store, "files/", rows.referenced, time.time() + HOUR, after=after, limit=5))
        after = slices[-1].after
    assert [(found.scanned, found.deleted) for found in slices] == [(5, 2), (5, 3), (2, 1)]
    assert keys(store) == names[::2]


def test_rows_are_asked_for_many_keys_at_once(tmp_path: Path) -> None:
    store = FolderObjects(tmp_path)
    for number in range(1001):
        put(store, f"files/{number:04}", b"")
    rows = Rows()
    assert collect(store, "files/", rows.referenced, time.time() + HOUR).deleted == 1001
    assert [len(asked) for asked in rows.asked] == [500, 500, 1]


def test_an_object_that_is_written_during_the_collection_stays(store: ObjectStore) -> None:
    older_than = time.time() - HOUR
    put(store, "files/a", b"x")

    def referenced(_: Sequence[str]) -> Collection[str]:
        raise AssertionError("a young object is nobody's business")

    assert collect(store, "files/", referenced, older_than).deleted == 0
    assert keys(store) == ["files/a"]


_WORKER = """
import random, sqlite3, sys
from pathlib import Path
from llmariner.platform.objects.folder import FolderObjects
store, rows = FolderObjects(Path(sys.argv[1])), sqlite3.connect(sys.argv[2], isolation_level=None)
print("started", flush=True)
for number in range(10**6):
    key = f"files/file_{sys.argv[3]}_{number}"
    with store.writer(key) as writer:
        writer.write(key.encode() * 1000)
        writer.commit()
    rows.execute("INSERT INTO files VALUES (?)", (key,))
    if number % 2:
        rows.execute("DELETE FROM files WHERE key = ?", (key,))
        store.delete([key])
"""


def test_after_processes_were_killed_anywhere_every_row_has_its_object_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = FolderObjects(tmp_path / "objects")
    database = tmp_path / "rows.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as rows:
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("CREATE TABLE files (key TEXT PRIMARY KEY)")
        chance = random.Random()
        for number in range(4):
            command = [sys.executable, "-c", _WORKER, str(tmp_path / "objects"), str(database), str(number)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n"
                time.sleep(chance.uniform(0.01, 0.2))
                process.kill()

        def referenced(found: Sequence[str]) -> Collection[str]:
            marks = ", ".join("?" * len(found))
            return {key for (key,) in rows.execute(f"SELECT key FROM files WHERE key IN ({marks})", found)}

        collect(store, "files/", referenced, time.time() + HOUR)
        expected = [key for (key,) in rows.execute("SELECT key FROM files ORDER BY key")]
        assert keys(store) == expected
        assert all(get(store, key) == key.encode() * 1000 for key in expected)
        assert list((tmp_path / "objects/.unfinished").iterdir()) == []
