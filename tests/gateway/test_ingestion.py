"""A file becomes answers: through the platform's events and token path, counted to the key that added it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.standalone.dispatcher import Dispatcher, delivery_timeouts, subscriptions
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.standalone.platform import checkout_root
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.query import SearchQuery
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore

from .running_platform import Platform, eventually

EVENTING = checkout_root() / "eventing"
CONSUMERS = ("document_parser", "document_indexer", "vector_store_file_removal")


def deliver(context: Context) -> None:
    """Deliver all events to the consumers of ingestion."""
    consumers: dict[str, Any] = {name: load(EVENTING / name) for name in CONSUMERS}
    for consumer in consumers.values():
        consumer.use_context(context)
    ours = [each for each in subscriptions(EVENTING) if each.consumer in consumers]
    deliveries = Deliveries(context.database, ours)
    dispatcher = Dispatcher(deliveries, consumers, delivery_timeouts(EVENTING))

    async def run() -> None:
        while True:
            await dispatcher.start_due()
            await dispatcher.drain()
            if not deliveries.fan_out() and not deliveries.due():
                return

    asyncio.run(run())


def add_file(context: Context, caller: Caller, text: str) -> str:
    """The id of a new file."""
    owner = caller.key_owner
    with context.files.receive(owner, purpose=Purpose.ASSISTANTS, size_bytes=0, limit_bytes=10**6) as incoming:
        incoming.write(text.encode())
        return context.files.save(owner, NewFile("a.md", Purpose.ASSISTANTS, "text/markdown"), incoming).id


def test_a_file_is_found_by_its_words_and_counts_to_the_key_that_added_it(platform: Platform, tmp_path: Path) -> None:
    model = platform.model("all-minilm-l6-v2", task="embed")
    key_id, client = platform.key("librarian", limited=True)
    context = Context({**platform.environment, "LLMARINER_OBJECTS_FOLDER": str(tmp_path / "objects")})
    server = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus.log")
    index = context.vectors = MilvusIndex(server.settings)
    try:
        caller = context.authenticator.authenticate(client.secret)
        assert caller is not None
        files = [NewStoreFile(add_file(context, caller, text)) for text in ("# Pumps\n\nThe red pump.", "A valve.")]
        store = context.vector_stores.create(caller, NewVectorStore(files=files))
        deliver(context)
        assert context.vector_stores.get(caller.key_owner.project_id, store.id).contents.counts == {"completed": 2}
        page = context.vector_store_search.search(caller, [store.id], SearchQuery(("red pump",)))
        assert page.results[0].file_id == files[0].file_id
        assert page.results[0].headings == ("Pumps",)

        def counted() -> bool:
            return {row["key_id"] for row in platform.ledger(model)} == {key_id}

        eventually(counted, what="the usage of the key")
        context.vector_store_files.remove(caller, store.id, files[0].file_id)
        deliver(context)
        page = context.vector_store_search.search(caller, [store.id], SearchQuery(("red pump",)))
        assert [each.file_id for each in page.results] == [files[1].file_id]
    finally:
        index.close()
        server.close()
        context.database.close()
