"""How a file is cut into chunks: OpenAI's chunking strategies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmariner.errors import InvalidRequest

__all__ = ["ChunkingStrategy"]

_PARAM = "chunking_strategy"
_MIN_SIZE, _MAX_SIZE = 100, 4096


@dataclass(frozen=True)
class ChunkingStrategy:
    """Sizes are in tokens of the embedding model.

    `automatic`: the sizes are upper bounds, which ingestion lowers to what the embedding model accepts.
    """

    max_chunk_size_tokens: int = 800
    chunk_overlap_tokens: int = 400
    automatic: bool = True

    @classmethod
    def static(cls, size: int, overlap: int, param: str = _PARAM) -> ChunkingStrategy:
        """The strategy `static`. InvalidRequest for a size outside 100 to 4096 or an overlap over half of the size."""
        if not _MIN_SIZE <= size <= _MAX_SIZE:
            field = f"{param}.static.max_chunk_size_tokens"
            raise InvalidRequest(f"'{field}' must be {_MIN_SIZE} to {_MAX_SIZE}, not {size}.", param=field)
        if not 0 <= overlap <= size // 2:
            field = f"{param}.static.chunk_overlap_tokens"
            raise InvalidRequest(f"'{field}' must be 0 to {size // 2}, half of the chunk size.", param=field)
        return cls(size, overlap, automatic=False)

    @classmethod
    def from_text(cls, text: str) -> ChunkingStrategy:
        """The strategy in a row of `vector_store_files`."""
        return cls(**json.loads(text))

    def to_text(self) -> str:
        """The form in a row of `vector_store_files`."""
        return json.dumps(self.__dict__)

    def to_api(self) -> dict[str, Any]:
        """OpenAI's object: `auto`, too, is shown with its sizes."""
        sizes = {
            "max_chunk_size_tokens": self.max_chunk_size_tokens,
            "chunk_overlap_tokens": self.chunk_overlap_tokens,
        }
        return {"type": "static", "static": sizes}
