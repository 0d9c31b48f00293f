"""Checks of the cluster itself: its version, required API kinds, gateways and storage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmariner.diagnostics.api_resources import (
    DEPENDENCIES,
    GATEWAY_CLASSES,
    STORAGE_CLASSES,
    VOLUME_CLAIMS,
    Dependency,
)
from llmariner.diagnostics.result import CheckResult, failed, join_names, ok, optional
from llmariner.diagnostics.snapshot import not_ready_reason, status
from llmariner.diagnostics.target import APPLY_COMMAND, Target
from llmariner.platform.kube.resources import SERVICES

__all__ = ["LOCAL_GATEWAYS", "gateway_class", "kinds", "kubernetes", "local_gateway", "storage"]

# Knative 1.23 refuses to start on an older version.
_MINIMUM_VERSION = (1, 34)
# Namespace and Service of the local gateway of each of Knative's ingresses.
LOCAL_GATEWAYS = {
    "kourier": ("kourier-system", "kourier-internal"),
    "contour": ("contour-internal", "envoy"),
    "istio": ("istio-system", "knative-local-gateway"),
}
_DEFAULT_CLASS_ANNOTATION = "storageclass.kubernetes.io/is-default-class"


def kubernetes(target: Target) -> Iterator[CheckResult]:
    """The Kubernetes version is supported."""
    version = target.snapshot.server_version()
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) >= _MINIMUM_VERSION:
        yield ok("Kubernetes", version)
    else:
        oldest = ".".join(map(str, _MINIMUM_VERSION))
        yield failed(
            "Kubernetes", f"{version or 'no version'}; Knative needs {oldest}", f"Upgrade to {oldest} or later."
        )


def kinds(target: Target) -> Iterator[CheckResult]:
    """Each project's API kinds are served at the required versions."""
    for dependency in DEPENDENCIES:
        missing_kinds = target.missing_kinds(dependency)
        if not missing_kinds:
            yield ok(dependency.name, ", ".join(dependency.kinds))
            continue
        detail = "; ".join(_missing_detail(target, version, kinds) for version, kinds in missing_kinds.items())
        remedy = f"Install {dependency.name} {dependency.release} or later: {dependency.guide}"
        if dependency.purpose and not _is_required(target, dependency):
            yield optional(dependency.name, detail, f"{remedy} It is for {dependency.purpose}.")
        else:
            yield failed(dependency.name, detail, remedy)


def _is_required(target: Target, dependency: Dependency) -> bool:
    return dependency.name == "Kueue" and bool(target.models.queue)


def _missing_detail(target: Target, api_version: str, kinds: list[str]) -> str:
    group, _, version = api_version.partition("/")
    served = target.snapshot.served_versions(group)
    if not served:
        return f"not installed: no {group}"
    if version not in served:
        return f"{group} is there at {join_names(served)}, not at {version}"
    return f"{api_version} lacks {join_names(kinds)}"


def gateway_class(target: Target) -> Iterator[CheckResult]:
    """A controller accepts the GatewayClass of the settings, or any class if none is set."""
    if not target.has_dependency("Gateway API"):
        return
    classes = {each["metadata"]["name"]: each for each in target.snapshot.list_objects(GATEWAY_CLASSES)}
    accepted = [name for name, each in classes.items() if not not_ready_reason(each, "Accepted")]
    wanted = target.settings.get("GATEWAY_CLASS", "")
    set_class = (
        f"Set GATEWAY_CLASS in the overlay's settings.env to one of {join_names(accepted)}, then {APPLY_COMMAND}."
    )
    install = "Install an implementation of the Gateway API: https://gateway-api.sigs.k8s.io/implementations/"
    if not wanted:
        found = f"accepted: {join_names(accepted)}"
        yield ok("gateway class", found) if accepted else failed("gateway class", "none is accepted", install)
    elif wanted in accepted:
        yield ok("gateway class", wanted)
    else:
        why = (
            f"is not accepted ({not_ready_reason(classes[wanted], 'Accepted')})"
            if wanted in classes
            else "is not there"
        )
        yield failed("gateway class", f"{wanted} {why}", set_class if accepted else install)


def local_gateway(target: Target) -> Iterator[CheckResult]:
    """The Service of Knative's local gateway, the backend of all routes, exists."""
    if not target.has_dependency("Knative Serving"):
        return
    existing = [
        (namespace, name)
        for namespace, name in LOCAL_GATEWAYS.values()
        if target.snapshot.get_object(SERVICES, namespace, name) is not None
    ]
    found_names = [f"{name} in {namespace}" for namespace, name in existing]
    if not target.installed:
        name = "Name its Service in the overlay's settings.env: LOCAL_GATEWAY_SERVICE, LOCAL_GATEWAY_NAMESPACE."
        unknown = optional("local gateway", "none of Kourier's, Contour's or Istio's", name)
        yield ok("local gateway", join_names(found_names)) if existing else unknown
        return
    wanted = target.settings.get("LOCAL_GATEWAY_NAMESPACE", ""), target.settings.get("LOCAL_GATEWAY_SERVICE", "")
    if wanted in existing or (all(wanted) and target.snapshot.get_object(SERVICES, *wanted) is not None):
        yield ok("local gateway", f"{wanted[1]} in {wanted[0]}")
        return
    hint = (
        f"here is {join_names(found_names)}"
        if existing
        else "here is none: install an ingress of Knative, such as Kourier"
    )
    yield failed(
        "local gateway",
        f"there is no Service {wanted[1] or '?'} in {wanted[0] or '?'}",
        f"Set LOCAL_GATEWAY_SERVICE and LOCAL_GATEWAY_NAMESPACE in the overlay's settings.env ({hint}), "
        f"then {APPLY_COMMAND}.",
    )


def storage(target: Target) -> Iterator[CheckResult]:
    """A default StorageClass exists, for installations that include PostgreSQL."""
    classes = target.snapshot.list_objects(STORAGE_CLASSES)
    default = [each["metadata"]["name"] for each in classes if _default(each["metadata"].get("annotations") or {})]
    waiting = [
        each["metadata"]["name"]
        for each in (target.snapshot.list_objects(VOLUME_CLAIMS, target.namespace) if target.installed else ())
        if status(each).get("phase") != "Bound"
    ]
    if default and not waiting:
        yield ok("storage class", f"default: {join_names(default)}")
        return
    names = join_names(each["metadata"]["name"] for each in classes)
    if default:
        describe = f"kubectl -n {target.namespace} describe pvc {waiting[0]}"
        yield failed("storage class", f"not bound: {join_names(waiting)}", f"`{describe}` says what it waits for.")
        return
    remedy = (
        f"""kubectl patch storageclass {classes[0]["metadata"]["name"]} -p """
        f"""'{{"metadata":{{"annotations":{{"{_DEFAULT_CLASS_ANNOTATION}":"true"}}}}}}'"""
        if classes
        else "Install a provisioner of volumes, if PostgreSQL is to run here (components/postgres)."
    )
    detail = f"none of {names} is the default" if classes else "there is none"
    if waiting:
        yield failed("storage class", f"{detail}, and {join_names(waiting)} waits for it", remedy)
    else:
        yield optional("storage class", detail, remedy)


def _default(annotations: dict[str, str]) -> bool:
    return annotations.get(_DEFAULT_CLASS_ANNOTATION) == "true"
