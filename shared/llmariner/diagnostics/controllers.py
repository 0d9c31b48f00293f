"""Checks that the controllers of the required projects run."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.result import Body, CheckResult, failed, join_names, ok
from llmariner.diagnostics.snapshot import labels, not_ready_reason, spec
from llmariner.diagnostics.target import Target
from llmariner.platform.kube.resources import DEPLOYMENTS

__all__ = ["CONTROLLERS", "controllers", "deployment_problem"]

# Project → (namespace, Deployments that must exist in it).
CONTROLLERS = {
    "Knative Serving": ("knative-serving", ("activator", "autoscaler", "controller", "webhook")),
    "Knative Eventing": ("knative-eventing", ("eventing-controller", "eventing-webhook")),
    "KServe": ("kserve", ("kserve-controller-manager",)),
    "Kueue": ("kueue-system", ("kueue-controller-manager",)),
}


def controllers(target: Target) -> Iterator[CheckResult]:
    """The controller Deployments of each project are available."""
    for dependency, (namespace, required) in CONTROLLERS.items():
        if not target.has_dependency(dependency):
            continue
        check = f"{dependency} controllers"
        existing = {each["metadata"]["name"]: each for each in target.snapshot.list_objects(DEPLOYMENTS, namespace)}
        if missing := [name for name in required if name not in existing]:
            yield failed(
                check,
                f"in {namespace} there is no {join_names(missing)}",
                f"Install {dependency} again, in {namespace}: its kinds are there, not its controllers.",
            )
        faults = {name: why for name, each in existing.items() if (why := _deployment_problem(each, name in required))}
        for name, why in faults.items():
            describe = f"kubectl -n {namespace} describe deployment {name}"
            scale = f"kubectl -n {namespace} scale deployment {name} --replicas=1"
            yield failed(check, f"{name}: {why}", scale if spec(existing[name]).get("replicas") == 0 else describe)
        if not missing and not faults:
            yield ok(check, f"{len(existing)} available, {_version(existing[required[0]])}")


def deployment_problem(deployment: Body) -> str:
    """Why a Deployment is unavailable; empty when it is available."""
    return _deployment_problem(deployment, required=True)


def _deployment_problem(deployment: Body, required: bool) -> str:
    if spec(deployment).get("replicas") == 0:
        return "it has no replicas" if required else ""
    return not_ready_reason(deployment, "Available")


def _version(deployment: Body) -> str:
    """The release of a Deployment: its version label, else its image tag."""
    if version_label := labels(deployment).get("app.kubernetes.io/version"):
        return version_label
    containers = spec(deployment).get("template", {}).get("spec", {}).get("containers") or [{}]
    image = str(containers[0].get("image", "")).partition("@")[0]
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag or "of unknown version"
