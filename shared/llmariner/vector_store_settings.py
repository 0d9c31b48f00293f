"""Settings of vector stores."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_number

__all__ = ["VectorStoreSettings"]


@dataclass(frozen=True)
class VectorStoreSettings:
    """The embedding model of new vector stores, the rule for names, and limits."""

    embedding_model: str = "all-minilm-l6-v2"
    """`LLMARINER_EMBEDDING_MODEL`: the model that embeds the files of new vector stores; a store keeps its model."""

    unique_names: bool = False
    """`LLMARINER_VECTOR_STORE_UNIQUE_NAMES`: 1: a vector store needs a name that no other one of its project has."""

    stores_per_project: int = 1000
    """`LLMARINER_VECTOR_STORES_PER_PROJECT`: vector stores that a project may have."""

    files_per_store: int = 10_000
    """`LLMARINER_VECTOR_STORE_FILES`: files that a vector store may have."""

    @classmethod
    def load(cls, env: Environment) -> VectorStoreSettings:
        """Read from a mapping. Raises ValueError for an invalid value."""
        unique = env.get("LLMARINER_VECTOR_STORE_UNIQUE_NAMES", "") or "0"
        if unique not in ("0", "1"):
            raise ValueError(f"LLMARINER_VECTOR_STORE_UNIQUE_NAMES must be 0 or 1, not {unique!r}.")
        per_project, per_store = cls.stores_per_project, cls.files_per_store
        return cls(
            embedding_model=env.get("LLMARINER_EMBEDDING_MODEL", "") or cls.embedding_model,
            unique_names=unique == "1",
            stores_per_project=int(read_number(env, "LLMARINER_VECTOR_STORES_PER_PROJECT", per_project, minimum=1)),
            files_per_store=int(read_number(env, "LLMARINER_VECTOR_STORE_FILES", per_store, minimum=1)),
        )
