"""Whether those who do the work in a cluster run."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.result import Body, Finding, failed, named, ok
from llmariner.diagnostics.snapshot import labels, ready, spec
from llmariner.diagnostics.target import Place
from llmariner.platform.kube.resources import DEPLOYMENTS

__all__ = ["CONTROLLERS", "broken", "controllers"]

# Whose, where, and which must be there.
CONTROLLERS = {
    "Knative Serving": ("knative-serving", ("activator", "autoscaler", "controller", "webhook")),
    "Knative Eventing": ("knative-eventing", ("eventing-controller", "eventing-webhook")),
    "KServe": ("kserve", ("kserve-controller-manager",)),
    "Kueue": ("kueue-system", ("kueue-controller-manager",)),
}


def controllers(place: Place) -> Iterator[Finding]:
    """The Deployments of each project, in its own namespace."""
    for project, (namespace, wanted) in CONTROLLERS.items():
        if not place.has(project):
            continue
        check = f"{project} controllers"
        there = {each["metadata"]["name"]: each for each in place.reading.all(DEPLOYMENTS, namespace)}
        if missing := [name for name in wanted if name not in there]:
            yield failed(
                check,
                f"in {namespace} there is no {named(missing)}",
                f"Install {project} again, in {namespace}: its kinds are there, not its controllers.",
            )
        faults = {name: why for name, each in there.items() if (why := _fault(each, name in wanted))}
        for name, why in faults.items():
            describe = f"kubectl -n {namespace} describe deployment {name}"
            scale = f"kubectl -n {namespace} scale deployment {name} --replicas=1"
            yield failed(check, f"{name}: {why}", scale if spec(there[name]).get("replicas") == 0 else describe)
        if not missing and not faults:
            yield ok(check, f"{len(there)} available, {_version(there[wanted[0]])}")


def broken(deployment: Body) -> str:
    """Why a Deployment does no work; empty when it does."""
    return _fault(deployment, wanted=True)


def _fault(deployment: Body, wanted: bool) -> str:
    if spec(deployment).get("replicas") == 0:
        return "it has no replicas" if wanted else ""
    return ready(deployment, "Available")


def _version(deployment: Body) -> str:
    """Of the release that it comes from."""
    if said := labels(deployment).get("app.kubernetes.io/version"):
        return said
    containers = spec(deployment).get("template", {}).get("spec", {}).get("containers") or [{}]
    image = str(containers[0].get("image", "")).partition("@")[0]
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag or "of unknown version"
