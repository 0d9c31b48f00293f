"""Installs the parts in order of their dependencies and waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmariner.standalone.progress import Step

from . import parts
from .ingress import GATEWAY
from .kubectl import apply, get
from .manifests import CRD, Manifest
from .names import name_server
from .places import Lab
from .wait import until

__all__ = ["install", "install_kinds"]

_FIRST = ("Namespace", CRD)
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def install_kinds(lab: Lab) -> None:
    """The definitions of every kind."""
    with Step("definitions of the custom resources"):
        apply(lab, parts.custom_resources(lab))


def install(lab: Lab) -> None:
    """Everything that runs as pods; ready when it returns."""
    objects = [
        *name_server(lab),
        *parts.gateway(),
        *parts.serving(),
        *parts.eventing(),
        *parts.kserve(lab),
        *parts.kueue(),
    ]
    with Step("manifests"):
        apply(lab, _of(objects, _FIRST))
        apply(lab, [each for each in objects if each["kind"] not in (*_FIRST, *_WEBHOOKS)])
        # Configurations of webhooks come after all that they would ask of webhooks that don't run yet.
        apply(lab, _of(objects, _WEBHOOKS))
    ours = {each["metadata"]["name"] for each in _of(objects, ("Namespace",))} | {"kube-system"}
    until("controllers and gateway", lambda: _unavailable(lab, ours) or _not_programmed(lab), seconds=420, pause=1)


def _of(objects: Iterable[Manifest], kinds: tuple[str, ...]) -> list[Manifest]:
    return [each for each in objects if each["kind"] in kinds]


def _unavailable(lab: Lab, namespaces: set[str]) -> str | None:
    waiting = [
        f"{each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in get(lab, "deployments", "--all-namespaces")["items"]
        if each["metadata"]["namespace"] in namespaces and not _available(each)
    ]
    return f"{len(waiting)} not available: {', '.join(waiting)}" if waiting else None


def _available(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status", {})
    wanted = int(deployment["spec"].get("replicas", 1))
    current: bool = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return current and min(int(status.get(name, 0)) for name in ("availableReplicas", "updatedReplicas")) >= wanted


def _not_programmed(lab: Lab) -> str | None:
    conditions = get(lab, "gateway", GATEWAY["name"], f"--namespace={GATEWAY['namespace']}")["status"]["conditions"]
    programmed = next((each for each in conditions if each["type"] == "Programmed"), None)
    if programmed is None or programmed["status"] != "True":
        return f"the shared gateway: {programmed['message'] if programmed else 'not looked at yet'}"
    return None
