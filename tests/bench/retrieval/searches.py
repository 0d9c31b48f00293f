"""A vector store of the documents on a running platform, and searches in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..environments import UnavailableError
from ..measures.model_wake import Service

__all__ = ["MODES", "search", "store_of"]

MODES: Mapping[str, Mapping[str, Any]] = {
    "dense": {"ranking_options": {"ranker": "none"}},
    "BM25": {"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}},
    "hybrid": {},
    "hybrid, rewritten": {"rewrite_query": True},
}
"""How the platform is asked to search. `hybrid` is its default."""

_INGEST_SECONDS = 1800
_DEPTH = 10


@contextmanager
def store_of(service: Service, documents: Mapping[str, str]) -> Iterator[str]:
    """The id of a vector store with these documents, in chunks of the default size. It and its files are deleted."""
    files: list[str] = []
    store = str(service.call("POST", "/v1/vector_stores", {"name": f"search quality {secrets.token_hex(4)}"})["id"])
    try:
        files.extend(_upload(service, name, text) for name, text in documents.items())
        batch = service.call("POST", f"/v1/vector_stores/{store}/file_batches", {"file_ids": files})
        _wait(service, f"/v1/vector_stores/{store}/file_batches/{batch['id']}")
        yield store
    finally:
        service.call("DELETE", f"/v1/vector_stores/{store}")
        for file in files:
            service.call("DELETE", f"/v1/files/{file}")


def search(service: Service, store: str, text: str, mode: str) -> list[dict[str, Any]]:
    """The first ten results in one of MODES."""
    body = {"query": text, "max_num_results": _DEPTH, **MODES[mode]}
    return list(service.call("POST", f"/v1/vector_stores/{store}/search", body)["data"])


def _upload(service: Service, name: str, text: str) -> str:
    mark = secrets.token_hex(16)
    head = 'content-disposition: form-data; name="'
    parts = [f'{head}purpose"\r\n\r\nassistants', f'{head}file"; filename="{name}"\r\n\r\n{text}']
    form = "".join(f"--{mark}\r\n{part}\r\n" for part in parts) + f"--{mark}--\r\n"
    return str(service.send("POST", "/v1/files", form.encode(), f"multipart/form-data; boundary={mark}")["id"])


def _wait(service: Service, batch: str) -> None:
    deadline = time.monotonic() + _INGEST_SECONDS
    while (now := service.call("GET", batch))["status"] == "in_progress":
        if time.monotonic() > deadline:
            raise UnavailableError(f"the documents are not ingested {_INGEST_SECONDS} s later: {now['file_counts']}")
        time.sleep(2)
    if now["file_counts"]["completed"] != now["file_counts"]["total"]:
        raise UnavailableError(f"not all documents were ingested: {now['file_counts']}")
