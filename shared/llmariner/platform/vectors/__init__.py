"""The vectors port: chunks of text with their embeddings, searched by similarity and by words (BM25).

The index is derived: rows in the database say which chunks must be in it. There is one collection per embedding model and
dimension; tenants (projects) are partitions of it. The tenant of every call comes from the caller's credentials.

Adapter: `milvus` (Milvus by address; in standalone mode the Milvus Lite server of this machine).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "AttributeValue",
    "Chunk",
    "Collection",
    "Comparison",
    "Compound",
    "Filter",
    "Hit",
    "VectorIndex",
    "VectorIndexUnavailable",
]

AttributeValue = str | float | bool


class VectorIndexUnavailable(Exception):
    """The index does not answer. The operation may be repeated."""


@dataclass(frozen=True)
class Collection:
    """`model`: the id of the embedding model in the registry. `dimension`: of its vectors."""

    model: str
    dimension: int


@dataclass(frozen=True)
class Chunk:
    """A chunk of a file of a vector store. `id`: `<vector store file row id>-<index>`, at most 64 ASCII characters.

    `text`: at most 65,535 bytes of UTF-8. `attributes`: those of the file, at most 16.
    """

    id: str
    vector_store_id: str
    file_id: str
    text: str
    vector: Sequence[float]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True)
class Comparison:
    """A condition on an attribute of a file. `value` is a list for `in` and `nin`.

    A value compares only with values of its type; texts are ordered by code points. A comparison with an attribute that
    is missing or of another type is false, and true for `ne` and `nin`, the opposites of `eq` and `in`.
    """

    key: str
    operator: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    value: AttributeValue | Sequence[AttributeValue]


@dataclass(frozen=True)
class Compound:
    """All (`and`) or any (`or`) of some conditions."""

    operator: Literal["and", "or"]
    filters: Sequence[Comparison | Compound]


Filter = Comparison | Compound


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `score`: higher is better; cosine similarity, or BM25 (of no fixed range)."""

    id: str
    vector_store_id: str
    file_id: str
    text: str
    score: float


class VectorIndex(Protocol):
    """All methods block, are safe in any thread, and raise VectorIndexUnavailable. Returned writes are durable.

    A search ends at its `deadline`, a time of `time.monotonic()`; None: after the time that the adapter's settings give it.

    ValueError: an id that is not of A-Z a-z 0-9 _ . : -, a text, vector, attribute, filter or limit out of bounds.
    """

    def ensure(self, collection: Collection) -> None:
        """Create the collection if it is missing."""

    def upsert(self, collection: Collection, tenant: str, chunks: Sequence[Chunk]) -> None:
        """Insert chunks, or replace those with the same ids."""

    def delete_file(self, collection: Collection, tenant: str, vector_store_id: str, file_id: str) -> None:
        """Delete all chunks of a file in a vector store. Idempotent."""

    def delete_store(self, collection: Collection, tenant: str, vector_store_id: str) -> None:
        """Delete all chunks of a vector store. Idempotent."""

    def set_attributes(
        self,
        collection: Collection,
        tenant: str,
        vector_store_id: str,
        file_id: str,
        attributes: Mapping[str, AttributeValue],
    ) -> None:
        """Replace the attributes of all chunks of a file.

        Not to be called while the same file is deleted or written: a chunk deleted at that time may come back.
        """

    def search_vectors(
        self,
        collection: Collection,
        tenant: str,
        vector_store_ids: Sequence[str],
        vector: Sequence[float],
        *,
        limit: int,
        filters: Filter | None = None,
        deadline: float | None = None,
    ) -> list[Hit]:
        """The chunks most similar to a vector, best first."""

    def search_text(
        self,
        collection: Collection,
        tenant: str,
        vector_store_ids: Sequence[str],
        query: str,
        *,
        limit: int,
        filters: Filter | None = None,
        deadline: float | None = None,
    ) -> list[Hit]:
        """The chunks that match the words of a query best (BM25), best first."""

    def chunk_counts(self, collection: Collection, tenant: str, vector_store_id: str) -> Mapping[str, int]:
        """How many chunks the index has of each file of a vector store."""
