"""What LlamaIndex can do with a server's embeddings and vector stores: a line per capability.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python llama_index_storage.py

prints `ok NAME` or `failed NAME: why`, and ends with 1 when anything failed. It deletes what it creates.
"""

import os
import secrets
import sys
from typing import Any

from capability_report import report  # type: ignore[import-not-found]
from llama_index.core import Document, VectorStoreIndex  # type: ignore[import-not-found]
from llama_index.core.retrievers import BaseRetriever  # type: ignore[import-not-found]
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # type: ignore[import-not-found]
from llama_index.embeddings.openai_like import OpenAILikeEmbedding  # type: ignore[import-not-found]
from openai import OpenAI

CLIENT = OpenAI(timeout=300)
EMBEDDING_MODEL = os.environ.get("OPENAI_EMBEDDING_MODEL", "all-minilm-l6-v2")
RUN = secrets.token_hex(4)
TEXTS = {
    "pump.md": f"The red pump moves water out of the well. Run {RUN}.",
    "cat.md": f"A cat sleeps all day on the warm windowsill. Run {RUN}.",
}


class VectorStoreRetriever(BaseRetriever):  # type: ignore[misc]
    """Nodes of a vector store that answer a query."""

    def __init__(self, store_id: str) -> None:
        super().__init__()
        self._store_id = store_id

    def _retrieve(self, query_bundle: QueryBundle) -> list[Any]:
        page = CLIENT.vector_stores.search(self._store_id, query=query_bundle.query_str, max_num_results=5)
        return [
            NodeWithScore(node=TextNode(text=each.content[0].text, metadata={"file": each.filename}), score=each.score)
            for each in page.data
        ]


def embedder() -> Any:
    """Its class for OpenAI itself knows OpenAI's own models alone."""
    return OpenAILikeEmbedding(
        model_name=EMBEDDING_MODEL, api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"]
    )


def embeddings() -> None:
    cat, kitten, market = embedder().get_text_embedding_batch(["a cat", "a kitten", "the stock market"])
    assert _dot(cat, kitten) > _dot(cat, market) + 0.2
    assert _dot(embedder().get_query_embedding("a cat"), cat) > 0.999


def index() -> None:
    """LlamaIndex's own index, with the platform's embeddings."""
    documents = [Document(text=text, metadata={"file": name}) for name, text in TEXTS.items()]
    made = VectorStoreIndex.from_documents(documents, embed_model=embedder())
    (found,) = made.as_retriever(similarity_top_k=1).retrieve("an animal that sleeps")
    assert found.node.metadata["file"] == "cat.md"


def retrieve() -> None:
    store = CLIENT.vector_stores.create(name=f"llama-index {RUN}")
    try:
        files = [(name, text.encode()) for name, text in TEXTS.items()]
        batch = CLIENT.vector_stores.file_batches.upload_and_poll(store.id, files=files, poll_interval_ms=300)
        assert batch.file_counts.completed == len(TEXTS), batch
        found = VectorStoreRetriever(store.id).retrieve("What moves water?")
        assert [each.node.metadata["file"] for each in found] == ["pump.md", "cat.md"]
        assert TEXTS["pump.md"] in found[0].get_content()
    finally:
        added = [each.id for each in CLIENT.vector_stores.files.list(store.id)]
        CLIENT.vector_stores.delete(store.id)
        for file in added:
            CLIENT.files.delete(file)


def _dot(one: Any, other: Any) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)))


CAPABILITIES = (
    embeddings,
    index,
    retrieve,
)


if __name__ == "__main__":
    sys.exit(report(CAPABILITIES))
