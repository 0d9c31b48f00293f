"""kubectl, as installed with the development tools, against the test cluster."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .places import Lab
from .wait import LabError, run

__all__ = ["apply", "get", "kubectl", "kustomize"]


def kubectl(lab: Lab, *words: object, text: str | None = None, seconds: float = 120) -> str:
    """Run kubectl as the administrator and give its output."""
    return run(_program(), f"--kubeconfig={lab.kubeconfig}", f"--cache-dir={lab.folder}/kubectl", *words, text=text,
               seconds=seconds)  # fmt: skip


def apply(lab: Lab, objects: Iterable[dict[str, Any]]) -> None:
    """Apply objects on the server's side (large CRDs don't fit into kubectl's own annotation)."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    if listed["items"]:
        kubectl(lab, "apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-",
                text=json.dumps(listed), seconds=300)  # fmt: skip


def get(lab: Lab, *words: str) -> dict[str, Any]:
    """`kubectl get WORDS -o json`."""
    answer: dict[str, Any] = json.loads(kubectl(lab, "get", *words, "-o", "json"))
    return answer


def kustomize(folder: Path) -> str:
    """What `kubectl kustomize` makes of a folder. It may reach outside it, as upstream's overlays do."""
    return run(_program(), "kustomize", "--load-restrictor=LoadRestrictionsNone", folder)


def _program() -> str:
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if program is None:
        raise LabError("kubectl is not there; `make check` makes the environment that has it")
    return program
