"""Discovery of the API: version, groups, resources, and the options of writes."""

from __future__ import annotations

import re
from typing import Any

from .kinds import Kind

__all__ = ["document"]

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T10:11:10Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def document(kinds: list[Kind], path: str) -> dict[str, Any] | None:
    """The discovery document at a path, or None."""
    if path in ("/healthz", "/livez", "/readyz"):
        return {"status": "ok"}
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = dict.fromkeys(each.group for each in kinds if each.group)
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(kinds, group) for group in groups]}
    if path == "/openapi/v3":
        return {
            "paths": {f"{_root(v)}/{v}": {"serverRelativeURL": f"/openapi/v3/{_root(v)}/{v}"} for v in _versions(kinds)}
        }
    if found := re.fullmatch(r"/openapi/v3/apis?/(.+)", path):
        return _parameters([each for each in kinds if each.api_version == found[1]])
    if found := re.fullmatch(r"/api/(v1)|/apis/([^/]+/[^/]+)", path):
        return _resources(kinds, found[1] or found[2])
    if found := re.fullmatch(r"/apis/([^/]+)", path):
        return _group(kinds, found[1]) if found[1] in {each.group for each in kinds} else None
    return None


def _versions(kinds: list[Kind]) -> list[str]:
    return list(dict.fromkeys(each.api_version for each in kinds))


def _root(api_version: str) -> str:
    return "apis" if "/" in api_version else "api"


def _group(kinds: list[Kind], group: str) -> dict[str, Any]:
    versions = dict.fromkeys(each.version for each in kinds if each.group == group)
    shown = [{"groupVersion": f"{group}/{version}", "version": version} for version in sorted(versions, key=_rank)]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": shown, "preferredVersion": shown[0]}


def _rank(version: str) -> tuple[int, int, int]:
    """v1 before v1beta2 before v1beta1 before v1alpha1."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    assert found
    return {None: 0, "beta": 1, "alpha": 2}[found[2]], -int(found[1]), -int(found[3] or 0)


def _resources(kinds: list[Kind], api_version: str) -> dict[str, Any] | None:
    found = [entry for kind in kinds if kind.api_version == api_version for entry in kind.discovered()]
    if not found:
        return None
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _parameters(kinds: list[Kind]) -> dict[str, Any] | None:
    """Enough of OpenAPI for kubectl: that PATCH takes dryRun and fieldValidation, so that it leaves checks to us."""
    if not kinds:
        return None
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    paths = {}
    for kind in kinds:
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
        inside = "/namespaces/{namespace}" if kind.namespaced else ""
        patch = {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": gvk}
        paths[f"/{_root(kind.api_version)}/{kind.api_version}{inside}/{kind.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.34.0"}, "paths": paths}
