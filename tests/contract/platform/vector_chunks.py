"""Chunks of files for the tests of the vector index."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence

from llmariner.platform.vectors import AttributeValue, Chunk, Collection

__all__ = ["COLLECTION", "STORE", "chunk", "new_tenant", "unit_vector"]

COLLECTION = Collection("test/embedding", 8)
STORE = "vs_1"


def new_tenant() -> str:
    """A project of one test alone."""
    return f"proj_{uuid.uuid4().hex}"


def unit_vector(position: int) -> list[float]:
    """The vector whose cosine with each other one is 0."""
    return [1.0 if index == position else 0.0 for index in range(COLLECTION.dimension)]


def chunk(
    text: str = "",
    *,
    vector: Sequence[float] | None = None,
    file: str = "file-1",
    store: str = STORE,
    attributes: Mapping[str, AttributeValue] | None = None,
    id_: str | None = None,
) -> Chunk:
    """A chunk with a new id and, if none is given, any vector."""
    if vector is None:
        source = random.Random(text)
        vector = [source.gauss(0, 1) for _ in range(COLLECTION.dimension)]
    return Chunk(id_ or f"vsf_{uuid.uuid4().hex}-0", store, file, text or "any", vector, attributes or {})
