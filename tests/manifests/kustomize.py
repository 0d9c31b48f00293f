"""A kustomization as kubectl renders it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Object", "Rendered", "names"]

Object = dict[str, Any]
KUBECTL = Path(sys.executable).with_name("kubectl")

_OVERLAYS = Path(__file__).parents[2] / "manifests/overlays"


def _shown(folder: Path) -> str:
    return subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True).stdout


# No test changes an overlay of the checkout, and kubectl takes a second for it.
_shown_once = functools.cache(_shown)


class Rendered:
    """The objects of one kustomization."""

    def __init__(self, folder: Path) -> None:
        shown = _shown_once(folder) if folder.is_relative_to(_OVERLAYS) else _shown(folder)
        self.objects: list[Object] = list(yaml.load_all(shown, Loader=yaml.CSafeLoader))

    def objects_of(self, group: str, kind: str) -> list[Object]:
        return [o for o in self.objects if o["kind"] == kind and o["apiVersion"].rpartition("/")[0] == group]

    def services(self) -> list[Object]:
        return self.objects_of("serving.knative.dev", "Service")

    def routes(self) -> list[Object]:
        return self.objects_of("gateway.networking.k8s.io", "HTTPRoute")

    def settings(self) -> dict[str, str]:
        (found,) = [o for o in self.objects_of("", "ConfigMap") if o["metadata"]["name"] == "llmariner-settings"]
        data: dict[str, str] = found["data"]
        return data

    def pods(self) -> Iterator[tuple[Object, Object]]:
        """(object, pod template) of everything that runs."""
        for each in self.objects:
            if each["kind"] in ("Deployment", "StatefulSet", "Job") or each in self.services():
                yield each, each["spec"]["template"]

    def containers(self) -> list[Object]:
        return [container for _, pod in self.pods() for container in pod["spec"]["containers"]]

    def functions(self) -> list[Object]:
        return [container for s in self.services() for container in s["spec"]["template"]["spec"]["containers"]]


def names(objects: list[Object], namespace: str = "") -> set[str]:
    """Names of those in the namespace, or of all."""
    return {o["metadata"]["name"] for o in objects if not namespace or o["metadata"].get("namespace") == namespace}
