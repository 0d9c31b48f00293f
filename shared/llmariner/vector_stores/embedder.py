"""Embeddings of texts, from the platform's own `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed

__all__ = ["Embedder", "batches"]

_MAX_TEXTS = 32
# Well below the limit of a request's body, and of a response with vectors of 8,192 dimensions.
_MAX_BATCH_BYTES = 512 * 1024
_MAX_DIMENSION = 32_768
"""Milvus' limit."""


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Slices of texts that fit into one request each. `sizes`: bytes of each text."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start >= _MAX_TEXTS or total + size > _MAX_BATCH_BYTES):
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


class Embedder:
    """Embeds texts with a model. Blocks; safe in any thread."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    def embed(
        self,
        model: str,
        originator: Originator,
        texts: Sequence[str],
        *,
        wait_seconds: float,
        deadline: float | None = None,
    ) -> list[Sequence[float]]:
        """The vector of each text, all of one dimension: one request for texts that `batches` made.

        `model`: its id in the registry. `wait_seconds`, `deadline`: as in `InferenceClient.call`. Raises InferencePaused,
        InferenceRefused, InferenceFailed.
        """
        # The id of a project's own model ends in the project; callers refer to it by its name.
        body = {"model": model.partition("@")[0], "input": list(texts), "encoding_format": "base64"}
        answer = self._client.call("embeddings", originator, body, wait_seconds=wait_seconds, deadline=deadline)
        vectors = [_vector(row) for row in _rows(answer, len(texts))]
        if len({len(vector) for vector in vectors}) != 1:
            raise InferenceFailed("The engine returned vectors of different dimensions.")
        return vectors


def _rows(answer: dict[str, Any], count: int) -> list[Any]:
    """The embeddings of an answer in the order of its inputs. An engine is not trusted to send them so."""
    try:
        by_index = {int(row["index"]): row["embedding"] for row in answer["data"]}
        return [by_index[index] for index in range(count)]
    except (KeyError, TypeError, ValueError) as error:
        raise InferenceFailed("The engine did not return one vector for each text.") from error


def _vector(embedding: Any) -> Sequence[float]:
    """A vector from base64 or a list of numbers. InferenceFailed unless it is finite and not zero."""
    vector = array("f")
    try:
        if isinstance(embedding, str):
            vector.frombytes(base64.b64decode(embedding, validate=True))
        else:
            vector.extend(embedding)
    except (binascii.Error, ValueError, TypeError, OverflowError) as error:
        raise InferenceFailed("The engine returned a vector that is none.") from error
    length = math.fsum(value * value for value in vector)
    if not 0 < len(vector) <= _MAX_DIMENSION or not math.isfinite(length) or length == 0:
        raise InferenceFailed("The engine returned a vector that is empty, zero or not finite.")
    return vector
