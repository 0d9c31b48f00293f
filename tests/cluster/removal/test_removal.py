"""Uninstalling leaves none of the platform's objects, and a reinstallation works. Runs last: it removes the platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..lab.kubectl import get, kubectl
from ..lab.places import Lab
from ..lab.wait import LabError, until
from ..platform.installed import Installed, apply_manifests, uninstall

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_OURS = "app.kubernetes.io/part-of=llmariner"
_NAMESPACES = {"llmariner", "llmariner-models", "llmariner-gateway"}


@pytest.fixture
def lab() -> Lab:
    lab = Lab()
    try:
        assert Installed(lab).address
    except LabError:
        pytest.skip("the platform is not installed; `python -m tests.cluster.platform up` installs it")
    return lab


def test_removal_leaves_nothing_and_the_platform_can_be_reinstalled(lab: Lab) -> None:
    before = _objects(lab)
    assert {"Namespace", "ClusterQueue", "ClusterServingRuntime"} <= {kind for kind, _ in before}
    print(f"\n{len(before)} objects bear our label before")
    uninstall(lab)
    until("nothing is left", lambda: _named(_left(lab)), seconds=300)
    assert _volumes_of_ours(lab) == []
    apply_manifests(lab)
    status, answer = Installed(lab).call("GET", "/models")
    assert (status, answer["data"]) == (200, []), "a new installation knows no model of the one before"


def _left(lab: Lab) -> set[tuple[str, str]]:
    spaces = {each["metadata"]["name"] for each in get(lab, "namespaces")["items"]} & _NAMESPACES
    return _objects(lab) | {("Namespace", name) for name in spaces}


def _objects(lab: Lab) -> set[tuple[str, str]]:
    """(kind, name) of everything on the cluster that bears our label."""
    kinds = kubectl(lab, "api-resources", "--verbs=list", "-o", "name").split()
    wanted = [kind for kind in kinds if not kind.startswith(("events", "componentstatuses")) and "metrics" not in kind]
    listed: dict[str, Any] = json.loads(
        kubectl(lab, "get", ",".join(wanted), "-A", "-l", _OURS, "-o", "json", "--ignore-not-found") or '{"items": []}'
    )
    return {(each["kind"], each["metadata"]["name"]) for each in listed["items"]}


def _volumes_of_ours(lab: Lab) -> list[str]:
    """Volumes still bound to claims of the platform: data that would never be deleted."""
    volumes = get(lab, "persistentvolumes")["items"]
    bound = [each for each in volumes if each["spec"].get("claimRef", {}).get("namespace") in _NAMESPACES]
    return [str(each["metadata"]["name"]) for each in bound]


def _named(left: set[tuple[str, str]]) -> str | None:
    return ", ".join(f"{kind} {name}" for kind, name in sorted(left)[:5]) or None
