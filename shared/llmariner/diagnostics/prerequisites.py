"""What any cluster has or lacks: its version, the kinds of other projects, a gateway, storage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.diagnostics.api_resources import CLAIMS, GATEWAY_CLASSES, PROJECTS, STORAGE_CLASSES, Project
from llmariner.diagnostics.result import Finding, failed, named, ok, optional
from llmariner.diagnostics.snapshot import ready, status
from llmariner.diagnostics.target import APPLY, Place
from llmariner.platform.kube.resources import SERVICES

__all__ = ["LOCAL_GATEWAYS", "gateway_class", "kinds", "kubernetes", "local_gateway", "storage"]

# Knative 1.23 refuses to start on an older one.
_OLDEST = (1, 34)
# Namespace and Service of the local gateway of each of Knative's ingresses.
LOCAL_GATEWAYS = {
    "kourier": ("kourier-system", "kourier-internal"),
    "contour": ("contour-internal", "envoy"),
    "istio": ("istio-system", "knative-local-gateway"),
}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def kubernetes(place: Place) -> Iterator[Finding]:
    """The server's version."""
    version = place.reading.version()
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) >= _OLDEST:
        yield ok("Kubernetes", version)
    else:
        oldest = ".".join(map(str, _OLDEST))
        yield failed(
            "Kubernetes", f"{version or 'no version'}; Knative needs {oldest}", f"Upgrade to {oldest} or later."
        )


def kinds(place: Place) -> Iterator[Finding]:
    """Each project's kinds at the versions that we use."""
    for project in PROJECTS:
        lacking = place.lacking(project)
        if not lacking:
            yield ok(project.name, ", ".join(project.kinds))
            continue
        detail = "; ".join(_lacking(place, version, kinds) for version, kinds in lacking.items())
        mend = f"Install {project.name} {project.release} or later: {project.guide}"
        if project.purpose and not _wanted(place, project):
            yield optional(project.name, detail, f"{mend} It is for {project.purpose}.")
        else:
            yield failed(project.name, detail, mend)


def _wanted(place: Place, project: Project) -> bool:
    return project.name == "Kueue" and bool(place.models.queue)


def _lacking(place: Place, api_version: str, kinds: list[str]) -> str:
    group, _, version = api_version.partition("/")
    served = place.reading.versions(group)
    if not served:
        return f"not installed: no {group}"
    if version not in served:
        return f"{group} is there at {named(served)}, not at {version}"
    return f"{api_version} lacks {named(kinds)}"


def gateway_class(place: Place) -> Iterator[Finding]:
    """That somebody makes Gateways of the class that the settings name, or of any."""
    if not place.has("Gateway API"):
        return
    classes = {each["metadata"]["name"]: each for each in place.reading.all(GATEWAY_CLASSES)}
    accepted = [name for name, each in classes.items() if not ready(each, "Accepted")]
    wanted = place.settings.get("GATEWAY_CLASS", "")
    choose = f"Set GATEWAY_CLASS in the overlay's settings.env to one of {named(accepted)}, then {APPLY}."
    install = "Install an implementation of the Gateway API: https://gateway-api.sigs.k8s.io/implementations/"
    if not wanted:
        found = f"accepted: {named(accepted)}"
        yield ok("gateway class", found) if accepted else failed("gateway class", "none is accepted", install)
    elif wanted in accepted:
        yield ok("gateway class", wanted)
    else:
        why = f"is not accepted ({ready(classes[wanted], 'Accepted')})" if wanted in classes else "is not there"
        yield failed("gateway class", f"{wanted} {why}", choose if accepted else install)


def local_gateway(place: Place) -> Iterator[Finding]:
    """That the Service which our routes lead to is there."""
    if not place.has("Knative Serving"):
        return
    there = [
        (namespace, name)
        for namespace, name in LOCAL_GATEWAYS.values()
        if place.reading.get(SERVICES, namespace, name) is not None
    ]
    shown = [f"{name} in {namespace}" for namespace, name in there]
    if not place.installed:
        name = "Name its Service in the overlay's settings.env: LOCAL_GATEWAY_SERVICE, LOCAL_GATEWAY_NAMESPACE."
        unknown = optional("local gateway", "none of Kourier's, Contour's or Istio's", name)
        yield ok("local gateway", named(shown)) if there else unknown
        return
    wanted = place.settings.get("LOCAL_GATEWAY_NAMESPACE", ""), place.settings.get("LOCAL_GATEWAY_SERVICE", "")
    if wanted in there or (all(wanted) and place.reading.get(SERVICES, *wanted) is not None):
        yield ok("local gateway", f"{wanted[1]} in {wanted[0]}")
        return
    hint = f"here is {named(shown)}" if there else "here is none: install an ingress of Knative, such as Kourier"
    yield failed(
        "local gateway",
        f"there is no Service {wanted[1] or '?'} in {wanted[0] or '?'}",
        f"Set LOCAL_GATEWAY_SERVICE and LOCAL_GATEWAY_NAMESPACE in the overlay's settings.env ({hint}), then {APPLY}.",
    )


def storage(place: Place) -> Iterator[Finding]:
    """A default StorageClass, for those who bring no PostgreSQL of their own."""
    classes = place.reading.all(STORAGE_CLASSES)
    default = [each["metadata"]["name"] for each in classes if _default(each["metadata"].get("annotations") or {})]
    waiting = [
        each["metadata"]["name"]
        for each in (place.reading.all(CLAIMS, place.namespace) if place.installed else ())
        if status(each).get("phase") != "Bound"
    ]
    if default and not waiting:
        yield ok("storage class", f"default: {named(default)}")
        return
    names = named(each["metadata"]["name"] for each in classes)
    if default:
        describe = f"kubectl -n {place.namespace} describe pvc {waiting[0]}"
        yield failed("storage class", f"not bound: {named(waiting)}", f"`{describe}` says what it waits for.")
        return
    mend = (
        f"""kubectl patch storageclass {classes[0]["metadata"]["name"]} -p """
        f"""'{{"metadata":{{"annotations":{{"{_DEFAULT_CLASS}":"true"}}}}}}'"""
        if classes
        else "Install a provisioner of volumes, if PostgreSQL is to run here (components/postgres)."
    )
    detail = f"none of {names} is the default" if classes else "there is none"
    if waiting:
        yield failed("storage class", f"{detail}, and {named(waiting)} waits for it", mend)
    else:
        yield optional("storage class", detail, mend)


def _default(annotations: dict[str, str]) -> bool:
    return annotations.get(_DEFAULT_CLASS) == "true"
