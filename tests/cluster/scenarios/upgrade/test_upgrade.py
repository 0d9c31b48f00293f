"""Upgrade to the next revision of the manifests and rollback, with data; and the objects that a removal would leave."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import get, kubectl
from ...platform.installed import Installed
from ...platform.overlay import over, write
from ..functions import Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_NAMESPACES = (NAMESPACE, MODELS_NAMESPACE, "llmariner-gateway")


def test_upgrade_and_rollback_keep_the_data(installed: Installed) -> None:
    functions, lab = Functions(installed), installed.lab
    name = f"upgrade-{uuid.uuid4().hex[:6]}"
    key = installed.call("POST", "/api_keys", {"name": name})[1]["id"]
    folder = min((StandaloneSettings.load(environment()).cache / "models").iterdir()).name
    installed.register(name, folder)
    before, data = _revisions(functions), _data(installed, name, key)
    now, later = write(lab.folder / "overlay"), _next(lab.folder)
    try:
        print(f"\nup after {_apply(installed, later):.0f} s")
        upgraded = _revisions(functions)
        assert all(upgraded[each] != before[each] for each in before)
        assert _setting(installed) == "7"
        assert _data(installed, name, key) == data
    finally:
        print(f"and down after {_apply(installed, now):.0f} s")
        after = _data(installed, name, key)
        installed.call("DELETE", f"/models/{name}")
        installed.call("DELETE", f"/api_keys/{key}")
    assert _revisions(functions).keys() == before.keys()
    assert _setting(installed) is None
    assert after == data


def test_removal_lists_every_existing_object(installed: Installed) -> None:
    """A dry run: what `kubectl delete -k` names, and what goes because its owner or its namespace does, is all there is."""
    lab = installed.lab
    overlay = write(lab.folder / "overlay")
    said = kubectl(lab, "delete", "--dry-run=server", "--ignore-not-found", "-o", "name", "-k", overlay, seconds=300)
    named = {line.split(" ")[0] for line in said.split("\n") if line}
    kinds = kubectl(lab, "api-resources", "--verbs=list", "--namespaced=false", "-o", "name").split()
    cluster_wide = kubectl(
        lab, "get", ",".join(kinds), "-l", "app.kubernetes.io/part-of=llmariner", "-o", "name", "--ignore-not-found"
    )
    left = {line for line in cluster_wide.split("\n") if line} - named
    assert {f"namespace/{each}" for each in _NAMESPACES} <= named
    assert not left, f"of no namespace, and not deleted with the overlay: {sorted(left)}"
    print(f"\n{len(named)} objects are named; all others are in {', '.join(_NAMESPACES)}, which go with them")


def _next(folder: Path) -> Path:
    """The next revision of the manifests: every function's template and one setting differ."""
    path = "/spec/template/metadata/annotations/llmariner.ai~1revision"
    patch = json.dumps([{"op": "add", "path": path, "value": "next"}])
    setting = {"name": "llmariner-settings", "namespace": NAMESPACE, "behavior": "merge"}
    return over(
        folder,
        "overlay-next",
        configMapGenerator=[
            {**setting, "literals": ["LLMARINER_ENGINE_THREADS=7"], "options": {"disableNameSuffixHash": True}}
        ],
        patches=[{"target": {"group": "serving.knative.dev", "kind": "Service"}, "patch": patch}],
    )


def _apply(installed: Installed, overlay: Path) -> float:
    """As an operator does; seconds until every function is ready in its newest revision."""
    began = time.monotonic()
    kubectl(installed.lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    functions = Functions(installed)
    for name in functions.services():
        functions.ready(name, seconds=300)
    return time.monotonic() - began


def _revisions(functions: Functions) -> dict[str, str]:
    return {name: each["status"]["latestReadyRevisionName"] for name, each in functions.services().items()}


def _setting(installed: Installed) -> str | None:
    data: dict[str, str] = get(installed.lab, "configmap", "llmariner-settings", "-n", NAMESPACE)["data"]
    return data.get("LLMARINER_ENGINE_THREADS")


def _data(installed: Installed, model: str, key: str) -> dict[str, Any]:
    """The objects that a user created, as the API returns them."""
    status, found = installed.call("GET", f"/models/{model}")
    assert status == 200, found
    status, keys = installed.call("GET", "/api_keys")
    assert status == 200, keys
    return {"model": found, "keys": [each for each in keys["data"] if each["id"] == key]}
