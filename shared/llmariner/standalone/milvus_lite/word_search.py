"""Search by words (BM25) in Milvus Lite, with frequencies of the rows that a search may see, and of no others.

Milvus Lite takes the frequencies from each of its files alone. So the order of writes decided on ranks, and so did the rows
of other tenants in the same files; scores revealed how often other tenants use a word.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from milvus_lite.analyzer.sparse import bytes_to_sparse
from milvus_lite.constants import ALL_PARTITIONS
from milvus_lite.engine.collection import Collection
from milvus_lite.engine.projection import build_projection_plan, project_record
from milvus_lite.index.sparse_factory import create_sparse_index, sparse_index_matches
from milvus_lite.search import filter as milvus_filters
from milvus_lite.search.indexed_filter import evaluate_segment_filter

__all__ = ["install"]

_original = Collection._search_sparse


@dataclass(frozen=True)
class _Source:
    """A file of a collection, or what is in memory. `postings`: rows and counts of a word; `lengths`: words of each row."""

    ids: Sequence[str]
    visible: Sequence[bool]
    postings: Mapping[int, Sequence[tuple[int, float]]]
    lengths: Sequence[float]
    record: Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class _Search:
    """The search in a field of a collection. `expression`: the condition of rows that may be found; None: all."""

    collection: Any
    field: str
    partitions: Sequence[str] | None
    expression: str | None
    timezone: str | None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the field's index."""
        spec = self.collection._index_specs.get(self.field)
        return spec.build_params if spec else {}

    def sources(self) -> Iterator[_Source]:
        """Files and memory with rows that this search may see."""
        collection = self.collection
        compiled = (
            collection._compile_filter(self.expression, timezone=self.timezone) if self.expression is not None else None
        )
        files, deletions = collection._read_snapshot()
        pending = collection._memtable.delete_index_snapshot()
        newest = _newest(files, collection._memtable)

        def is_current(id_: str, sequence: int, partition: str) -> bool:
            if newest.get(id_, -1) > sequence or deletions.is_deleted(id_, sequence):
                return False
            deleted = pending.get(id_)
            return deleted is None or deleted[0] <= sequence or deleted[1] not in (ALL_PARTITIONS, partition)

        plan = collection._indexed_filter_plan(compiled)
        for file in files:
            if not file.num_rows or (self.partitions is not None and file.partition not in self.partitions):
                continue
            visible = np.ones(file.num_rows, dtype=bool)
            if compiled is not None:
                visible &= evaluate_segment_filter(file, compiled, plan)
            for row in np.flatnonzero(visible).tolist():
                visible[row] = is_current(file.pks[row], int(file.seqs[row]), file.partition)
            if visible.any():
                index = self._index_of(file)
                lengths = index._doc_lengths.tolist()
                yield _Source(file.pks, visible.tolist(), index._posting_lists, lengths, file.row_to_dict)
        yield from self._memory(compiled, deletions, newest)

    def _index_of(self, file: Any) -> Any:
        """The index of a file's words, which is kept with the file."""
        index = file.sparse_indexes.get(self.field)
        if not sparse_index_matches(index, "BM25", self.parameters):
            index = create_sparse_index("BM25", self.parameters)
            index.build([_words(value) for value in file.table.column(self.field).to_pylist()])
            file.sparse_indexes[self.field] = index
        return index

    def _memory(self, compiled: Any, deletions: Any, newest: Mapping[str, int]) -> Iterator[_Source]:
        partitions = None if self.partitions is None else list(self.partitions)
        rows = [
            (id_, record)
            for id_, sequence, record in self.collection._memtable.active_record_snapshots(partition_names=partitions)
            if newest.get(id_, -1) <= sequence and not deletions.is_deleted(id_, sequence)
        ]
        if rows and compiled is not None:
            read = pa.Table.from_pylist([{name: record.get(name) for name in compiled.fields} for _, record in rows])
            rows = list(compress(rows, milvus_filters.evaluate_mask(compiled, read)))
        if rows:
            index = create_sparse_index("BM25", self.parameters)
            index.build([_words(record.get(self.field)) for _, record in rows])
            ids, visible, lengths = [id_ for id_, _ in rows], [True] * len(rows), index._doc_lengths.tolist()
            yield _Source(ids, visible, index._posting_lists, lengths, lambda row: dict(rows[row][1]))


def install() -> None:
    """Let all collections of this process search by words this way."""
    Collection._search_sparse = _search_sparse


def _search_sparse(
    collection: Any,
    query_vectors: list[Any],
    vector_field: str,
    top_k: int,
    metric_type: str,
    partition_names: list[str] | None,
    expr: str | None,
    output_fields: list[str] | None,
    timezone: str | None = None,
) -> list[list[dict[str, Any]]]:
    """In place of Milvus Lite's own; its arguments and results. Hits of one score are in the order of their ids."""
    if metric_type != "BM25":
        options = (metric_type, partition_names, expr, output_fields, timezone)
        found: list[list[dict[str, Any]]] = _original(collection, query_vectors, vector_field, top_k, *options)
        return found
    queries = collection._prepare_sparse_queries(query_vectors, vector_field)
    search = _Search(collection, vector_field, partition_names, expr or None, timezone)
    sources = list(search.sources())
    plan = build_projection_plan(output_fields, collection._schema, api_kind="search")
    k1, b = (float(search.parameters.get(name, default)) for name, default in (("bm25_k1", 1.5), ("bm25_b", 0.75)))
    return [
        [
            {"id": id_, "distance": distance, "entity": project_record(source.record(row), collection._schema, plan)}
            for distance, id_, source, row in _best(sources, query, top_k, k1, b)
        ]
        for query in queries
    ]


def _best(
    sources: Sequence[_Source], query: Mapping[int, float], limit: int, k1: float, b: float
) -> list[tuple[float, str, _Source, int]]:
    """The best rows: distance (the negative score), id, and where the row is."""
    count = sum(sum(source.visible) for source in sources)
    average = sum(sum(compress(source.lengths, source.visible)) for source in sources) / (count or 1) or 1.0
    scores: list[dict[int, float]] = [{} for _ in sources]
    for word, weight in query.items():
        postings = [
            [(row, times) for row, times in source.postings.get(word, ()) if source.visible[row]] for source in sources
        ]
        rows = sum(len(each) for each in postings)
        rarity = math.log((count - rows + 0.5) / (rows + 0.5) + 1.0)
        for source, found, of_rows in zip(sources, postings, scores, strict=True):
            for row, times in found:
                saturation = times + k1 * (1.0 - b + b * source.lengths[row] / average)
                of_rows[row] = of_rows.get(row, 0.0) + weight * rarity * times * (k1 + 1.0) / saturation
    hits = (
        (-score, source.ids[row], source, row)
        for source, of_rows in zip(sources, scores, strict=True)
        for row, score in of_rows.items()
    )
    return heapq.nsmallest(limit, hits, key=lambda hit: hit[:2])


def _newest(files: Sequence[Any], memory: Any) -> dict[str, int]:
    """The sequence number of the newest version of each row."""
    newest: dict[str, int] = {}
    for file in files:
        for id_, sequence in zip(file.pks, file.seqs.tolist(), strict=True):
            if newest.get(id_, -1) < sequence:
                newest[id_] = sequence
    for id_, (_, _, sequence) in memory.pk_index_snapshot():
        newest[id_] = max(sequence, newest.get(id_, -1))
    return newest


def _words(value: Any) -> dict[int, float]:
    """A sparse vector, as it is stored."""
    words: dict[int, float] = bytes_to_sparse(value) if isinstance(value, bytes) else value or {}
    return words
