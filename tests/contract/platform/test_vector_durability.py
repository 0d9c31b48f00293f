"""What the index of one machine has confirmed is there after its server was killed, with several writers at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.vectors import Comparison, VectorIndex, VectorIndexUnavailable
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess

from .vector_chunks import COLLECTION, STORE, chunk, unit_vector

TENANT = "proj_durable"
CHUNKS = 20
KILLS = 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusLiteProcess]:
    process = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus-lite.log")
    yield process
    process.close()


class Writer(threading.Thread):
    """Adds, deletes and marks files until it is stopped, and keeps what was confirmed.

    `counts`: chunks of each file; a file whose last operation failed is not in it. `marked`: files with attributes.
    """

    def __init__(self, index: VectorIndex, number: int, stop: threading.Event) -> None:
        super().__init__()
        self._index = index
        self._number = number
        self._ended = stop
        self._random = random.Random(number)
        self.counts: dict[str, int] = {}
        self.marked: set[str] = set()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Works until `stop` is set, or until an operation raises what the port does not allow."""
        done = 0
        try:
            while not self._ended.is_set():
                done += 1
                with contextlib.suppress(VectorIndexUnavailable):
                    self._work(f"file-{self._number}-{done}")
        except BaseException as error:
            self.error = error

    def _work(self, file: str) -> None:
        chunks = [chunk(f"{file} {number}", file=file) for number in range(CHUNKS)]
        self._index.upsert(COLLECTION, TENANT, chunks)
        self.counts[file] = CHUNKS
        present = sorted(name for name, count in self.counts.items() if count)
        earlier = self._random.choice(present)
        if self._random.random() < 0.4:
            del self.counts[earlier]
            self.marked.discard(earlier)
            self._index.delete_file(COLLECTION, TENANT, STORE, earlier)
            self.counts[earlier] = 0
        elif self._random.random() < 0.3 and earlier not in self.marked:
            self._index.set_attributes(COLLECTION, TENANT, STORE, earlier, {"marked": True})
            self.marked.add(earlier)


def test_confirmed_writes_of_several_threads_survive_kills(server: MilvusLiteProcess) -> None:
    index = MilvusIndex(server.settings)
    index.ensure(COLLECTION)
    stop = threading.Event()
    writers = [Writer(index, number, stop) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for number in range(KILLS):
            wait_for_progress(writers)
            time.sleep(0.05 * number)
            if (pid := server.pid) is not None:
                os.kill(pid, signal.SIGKILL)
        wait_for_progress(writers)
    finally:
        stop.set()
        for writer in writers:
            writer.join(120)
    assert [writer.error for writer in writers if writer.error] == []
    os.kill(server.pid or 0, signal.SIGKILL)

    found = index.chunk_counts(COLLECTION, TENANT, STORE)

    confirmed = {file: count for writer in writers for file, count in writer.counts.items()}
    assert len(confirmed) > 4 * KILLS
    assert {file: found.get(file, 0) for file in confirmed} == confirmed
    hits = index.search_vectors(
        COLLECTION, TENANT, [STORE], unit_vector(0), limit=16_000, filters=Comparison("marked", "eq", True)
    )
    marked = set().union(*(writer.marked for writer in writers))
    assert marked - {hit.file_id for hit in hits} == set()
    index.close()


def wait_for_progress(writers: list[Writer]) -> None:
    """Until the writers together have had some more files confirmed."""
    before = sum(len(writer.counts) for writer in writers)
    deadline = time.monotonic() + 90
    while sum(len(writer.counts) for writer in writers) < before + 30:
        assert time.monotonic() < deadline, "no write is confirmed any more"
        time.sleep(0.02)


def test_written_and_stopped_in_order_is_there_after_the_start(server: MilvusLiteProcess, tmp_path: Path) -> None:
    index = MilvusIndex(server.settings)
    index.upsert(COLLECTION, TENANT, [chunk("here", vector=unit_vector(1), attributes={"a": "b"})])
    index.close()
    server.close()

    again = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus-lite.log")
    index = MilvusIndex(again.settings)
    filters = Comparison("a", "eq", "b")
    by_vector = index.search_vectors(COLLECTION, TENANT, [STORE], unit_vector(1), limit=1, filters=filters)
    by_text = index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1, filters=filters)
    index.close()
    again.close()

    assert [hit.text for hit in by_vector] == [hit.text for hit in by_text] == ["here"]
