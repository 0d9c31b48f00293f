"""What was acknowledged of vector stores survives kills of each process, with files that are added and removed meanwhile.

`LLMARINER_KILL_SECONDS=600` runs it for that time, with the platform's own times.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, or_, select, update

from llmariner.files.tables import file_contents, file_usage
from llmariner.platform.events.tables import deliveries
from llmariner.platform.vectors import Collection
from llmariner.usage.tables import ledger_requests
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files, vector_stores

from .killable_platform import MODEL, PARTS, KillablePlatform, eventually
from .killed_work import Worker, hits

SECONDS = float(os.environ.get("LLMARINER_KILL_SECONDS", "0"))
DIMENSION = 8
_SHORT_ROUND = ("consumers", "index", "functions", "all")
# Consumers of two projects, with two files of each at a time, embed 32 chunks of 100 tokens at once, perhaps twice.
_EMBEDDED_AT_ONCE = 2 * 2 * 32 * 100 * 2

pytestmark = pytest.mark.timeout(SECONDS + 1500)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[KillablePlatform]:
    made = KillablePlatform(tmp_path, tick_seconds=30 if SECONDS else 1)
    try:
        for part in PARTS:
            made.start(part)
        yield made
    finally:
        made.close()


def make_workers(platform: KillablePlatform, ended: threading.Event) -> list[Worker]:
    workers: list[Worker] = []
    for title in ("reading", "writing"):
        client = platform.client(title)
        status, store = client.until_answered("POST", "/v1/vector_stores", {"name": title})
        assert status == 200, store
        workers += [Worker(client, store["id"], len(workers) + number, ended, SECONDS > 0) for number in (0, 1)]
    return workers


def kill_by_turns(platform: KillablePlatform) -> None:
    chance = random.Random(1)
    until = time.monotonic() + SECONDS
    for turn in _SHORT_ROUND if not SECONDS else iter(lambda: chance.choice(_SHORT_ROUND), None):
        time.sleep(chance.uniform(1, 3) if not SECONDS else chance.uniform(1, 15))
        if not SECONDS and platform.is_idle():
            platform.pass_time(700)
        parts = PARTS if turn == "all" else (turn,)
        for part in parts:
            platform.kill(part)
        if "consumers" in parts and not SECONDS:
            platform.pass_time(700)  # what the killed process had claimed
        for part in parts:
            platform.start(part)
        if SECONDS and time.monotonic() > until:
            return


def settle(platform: KillablePlatform) -> float:
    """Wait until no file is in progress, and no rebuild. In the short run, what waits need not wait."""
    c, rebuilds = vector_store_files.c, vector_stores.c.rebuild_requested_at.is_not(None)
    unfinished = or_(c.status == "in_progress", c.attributes_changed_at.is_not(None), rebuilds)
    joined = select(func.count()).select_from(vector_store_files.join(vector_stores))
    in_progress = joined.where(unfinished, c.deleted_at.is_(None))
    quiet = 0

    def is_over() -> bool:
        nonlocal quiet
        with platform.context.database.read() as session:
            if session.value(in_progress) == 0:
                return True
        quiet = quiet + 1 if platform.is_idle() else 0
        if quiet > 5 and not SECONDS:
            platform.pass_time(700)
            quiet = 0
        time.sleep(0.2)
        return False

    return eventually(is_over, seconds=1200 if SECONDS else 120, what="the end of the ingestion")


def ledger_tokens(platform: KillablePlatform) -> dict[str, int]:
    c = ledger_requests.c
    query = select(c.outcome, func.sum(c.prompt_tokens).label("tokens")).where(c.model == MODEL).group_by(c.outcome)
    with platform.context.database.read() as session:
        return {row.outcome: int(row.tokens) for row in session.rows(query)}


def check_store(platform: KillablePlatform, workers: list[Worker]) -> None:
    """The store of some workers has what they added and did not remove, once, in rows, index, counts and searches."""
    documents = [each for worker in workers for each in worker.documents]
    live = {each.id: each for each in documents if not each.is_removed}
    worker, path = workers[0], f"/v1/vector_stores/{workers[0].store_id}"
    listed = list_files(worker, path)
    assert {each["id"]: each["status"] for each in listed} == dict.fromkeys(live, "completed")
    for each in documents:
        for options in ({}, {"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}}):
            status, answer = worker.search(each.word, **options)
            assert status == 200, answer
            found = [] if each.is_removed else [each.id]
            assert hits(answer, each.word) == found, (each, answer)
            passages = [(hit["file_id"], hit["content"][0]["text"]) for hit in answer["data"]]
            assert len(set(passages)) == len(passages)
    for each in live.values():
        status, answer = worker.search(each.word, filters={"type": "eq", "key": "version", "value": each.version})
        assert (status, hits(answer, each.word)) == (200, [each.id] if each.version else []), (each, answer)
    counts, sizes = chunks_of(platform, worker.store_id)
    in_index = platform.index.chunk_counts(Collection(MODEL, DIMENSION), worker.client.project_id, worker.store_id)
    assert dict(in_index) == counts
    assert {each["id"]: each["usage_bytes"] for each in listed} == sizes
    store = worker.client.until_answered("GET", path)[1]
    assert store["file_counts"]["completed"] == store["file_counts"]["total"] == len(live)
    assert store["usage_bytes"] == sum(sizes.values())


def list_files(worker: Worker, path: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    while True:
        after = f"&after={listed[-1]['id']}" if listed else ""
        page = worker.client.until_answered("GET", f"{path}/files?limit=100{after}")[1]
        listed += page["data"]
        if not page["has_more"]:
            return listed


def chunks_of(platform: KillablePlatform, store_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Of the files in a store: the number of chunks by the row's id, and the bytes of texts and vectors by the file's."""
    files, chunks = vector_store_files.c, vector_store_chunks.c
    query = select(files.id, files.file_id, chunks.text).join(
        vector_store_chunks, chunks.vector_store_file_id == files.id
    )
    with platform.context.database.read() as session:
        rows = session.rows(query.where(files.vector_store_id == store_id, files.deleted_at.is_(None)))
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row.file_id] += len(row.text.encode()) + DIMENSION * 4
    return dict(Counter(row.id for row in rows)), dict(sizes)


def check_objects(platform: KillablePlatform, workers: list[Worker]) -> None:
    """Each content has its object. An object without a content is one of a killed upload, which is garbage after a day."""
    with platform.context.database.read() as session:
        keys = {row.key for row in session.rows(select(file_contents.c.key))}
        used = {row.project_id: (row.files, row.bytes) for row in session.rows(select(file_usage))}
    stored = {each.key for each in platform.context.objects.list("")}
    assert keys <= stored
    assert len(stored - keys) <= platform.kills["functions"] * len(workers)
    for worker in workers[::2]:
        found = worker.client.until_answered("GET", "/v1/files?limit=10000")[1]["data"]
        assert used[worker.client.project_id] == (len(found), sum(each["bytes"] for each in found))


def check_removal(platform: KillablePlatform) -> None:
    """The rows of what was removed go, once nobody can be at work on it."""
    c = vector_store_files.c
    with platform.context.database.write() as session:
        removed = c.deleted_at.is_not(None)
        session.run(update(vector_store_files).where(removed).values(deleted_at=c.deleted_at - 7200))
    left = select(func.count()).select_from(vector_store_files).where(removed)

    def is_over() -> bool:
        with platform.context.database.read() as session:
            return bool(session.value(left) == 0)

    eventually(is_over, seconds=120, what="the end of the removed rows")


def test_what_was_acknowledged_survives_kills_of_each_process(platform: KillablePlatform) -> None:
    ended = threading.Event()
    workers = make_workers(platform, ended)
    for worker in workers:
        worker.add()
    settle(platform)
    words = sum(each.words for worker in workers for each in worker.documents)
    assert platform.embedded_tokens() == words
    eventually(lambda: sum(ledger_tokens(platform).values()) == words, seconds=10, what="the ledger's first entries")
    for worker in workers:
        worker.start()
    try:
        kill_by_turns(platform)
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    seconds = settle(platform)
    embedded, entries = platform.embedded_tokens(), ledger_tokens(platform)
    documents = [each for worker in workers for each in worker.documents]
    needed = sum(each.words for each in documents if not each.is_removed)
    removed, completed = (sum(getattr(each, name) for each in documents) for name in ("is_removed", "was_completed"))
    print(
        f"\n{platform.kills} kills, {len(documents)} files, {removed} removed, {completed} seen completed, "
        f"{sum(each.searches for each in workers)} searches; "
        f"settled after {seconds:.1f} s; tokens: {needed} of the files, {embedded} embedded, in the ledger {entries}"
    )
    assert [worker.error for worker in workers if worker.error] == []
    assert [each for worker in workers for each in worker.lost] == []
    for one in (0, 2):
        check_store(platform, workers[one : one + 2])
    check_objects(platform, workers)
    assert needed <= embedded
    # A killed process loses the entries of its last half second (docs/usage.md).
    assert 0 <= embedded - sum(entries.values()) <= platform.kills["functions"] * _EMBEDDED_AT_ONCE
    check_removal(platform)
    with platform.context.database.read() as session:
        dead = session.rows(select(deliveries).where(deliveries.c.state == "dead"))
    assert dead == []
