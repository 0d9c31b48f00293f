"""The schema of a collection in Milvus. All collections have the same fields but for the dimension of the vector."""

from __future__ import annotations

from typing import Any

from llmariner.platform.vectors import Collection

__all__ = ["INDEXED_FIELDS", "index_parameters", "schema"]

INDEXED_FIELDS = ("vector", "words")
"""Every field with vectors needs an index before the collection can be loaded."""

_MAX_ID_BYTES = 128
_MAX_TEXT_BYTES = 65_535


def schema(collection: Collection) -> Any:
    """A CollectionSchema of pymilvus. `words` is a sparse vector that Milvus computes of `text` (BM25)."""
    from pymilvus import CollectionSchema, DataType, FieldSchema, Function, FunctionType

    def text(name: str, **options: Any) -> FieldSchema:
        return FieldSchema(name, DataType.VARCHAR, **{"max_length": _MAX_ID_BYTES, **options})

    fields = [
        text("id", is_primary=True),
        text("tenant", is_partition_key=True),
        text("vector_store_id"),
        text("file_id"),
        text("text", max_length=_MAX_TEXT_BYTES, enable_analyzer=True, analyzer_params={"type": "standard"}),
        FieldSchema("words", DataType.SPARSE_FLOAT_VECTOR),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=collection.dimension),
        FieldSchema("attributes", DataType.JSON),
    ]
    bm25 = Function("bm25", FunctionType.BM25, input_field_names=["text"], output_field_names=["words"])
    return CollectionSchema(fields, description=collection.model, functions=[bm25])


def index_parameters(field: str, vector_index_type: str) -> Any:
    """An IndexParams of pymilvus for one of INDEXED_FIELDS."""
    from pymilvus.milvus_client import IndexParams

    parameters = IndexParams()
    if field == "vector":
        parameters.add_index(field, vector_index_type, index_name=field, metric_type="COSINE")
    else:
        parameters.add_index(field, "SPARSE_INVERTED_INDEX", index_name=field, metric_type="BM25")
    return parameters
