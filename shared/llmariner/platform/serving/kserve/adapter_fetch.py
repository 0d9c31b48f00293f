"""The first container of an engine's pod, which fetches adapters that jobs made, and where the engine finds them.

KServe's storage initializer would need a credential of the platform's store: this one has a token per adapter, in a Secret
(`adapter_secret`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmariner.platform.serving import OWN_FILE_SCHEME, EngineModel
from llmariner.settings import KServeSettings

__all__ = [
    "FETCH_CONTAINER",
    "TOKENS_KEY",
    "TOKENS_VOLUME",
    "AdapterParts",
    "adapter_parts",
    "adapter_path",
    "adapter_tokens",
    "is_own_file",
    "secret_name",
]

Body = dict[str, Any]

FETCH_CONTAINER = "adapters"
TOKENS_VOLUME, TOKENS_KEY = "adapter-tokens", "tokens"
"""The volume of the Secret, and its key: JSON of `adapter_tokens`."""
_VOLUME = "adapters"
_ADAPTER_PATH, _OWN_PATH = "/mnt/adapters", "/mnt/tuned"
_TOKENS_PATH = "/run/llmariner-adapters"
_MAX_BYTES = 8 << 30
_FETCH = """\
import json, os, sys, time, urllib.error, urllib.request
url = os.environ["ADAPTERS_URL"]
def fetch(path, name, token):
    request = urllib.request.Request(f"{url}/{name}", headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer, open(f"{path}/{name}", "wb") as file:
        while part := answer.read(1 << 20):
            file.write(part)
        size = answer.headers.get("content-length")
    if size is not None and os.path.getsize(f"{path}/{name}") != int(size):
        raise ConnectionError("The answer was cut off.")
with open(os.environ["ADAPTERS_FILE"], "rb") as file:
    adapters = json.load(file)
for path, token in adapters:
    os.makedirs(path, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        for attempt in range(8):
            try:
                fetch(path, name, token)
                break
            except (OSError, ValueError) as error:
                said = error.read(2000).decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else error
                print(f"{name}: {said}", file=sys.stderr)
                refused = isinstance(error, urllib.error.HTTPError) and error.code in (401, 404, 409)
                if refused or attempt == 7:
                    sys.exit(1)
                time.sleep(2 ** min(attempt, 4))
"""


@dataclass(frozen=True)
class AdapterParts:
    """Fields of a predictor, and mounts of its engine."""

    fields: Body = field(default_factory=dict)
    volumes: list[Body] = field(default_factory=list)
    mounts: list[Body] = field(default_factory=list)


def is_own_file(adapter: EngineModel) -> bool:
    """Whether a job of the platform made the adapter."""
    return adapter.folder.startswith(OWN_FILE_SCHEME)


def adapter_path(adapter: EngineModel) -> str:
    """The path of a LoRA adapter in its engine's pod."""
    parent = _OWN_PATH if is_own_file(adapter) else _ADAPTER_PATH
    return f"{parent}/{hashlib.sha256(adapter.id.encode()).hexdigest()[:12]}"


def adapter_tokens(adapters: Sequence[EngineModel]) -> list[tuple[str, str]]:
    """The path and the token of each adapter among these that a job made."""
    return [(adapter_path(each), each.weights_token) for each in adapters if is_own_file(each)]


def secret_name(service: str, adapters: Sequence[EngineModel]) -> str:
    """The name of the Secret with these tokens, of the InferenceService of that name: another one for other tokens."""
    digest = hashlib.sha256(json.dumps(adapter_tokens(adapters)).encode()).hexdigest()
    return f"{service}-adapters-{digest[:16]}"


def adapter_parts(service: str, adapters: Sequence[EngineModel], settings: KServeSettings) -> AdapterParts:
    """What fetches the adapters among these that jobs made, for the InferenceService of that name.

    Raises ValueError where the installation has no image for it.
    """
    if not adapter_tokens(adapters):
        return AdapterParts()
    if not settings.adapter_image:
        raise ValueError("Tuned models need an image that fetches them: set LLMARINER_TRAINING_IMAGE.")
    mount = {"name": _VOLUME, "mountPath": _OWN_PATH}
    resources = {"cpu": "100m", "memory": "128Mi"}
    container = {
        "name": FETCH_CONTAINER,
        "image": settings.adapter_image,
        "command": ["python3", "-c", _FETCH],
        "env": [
            {"name": "ADAPTERS_URL", "value": settings.adapter_url},
            {"name": "ADAPTERS_FILE", "value": f"{_TOKENS_PATH}/{TOKENS_KEY}"},
        ],
        "resources": {"requests": resources, "limits": resources},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [mount, {"name": TOKENS_VOLUME, "mountPath": _TOKENS_PATH, "readOnly": True}],
    }
    volumes: list[Body] = [
        {"name": _VOLUME, "emptyDir": {"sizeLimit": str(_MAX_BYTES)}},
        {"name": TOKENS_VOLUME, "secret": {"secretName": secret_name(service, adapters)}},
    ]
    return AdapterParts({"initContainers": [container]}, volumes, [{**mount, "readOnly": True}])
