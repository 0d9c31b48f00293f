"""What LangChain can do with a server's vector stores: a line per capability.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python langchain_storage.py

prints `ok NAME` or `failed NAME: why`, and ends with 1 when anything failed. It deletes what it creates.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from capability_report import report  # type: ignore[import-not-found]
from langchain_core.documents import Document  # type: ignore[import-not-found]
from langchain_core.retrievers import BaseRetriever  # type: ignore[import-not-found]
from openai import OpenAI

CLIENT = OpenAI(timeout=300)
RUN = secrets.token_hex(4)
TEXTS = {
    "pump.md": f"The red pump moves water out of the well. Run {RUN}.",
    "cat.md": f"A cat sleeps all day on the warm windowsill. Run {RUN}.",
}


class VectorStoreRetriever(BaseRetriever):  # type: ignore[misc]
    """Documents of a vector store that answer a query."""

    store_id: str
    max_num_results: int = 5

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
        page = CLIENT.vector_stores.search(self.store_id, query=query, max_num_results=self.max_num_results)
        return [
            Document(
                "\n".join(part.text for part in each.content), metadata={"source": each.filename, "score": each.score}
            )
            for each in page.data
        ]


@contextmanager
def retriever(**fields: Any) -> Iterator[Any]:
    store = CLIENT.vector_stores.create(name=f"langchain {RUN}")
    try:
        files = [(name, text.encode()) for name, text in TEXTS.items()]
        batch = CLIENT.vector_stores.file_batches.upload_and_poll(store.id, files=files, poll_interval_ms=300)
        assert batch.file_counts.completed == len(TEXTS), batch
        yield VectorStoreRetriever(store_id=store.id, **fields)
    finally:
        added = [each.id for each in CLIENT.vector_stores.files.list(store.id)]
        CLIENT.vector_stores.delete(store.id)
        for file in added:
            CLIENT.files.delete(file)


def retrieve() -> None:
    with retriever() as each:
        found = each.invoke("What moves water?")
        assert [document.metadata["source"] for document in found] == ["pump.md", "cat.md"]
        assert TEXTS["pump.md"] in found[0].page_content
        assert 0 < found[1].metadata["score"] < found[0].metadata["score"] <= 1


def retrieve_in_a_chain() -> None:
    with retriever(max_num_results=1) as each:
        chain = each | (lambda documents: [document.metadata["source"] for document in documents])
        assert chain.batch(["sleeping animals", "water pump"]) == [["cat.md"], ["pump.md"]]


CAPABILITIES = (
    retrieve,
    retrieve_in_a_chain,
)


if __name__ == "__main__":
    sys.exit(report(CAPABILITIES))
