"""The floor for vector stores: pymilvus on a Milvus Lite in this process, with the platform's schema and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmariner.platform.vectors import Collection
from llmariner.platform.vectors.schema import INDEXED_FIELDS, index_parameters, schema

_NAME, _AT_ONCE, _CANDIDATES = "chunks", 512, 40


class BareMilvus:
    """One collection with one tenant and one vector store. `embed` returns the vectors of texts."""

    def __init__(
        self, folder: Path, dimension: int, embed: Callable[[Sequence[str]], Sequence[Sequence[float]]]
    ) -> None:
        from pymilvus import MilvusClient

        self._embed = embed
        self._count = 0
        self._client = MilvusClient(str(folder / "bare.db"))
        self._client.create_collection(_NAME, schema=schema(Collection("bare", dimension)), consistency_level="Strong")
        for field in INDEXED_FIELDS:
            self._client.create_index(_NAME, index_parameters(field, "FLAT"))
        self._client.load_collection(_NAME)

    def add(self, texts: Sequence[str]) -> float:
        """Write rows, as many at once as the platform does."""
        vectors = self._embed(texts)
        began = time.perf_counter()
        for start in range(0, len(texts), _AT_ONCE):
            rows = [
                self._row(self._count + number, texts[number], list(vectors[number]))
                for number in range(start, min(start + _AT_ONCE, len(texts)))
            ]
            self._client.upsert(_NAME, rows)
        self._count += len(texts)
        return time.perf_counter() - began

    def settle(self) -> None:
        """Sort what was written into files: Milvus Lite searches what it holds in memory much slower."""
        self._client.flush(_NAME)

    def search(self, text: str) -> int:
        """One hybrid search within the tenant and the store."""
        from pymilvus import AnnSearchRequest, RRFRanker

        where = 'tenant == "proj_1" and vector_store_id in ["vs_1"]'
        [vector] = self._embed([text])
        requests = [
            AnnSearchRequest([list(vector)], "vector", {}, _CANDIDATES, expr=where),
            AnnSearchRequest([text], "words", {}, _CANDIDATES, expr=where),
        ]
        fields = ["vector_store_id", "file_id", "text"]
        [found] = self._client.hybrid_search(_NAME, requests, RRFRanker(), limit=10, output_fields=fields)
        return len(found)

    def close(self) -> None:
        """Close the database."""
        self._client.close()

    def _row(self, number: int, text: str, vector: list[float]) -> dict[str, Any]:
        place = {"tenant": "proj_1", "vector_store_id": "vs_1", "file_id": f"file_{number // 1000}"}
        return {"id": f"chunk_{number}", **place, "text": text, "vector": vector, "attributes": {}}
