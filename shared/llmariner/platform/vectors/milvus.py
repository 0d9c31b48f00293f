"""Adapter for Milvus, by address. pymilvus is imported with the first call.

Milvus Lite, the server of the standalone mode, differs where a comment says so. It has one writer at a time for all
clients: `llmariner.standalone.milvus_lite.server` ensures that.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmariner.platform.vectors import AttributeValue, Chunk, Collection, Filter, Hit, VectorIndexUnavailable
from llmariner.platform.vectors.connections import Connections, SettingsSource
from llmariner.platform.vectors.expressions import encoded_attributes, ids_in, where

if TYPE_CHECKING:
    pass

__all__ = ["MilvusIndex", "collection_name"]

T = TypeVar("T")
_MAX_TEXT_BYTES = 65_535
_MAX_HITS = 16_384
_MAX_FLOAT32 = 3.4028234663852886e38
_SLICE_CHUNKS = 512
_SLICE_BYTES = 8_000_000
"""A request of Milvus may have 64 MB by default."""
_PAGE = 10_000
_UPDATED_AT_ONCE = 200
_COLLECTION_NOT_FOUND = 100
_STALE = frozenset({_COLLECTION_NOT_FOUND, 101, 103})
"""Codes of Milvus for a collection that is not there, not loaded, not loaded fully: this client's knowledge is old."""
_INVALID_REQUEST = frozenset({1100, 1101, 1102})
_HIT_FIELDS = ["vector_store_id", "file_id", "text"]


class MilvusIndex:
    """See the port."""

    def __init__(self, settings: SettingsSource) -> None:
        self._connections = Connections(settings)

    def ensure(self, collection: Collection) -> None:
        """See the port."""
        self._run(collection, lambda _client, _name, _seconds: None, otherwise=None, create=True)

    def upsert(self, collection: Collection, tenant: str, chunks: Sequence[Chunk]) -> None:
        """See the port. Raises ValueError for a chunk that the index can't hold, before anything is written."""
        rows = [_row(collection, tenant, chunk) for chunk in chunks]
        for part in _slices(rows):
            self._upsert(collection, part)

    def delete_file(self, collection: Collection, tenant: str, vector_store_id: str, file_id: str) -> None:
        """See the port."""
        self._delete(collection, where(tenant, vector_store_ids=[vector_store_id], file_id=file_id))

    def delete_store(self, collection: Collection, tenant: str, vector_store_id: str) -> None:
        """See the port."""
        self._delete(collection, where(tenant, vector_store_ids=[vector_store_id]))

    def set_attributes(
        self,
        collection: Collection,
        tenant: str,
        vector_store_id: str,
        file_id: str,
        attributes: Mapping[str, AttributeValue],
    ) -> None:
        """See the port. Chunks are read and written again: a chunk that is deleted at the same time may come back."""
        encoded = encoded_attributes(attributes)
        expression = where(tenant, vector_store_ids=[vector_store_id], file_id=file_id)
        ids = [row["id"] for row in self._rows(collection, expression, ["id"])]
        for start in range(0, len(ids), _UPDATED_AT_ONCE):
            some = ids_in(tenant, ids[start : start + _UPDATED_AT_ONCE])
            fields = ["id", "tenant", *_HIT_FIELDS, "vector"]
            rows = [{**row, "attributes": encoded} for row in self._rows(collection, some, fields)]
            for part in _slices(rows):
                self._upsert(collection, part)

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
        """See the port. Raises ValueError for an invalid vector, limit, id or filter."""
        query = _checked_vector(collection, vector)
        expression = _search_expression(tenant, vector_store_ids, filters, limit)
        found = self._search(collection, expression, "vector", [query], limit, deadline)
        return [_hit(row, row["distance"]) for row in found]

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
        """See the port. Raises ValueError for an invalid query, limit, id or filter."""
        if len(query.encode()) > _MAX_TEXT_BYTES:
            raise ValueError(f"A query may have at most {_MAX_TEXT_BYTES} bytes.")
        expression = _search_expression(tenant, vector_store_ids, filters, limit)
        if not query.strip():
            return []
        found = self._search(collection, expression, "words", [query], limit, deadline)
        # Milvus Lite gives BM25 scores as negative distances.
        return [_hit(row, abs(row["distance"])) for row in found if row["distance"]]

    def chunk_counts(self, collection: Collection, tenant: str, vector_store_id: str) -> Mapping[str, int]:
        """See the port. Holds one page of rows at a time: a store may have millions."""
        expression = where(tenant, vector_store_ids=[vector_store_id])

        def count(client: Any, name: str, seconds: float) -> dict[str, int]:
            pages = _pages(client, name, expression, ["file_id"], seconds)
            return Counter(row["file_id"] for page in pages for row in page)

        return self._run(collection, count, otherwise={})

    def close(self) -> None:
        """Close the connection. Later calls open another."""
        self._connections.close()

    def _upsert(self, collection: Collection, rows: list[dict[str, Any]]) -> None:
        self._run(
            collection,
            lambda client, name, seconds: client.upsert(name, rows, timeout=seconds),
            otherwise=None,
            create=True,
        )

    def _delete(self, collection: Collection, expression: str) -> None:
        self._run(
            collection,
            lambda client, name, seconds: client.delete(name, filter=expression, timeout=seconds),
            otherwise=None,
        )

    def _rows(self, collection: Collection, expression: str, fields: list[str]) -> list[dict[str, Any]]:
        """All rows."""

        def read(client: Any, name: str, seconds: float) -> list[dict[str, Any]]:
            return [row for page in _pages(client, name, expression, fields, seconds) for row in page]

        return self._run(collection, read, otherwise=[])

    def _search(
        self,
        collection: Collection,
        expression: str | None,
        field: str,
        data: list[Any],
        limit: int,
        deadline: float | None,
    ) -> list[dict[str, Any]]:
        if expression is None:
            return []
        found: list[Any] = self._run(
            collection,
            lambda client, name, seconds: client.search(
                name,
                data=data,
                anns_field=field,
                filter=expression,
                limit=limit,
                output_fields=_HIT_FIELDS,
                search_params={},
                timeout=seconds,
            ),
            otherwise=[[]],
            deadline=deadline,
        )
        return list(found[0])

    def _run(
        self,
        collection: Collection,
        operation: Callable[[Any, str, float], T],
        *,
        otherwise: T,
        create: bool = False,
        deadline: float | None = None,
    ) -> T:
        """Call Milvus with client, name of the collection and seconds; `otherwise` if there is no such collection.

        Repeats it once if the collection was dropped or released since this client last used it, and if the server
        crashed and was started again at another address: all operations are idempotent.
        """
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        name = collection_name(collection)
        for last in (False, True):
            connection = self._connections.current(deadline)
            try:
                if not connection.open(name, collection, create=create, deadline=deadline):
                    return otherwise
                return operation(connection.client, name, connection.seconds(deadline))
            except (MilvusException, RpcError, ValueError) as error:
                connection.forget(name)
                if not connection.closed and (isinstance(error, ValueError) or _code(error) in _INVALID_REQUEST):
                    raise
                if not last and (_code(error) in _STALE or self._connections.has_moved(connection, deadline)):
                    continue
                raise VectorIndexUnavailable(f"The vector index did not answer: {error}") from error
        raise AssertionError("unreachable")


def collection_name(collection: Collection) -> str:
    """The name in Milvus: ids of models may have characters that names may not have."""
    return f"chunks_{collection.dimension}_{hashlib.sha256(collection.model.encode()).hexdigest()[:16]}"


def _pages(
    client: Any, name: str, expression: str, fields: list[str], seconds: float
) -> Iterator[list[dict[str, Any]]]:
    """All rows, in pages: Milvus limits one answer to 16,384."""
    pages = client.query_iterator(name, batch_size=_PAGE, filter=expression, output_fields=fields, timeout=seconds)
    with contextlib.closing(pages):
        while page := pages.next():
            yield page


def _code(error: Exception) -> int | None:
    """Milvus' code of an error; None for one of gRPC or of an argument."""
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _row(collection: Collection, tenant: str, chunk: Chunk) -> dict[str, Any]:
    ids = (chunk.id, chunk.vector_store_id, chunk.file_id)
    ids_in(tenant, ids)  # refuses ids that no expression could ask for
    if len(chunk.id) > 64:
        raise ValueError(f"The id of a chunk may have at most 64 characters, not {len(chunk.id)}.")
    if len(chunk.text.encode()) > _MAX_TEXT_BYTES:
        raise ValueError(f"The text of a chunk may have at most {_MAX_TEXT_BYTES} bytes.")
    return {
        "id": chunk.id,
        "tenant": tenant,
        "vector_store_id": chunk.vector_store_id,
        "file_id": chunk.file_id,
        "text": chunk.text,
        "vector": _checked_vector(collection, chunk.vector),
        "attributes": encoded_attributes(chunk.attributes),
    }


def _checked_vector(collection: Collection, vector: Sequence[float]) -> list[float]:
    values = list(vector)
    if len(values) != collection.dimension:
        raise ValueError(f"A vector of {collection.model} has {collection.dimension} numbers, not {len(values)}.")
    # A sum with NaN is NaN; the least and the greatest value may hide it.
    if not (min(values) >= -_MAX_FLOAT32 and max(values) <= _MAX_FLOAT32 and math.isfinite(sum(values))):
        raise ValueError("A vector must have finite numbers of 32 bits.")
    return values


def _search_expression(tenant: str, vector_store_ids: Sequence[str], filters: Filter | None, limit: int) -> str | None:
    """The expression of a search; None where there is no store to search."""
    if not 1 <= limit <= _MAX_HITS:
        raise ValueError(f"The limit of a search must be 1 to {_MAX_HITS}, not {limit}.")
    expression = where(tenant, vector_store_ids=vector_store_ids, filters=filters)
    return expression if vector_store_ids else None


def _slices(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in requests of bounded size."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        row_bytes = len(row["text"]) * 4 + len(row["vector"]) * 4
        if part and (len(part) == _SLICE_CHUNKS or size + row_bytes > _SLICE_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += row_bytes
    if part:
        yield part


def _hit(row: Mapping[str, Any], score: float) -> Hit:
    entity = row["entity"]
    if math.isnan(score):
        score = 0.0
    return Hit(row["id"], entity["vector_store_id"], entity["file_id"], entity["text"], float(score))
