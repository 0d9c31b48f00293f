"""How functions call each other for the platform's own work, such as embeddings of documents and the tool `file_search`."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_http_url

__all__ = ["InferenceSettings"]


@dataclass(frozen=True)
class InferenceSettings:
    """The address of the token path, and the models that the platform itself uses."""

    url: str = ""
    """`LLMARINER_INFERENCE_URL`: base URL of the functions. `{function}` in it becomes the name of the called function,
    since each has an address of its own on a cluster. Standalone mode sets its own address."""

    rewrite_model: str = ""
    """`LLMARINER_REWRITE_MODEL`: the chat model that rewrites queries of vector stores. Empty: words that carry no meaning
    are removed instead."""

    rerank_model: str = ""
    """`LLMARINER_RERANK_MODEL`: the model that sorts the first results of searches in vector stores. Empty: their order is
    that of the fusion of both halves."""

    @classmethod
    def load(cls, env: Environment) -> InferenceSettings:
        """Read from a mapping. Raises ValueError if the URL is not an HTTP URL."""
        url = read_http_url(env, "LLMARINER_INFERENCE_URL")
        if url.startswith("https://"):
            raise ValueError(
                "LLMARINER_INFERENCE_URL must be an http:// URL: functions call each other in the cluster."
            )
        return cls(url, env.get("LLMARINER_REWRITE_MODEL", ""), env.get("LLMARINER_RERANK_MODEL", ""))
