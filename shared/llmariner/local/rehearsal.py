"""The first answer of each packaged model: proves that engines on this machine compute what they should, and fills vLLM's
caches so that later wakes take seconds."""

from __future__ import annotations

import math
import urllib.error
from typing import Any

from llmariner.local import loopback
from llmariner.local.engine.environment import EngineEnvironment
from llmariner.local.engine.packages import PACKAGED, PackagedModel
from llmariner.local.progress import Step

__all__ = ["ANSWER", "rehearse", "wrong_answer"]

_FIRST_SECONDS = 900.0
"""For an engine's first start, which compiles and fills caches."""

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
"""Of the packaged chat model to the question asked here, at temperature 0."""

_LIKE, _UNLIKE = ("A cat sleeps on the sofa.", "A kitten naps on the couch."), "The parliament passed the budget."


def rehearse(url: str, secret: str, engines: EngineEnvironment) -> list[str]:
    """Ask each model once, then let it sleep; at once when that was done with this environment before.

    Returns a line for each model whose answer was not the expected one; it is asked again at the next start.
    """
    wrong = []
    for model in PACKAGED:
        mark = engines.folder / f"rehearsed-{model.key}"
        if mark.exists():
            continue
        with Step(f"first start of {model.id} (later ones take seconds)"):
            complaint = wrong_answer(url, secret, model, seconds=_FIRST_SECONDS)
        loopback.post(f"{url}/v1/models/{model.id}:deactivate", secret, {}, seconds=60)
        if complaint is None:
            mark.write_text("")
        else:
            wrong.append(f"{model.id}: {complaint}")
    return wrong


def wrong_answer(url: str, secret: str, model: PackagedModel, *, seconds: float) -> str | None:
    """Ask a model what has one answer on every processor; what is wrong with its answer, or None.

    OSError when it gives none.
    """
    try:
        if model.task == "embed":
            body: dict[str, Any] = {"model": model.id, "input": [*_LIKE, _UNLIKE]}
            return _wrong_vectors(loopback.post(f"{url}/v1/embeddings", secret, body, seconds=seconds))
        body = {"model": model.id, "temperature": 0, "max_tokens": 24}
        body["messages"] = [{"role": "user", "content": QUESTION}]
        return _wrong_text(loopback.post(f"{url}/v1/chat/completions", secret, body, seconds=seconds))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:2000]
        raise OSError(f"{model.id} answered {error.code}: {said} See `llma logs {model.id}`.") from error


def _wrong_text(answer: dict[str, Any]) -> str | None:
    said = answer["choices"][0]["message"]["content"]
    return None if said == ANSWER else f"to {QUESTION!r} it says {said!r} where {ANSWER!r} is expected"


def _wrong_vectors(answer: dict[str, Any]) -> str | None:
    cat, kitten, budget = (row["embedding"] for row in answer["data"])
    alike, unlike = _cosine(cat, kitten), _cosine(cat, budget)
    if alike > 0.5 > 0.3 > unlike:
        return None
    return f"sentences of like meaning are {alike:.2f} alike, of unlike meaning {unlike:.2f}"


def _cosine(one: list[float], other: list[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else math.nan
