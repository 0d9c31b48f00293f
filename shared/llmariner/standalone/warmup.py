"""The first request to each packaged model.

It checks that engines on this machine compute correctly, and fills vLLM's caches so that later wakes take seconds.
"""

from __future__ import annotations

import urllib.error

from llmariner.standalone import local_http
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel
from llmariner.standalone.progress import Step

__all__ = ["answer_mismatch", "warm_up"]

_FIRST_START_SECONDS = 900.0
"""Covers an engine's first start, which compiles and fills caches."""


def warm_up(url: str, secret: str, engines: EngineEnvironment) -> list[str]:
    """Send one request to each model, then put it to sleep; models that passed in this environment are skipped.

    Returns a line for each model with an unexpected answer, which is checked again at the next start.
    """
    mismatches = []
    for model in PACKAGED:
        mark = engines.folder / f"rehearsed-{model.key}"
        if mark.exists():
            continue
        with Step(f"first start of {model.id} (later ones take seconds)"):
            mismatch = answer_mismatch(url, secret, model, seconds=_FIRST_START_SECONDS)
        local_http.post(f"{url}/v1/models/{model.id}:deactivate", secret, {}, seconds=60)
        if mismatch is None:
            mark.write_text("")
        else:
            mismatches.append(f"{model.id}: {mismatch}")
    return mismatches


def answer_mismatch(url: str, secret: str, model: PackagedModel, *, seconds: float) -> str | None:
    """Send a model its expected question; returns how the answer differs, or None.

    Raises OSError without an answer.
    """
    expected = model.expected
    body = {"model": model.id, **expected.body()}
    try:
        return expected.mismatch(local_http.post(f"{url}{expected.path}", secret, body, seconds=seconds))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:2000]
        raise OSError(f"{model.id} answered {error.code}: {said} See `llma logs {model.id}`.") from error
