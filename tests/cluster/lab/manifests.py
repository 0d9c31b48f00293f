"""Reads the manifests that come with the pinned sources, and fits them to a small cluster without a registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from .kubectl import kustomize
from .pins import PROJECTS
from .program_builds import build_tag
from .wait import LabError

__all__ = ["CRD", "Manifest", "fitted", "image", "of_kind", "read", "rendered", "without"]

Manifest = dict[str, Any]
CRD = "CustomResourceDefinition"

# Replicas and reservations for real traffic have no place on two cores; what isn't listed stays as released.
_DROPPED = ("HorizontalPodAutoscaler", "PodDisruptionBudget")
_REQUESTS = {"cpu": "5m", "memory": "24Mi"}
_BUILT_FROM = re.compile(r"ko://([\w./-]+)")


def image(project: str, name: str) -> str:
    """The local image of one program."""
    return f"localhost/lab/{project}-{name}:{build_tag(PROJECTS[project])}"


def read(*places: Path) -> list[Manifest]:
    """Every object of these files, and of the files below these folders, in order of their paths."""
    files = [file for place in places for file in (sorted(place.rglob("*.yaml")) if place.is_dir() else [place])]
    objects: list[Manifest] = []
    for file in files:
        objects += _parsed(file.read_text())
    if not objects:
        raise LabError(f"No manifest in {', '.join(map(str, places))}: do the pinned sources have another layout?")
    return objects


def rendered(folder: Path) -> list[Manifest]:
    """What kustomize makes of a folder."""
    return _parsed(kustomize(folder))


def of_kind(objects: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Only the objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def without(objects: Iterable[Manifest], *names: str) -> list[Manifest]:
    """All but the objects of these names."""
    return [each for each in objects if each["metadata"]["name"] not in names]


def fitted(objects: Iterable[Manifest], change: Callable[[Manifest], None] | None = None) -> list[Manifest]:
    """The objects without autoscalers, with one replica, local images and small requests; then `change` on each."""
    kept = [each for each in objects if each["kind"] not in _DROPPED]
    for each in kept:
        if each["kind"] in ("Deployment", "DaemonSet"):
            _fit(each)
        if change is not None:
            change(each)
    return kept


def _fit(workload: Manifest) -> None:
    spec = workload["spec"]
    if workload["kind"] == "Deployment" and spec.get("replicas", 1) > 1:
        spec["replicas"] = 1
    pod = spec["template"]["spec"]
    pod.pop("affinity", None)
    pod.pop("topologySpreadConstraints", None)
    for container in pod["containers"]:
        container["imagePullPolicy"] = "IfNotPresent"
        container["resources"] = {"requests": dict(_REQUESTS)}


def _parsed(text: str) -> list[Manifest]:
    named = _BUILT_FROM.sub(lambda found: _local_image(found[1]), text)
    return [each for each in yaml.load_all(named, yaml.CSafeLoader) if each]


def _local_image(package: str) -> str:
    """The local image for a Go package; one that isn't built keeps a name that says so."""
    for project in PROJECTS.values():
        for name, source in project.commands.items():
            if source == package:
                return image(project.name, name)
    return f"localhost/lab/not-built/{package}:pinned"
