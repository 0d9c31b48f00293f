"""The first answer of each packaged model: proves the setup, and fills vLLM's caches so that later wakes take seconds."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from llmariner.local.engine.environment import EngineEnvironment
from llmariner.local.engine.packages import PACKAGED
from llmariner.local.progress import Step

__all__ = ["rehearse"]

_SECONDS = 900
_REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
    "embed": ("/v1/embeddings", {"input": "Hello"}),
}


def rehearse(url: str, secret: str, engines: EngineEnvironment) -> None:
    """Ask each model once, then let it sleep; at once when that was done with this environment before."""
    for model in PACKAGED:
        mark = engines.folder / f"rehearsed-{model.id}-{model.sha256[:12]}"
        if mark.exists():
            continue
        path, body = _REQUESTS[model.task]
        with Step(f"first start of {model.id} (later ones take seconds)"):
            _post(url + path, secret, {"model": model.id, **body})
        _post(f"{url}/v1/models/{model.id}:deactivate", secret, {})
        mark.write_text("")


def _post(url: str, secret: str, body: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json", "prefer": f"wait={_SECONDS}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS + 10) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:2000]}") from error
