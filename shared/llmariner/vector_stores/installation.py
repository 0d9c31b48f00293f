"""The search of an installation's vector stores."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.inference_settings import InferenceSettings
from llmariner.platform.database import Database
from llmariner.platform.vectors import VectorIndex
from llmariner.vector_stores.embedder import Embedder
from llmariner.vector_stores.inference import InferenceClient
from llmariner.vector_stores.query import ModelRewriter
from llmariner.vector_stores.reranker import ModelReranker
from llmariner.vector_stores.search import VectorStoreSearch

__all__ = ["vector_store_search"]


def vector_store_search(
    env: Environment, database: Database, index: VectorIndex, client: InferenceClient
) -> VectorStoreSearch:
    """Search with the models that the environment names for rewritten queries and reranked results; none without them."""
    settings = InferenceSettings.load(env)
    rewriter = ModelRewriter(client, settings.rewrite_model) if settings.rewrite_model else None
    reranker = ModelReranker(client, settings.rerank_model) if settings.rerank_model else None
    return VectorStoreSearch(database, index, Embedder(client), rewriter=rewriter, reranker=reranker)
