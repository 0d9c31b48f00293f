"""Vector stores over HTTP: the bodies of requests, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body
from llmariner.platform.vectors import AttributeValue
from llmariner.vector_stores.attributes import validate_attributes
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy
from llmariner.vector_stores.store import NewStoreFile, NewVectorStore

__all__ = ["AddFile", "AttributesBody", "CreateFileBatch", "CreateVectorStore", "UpdateVectorStore"]

# `validate_attributes` checks the values: errors of a union of types would name each of them.
_Attributes = dict[str, Any]


class _StaticChunking(Body):
    """The sizes of the strategy `static`, in tokens."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class _Chunking(Body):
    """A chunking strategy."""

    type: Literal["auto", "static"]
    static: _StaticChunking | None = None

    def strategy(self, param: str) -> ChunkingStrategy:
        """The strategy. InvalidRequest for sizes that are missing, out of range, or given for `auto`."""
        if self.type == "auto":
            if self.static is not None:
                raise InvalidRequest(f"'{param}.static' is for the type 'static'.", param=f"{param}.static")
            return ChunkingStrategy()
        if self.static is None:
            raise InvalidRequest(f"The type 'static' needs '{param}.static' with sizes.", param=f"{param}.static")
        return ChunkingStrategy.static(self.static.max_chunk_size_tokens, self.static.chunk_overlap_tokens, param)


class _ExpiresAfter(Body):
    """When a store expires."""

    anchor: Literal["last_active_at"]
    days: int


class CreateVectorStore(Body):
    """POST /v1/vector_stores."""

    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    expires_after: _ExpiresAfter | None = None
    file_ids: list[str] | None = None
    chunking_strategy: _Chunking | None = None
    embedding_model: str | None = Field(default=None, min_length=1, max_length=256)

    def to_new(self, embedding_model: str | None) -> NewVectorStore:
        """The store to create. `embedding_model`: the registry's id of the model of that name."""
        strategy = _strategy(self.chunking_strategy)
        return NewVectorStore(
            name=self.name or "",
            description=self.description or "",
            metadata=self.metadata or {},
            expires_after_days=None if self.expires_after is None else self.expires_after.days,
            embedding_model=embedding_model,
            files=[NewStoreFile(id_, chunking_strategy=strategy) for id_ in self.file_ids or ()],
        )


class UpdateVectorStore(Body):
    """POST /v1/vector_stores/{id}. Absent fields stay; null removes a value."""

    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    expires_after: _ExpiresAfter | None = None

    @property
    def change(self) -> dict[str, Any]:
        """The new values of the fields that are present."""
        values = {
            "name": self.name or "",
            "description": self.description or "",
            "metadata": self.metadata or {},
            "expires_after": None if self.expires_after is None else self.expires_after.days,
        }
        columns = {"expires_after": "expires_after_days"}
        return {columns.get(name, name): value for name, value in values.items() if name in self.model_fields_set}


class AddFile(Body):
    """POST of a file of a store, and one of `files` of a batch."""

    file_id: str
    attributes: _Attributes | None = None
    chunking_strategy: _Chunking | None = None

    def to_new(self, prefix: str = "") -> NewStoreFile:
        """The file to add. `prefix`: of the names of fields in errors."""
        strategy = _strategy(self.chunking_strategy, f"{prefix}chunking_strategy")
        return NewStoreFile(self.file_id, _attributes(self.attributes, f"{prefix}attributes"), strategy)


class AttributesBody(Body):
    """POST of attributes of a file; null removes them."""

    attributes: _Attributes | None


class CreateFileBatch(Body):
    """POST of a batch: `file_ids` with options for all of them, or `files` with options for each."""

    file_ids: list[str] | None = None
    files: list[AddFile] | None = None
    attributes: _Attributes | None = None
    chunking_strategy: _Chunking | None = None

    def to_new(self) -> Sequence[NewStoreFile]:
        """The files to add. InvalidRequest unless there is one of the two lists, and options of all only with `file_ids`."""
        if (self.file_ids is None) == (self.files is None):
            raise InvalidRequest("Name the files in either 'file_ids' or 'files'.", param="file_ids")
        if self.files is None:
            strategy, attributes = _strategy(self.chunking_strategy), _attributes(self.attributes)
            return [NewStoreFile(id_, attributes, strategy) for id_ in self.file_ids or ()]
        for name in ("attributes", "chunking_strategy"):
            if getattr(self, name) is not None:
                raise InvalidRequest(
                    f"'{name}' is for all of 'file_ids'. With 'files', give each of them its own.", param=name
                )
        return [each.to_new(f"files.{index}.") for index, each in enumerate(self.files)]


def _strategy(body: _Chunking | None, param: str = "chunking_strategy") -> ChunkingStrategy:
    return ChunkingStrategy() if body is None else body.strategy(param)


def _attributes(sent: _Attributes | None, param: str = "attributes") -> dict[str, AttributeValue]:
    return validate_attributes(sent or {}, param)
