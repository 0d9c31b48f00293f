"""What the scripted engine answers without generating: vectors, token ids, its models."""

from __future__ import annotations

import base64
import struct
from typing import Any

from engines.engine import Engine
from engines.generation import message_text, prompt_length

MAX_MODEL_LEN = 8192


def embeddings(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    """Vectors that depend on the words alone, so that equal texts are equal and a search can be tested; none is zero."""
    given = body["input"]
    many = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    size, rows, used = int(body.get("dimensions") or 8), [], 0
    for index, one in enumerate(many):
        ids = engine.vocabulary.encode(one) if isinstance(one, str) else one
        vector: Any = [((sum(ids) + 1) * (axis + 1) % 17 + 1) / 17 for axis in range(size)]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        used += len(ids)
        rows.append({"index": index, "object": "embedding", "embedding": vector})
    engine.prompt_tokens += used
    usage = {
        "prompt_tokens": used,
        "total_tokens": used,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    return {"object": "list", "model": engine.resolve(body), "data": rows, "usage": usage}


def rerank(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    """Documents by the share of the query's words that they have. The model reads the query with each of them."""
    query = engine.vocabulary.encode(body["query"])
    rows: list[dict[str, Any]] = []
    used = 0
    for index, document in enumerate(body["documents"]):
        text = document if isinstance(document, str) else document["text"]
        ids = engine.vocabulary.encode(text)
        used += len(query) + len(ids)
        score = len(set(query) & set(ids)) / max(len(set(query)), 1)
        rows.append({"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": score})
    engine.prompt_tokens += used
    rows.sort(key=lambda row: -row["relevance_score"])
    usage = {"prompt_tokens": used, "total_tokens": used}
    count = body.get("top_n") or len(rows)
    return {"id": "score-1", "model": engine.resolve(body), "usage": usage, "results": rows[:count]}


def tokenize(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    text = body["prompt"] if "prompt" in body else message_text(body["messages"])
    ids = engine.vocabulary.encode(text)
    count = len(ids) if "prompt" in body else prompt_length(body, engine.options.template_tokens)
    return {"count": count, "max_model_len": MAX_MODEL_LEN, "tokens": ids, "token_strs": None}


def detokenize(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": engine.vocabulary.decode(body["tokens"])}


def list_models(engine: Engine, _: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"id": name, "object": "model", "created": engine.created, "owned_by": "vllm", "root": name}
        | {"parent": None, "max_model_len": MAX_MODEL_LEN}
        for name in engine.options.models or ("scripted",)
    ]
    return {"object": "list", "data": rows}
