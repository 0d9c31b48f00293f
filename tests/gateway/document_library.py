"""A platform with vector stores: Milvus Lite, scripted models, and files that are ingested at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.standalone.dispatcher import Dispatcher, delivery_timeouts, subscriptions
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.standalone.platform import checkout_root
from llmariner.tenancy.principal import Caller as Principal
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore

from .caller import Answer, Caller
from .running_platform import Platform, running

__all__ = ["CHAT", "EMBEDDINGS", "Library", "add_file", "deliver", "library"]

CHAT, EMBEDDINGS = "answers", "all-minilm-l6-v2"
_EVENTING = checkout_root() / "eventing"
_CONSUMERS = ("document_parser", "document_indexer", "vector_store_file_removal")


def deliver(context: Context) -> None:
    """Deliver all events to the consumers of ingestion."""
    consumers: dict[str, Any] = {name: load(_EVENTING / name) for name in _CONSUMERS}
    for consumer in consumers.values():
        consumer.use_context(context)
    ours = [each for each in subscriptions(_EVENTING) if each.consumer in consumers]
    deliveries = Deliveries(context.database, ours)
    dispatcher = Dispatcher(deliveries, consumers, delivery_timeouts(_EVENTING))

    async def run() -> None:
        while True:
            await dispatcher.start_due()
            await dispatcher.drain()
            if not deliveries.fan_out() and not deliveries.due():
                return

    asyncio.run(run())


def add_file(context: Context, caller: Principal, text: str, name: str = "a.md") -> str:
    """The id of a new file."""
    owner = caller.key_owner
    with context.files.receive(owner, purpose=Purpose.ASSISTANTS, size_bytes=0, limit_bytes=10**6) as incoming:
        incoming.write(text.encode())
        return context.files.save(owner, NewFile(name, Purpose.ASSISTANTS, "text/markdown"), incoming).id


class Library:
    """A platform whose vector stores are filled from texts."""

    def __init__(self, platform: Platform, context: Context) -> None:
        self.platform = platform
        self.context = context
        platform.model(EMBEDDINGS, task="embed")
        platform.model(CHAT)

    @cached_property
    def caller(self) -> Caller:
        """A caller without limits."""
        return self.platform.caller

    def store(
        self, texts: Mapping[str, str], *, name: str = "", caller: Caller | None = None, **attributes: Any
    ) -> str:
        """The id of a new vector store with these files by name, all of which are searchable."""
        principal = self.context.authenticator.authenticate((caller or self.caller).secret)
        assert principal is not None
        files = [
            NewStoreFile(add_file(self.context, principal, text, file), attributes) for file, text in texts.items()
        ]
        store = self.context.vector_stores.create(principal, NewVectorStore(name=name, files=files))
        deliver(self.context)
        counts = self.context.vector_stores.get(principal.key_owner.project_id, store.id).contents.counts
        assert counts == ({"completed": len(texts)} if texts else {})
        return store.id

    def ask(
        self,
        question: str,
        *stores: str,
        answer: str = "I do not know",
        caller: Caller | None = None,
        tool: Mapping[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Answer:
        """The response to a question, which says `answer`; `tool`: further fields of the tool."""
        body = chat_body(question, *stores, answer=answer, tool=tool or {}, **fields)
        return asyncio.run((caller or self.caller).call("/v1/chat/completions", body, headers=headers))


def chat_body(
    question: str, *stores: str, answer: str = "I do not know", tool: Mapping[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """The body of a chat that asks the stores."""
    return {
        "model": CHAT,
        "messages": [{"role": "user", "content": question}],
        "tools": [{"type": "file_search", "vector_store_ids": list(stores), **(tool or {})}],
        "x_script": {"text": answer},
        **fields,
    }


@contextmanager
def library(folder: Path, database: Path, **environment: str) -> Iterator[Library]:
    """Run a platform with a vector index for the block; `environment` as that of `running`."""
    objects = folder / "objects"
    server = MilvusLiteProcess(folder / "milvus", folder / "milvus.log")
    vectors = server.settings()
    settings = {"MILVUS_URI": vectors.uri, "MILVUS_TOKEN": vectors.token.reveal(), "MILVUS_INDEX": "FLAT"}
    settings |= {"OBJECTS_FOLDER": str(objects), **environment}
    try:
        with running(folder, database, **settings) as platform:
            context = Context(platform.environment)
            try:
                yield Library(platform, context)
            finally:
                cast(MilvusIndex, context.vectors).close()
                context.database.close()
    finally:
        server.close()
