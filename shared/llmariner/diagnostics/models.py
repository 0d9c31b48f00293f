"""What models need: KServe's settings, runtimes, hardware, quota."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from llmariner.diagnostics.result import Finding, failed, named, ok, optional
from llmariner.diagnostics.snapshot import ready, spec, status
from llmariner.diagnostics.target import APPLY, Place
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import (
    CLUSTER_QUEUES,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    INFERENCE_SERVICES,
    LOCAL_QUEUES,
    NODES,
)

__all__ = ["DEVICES", "RUNTIMES", "deployment_mode", "hardware", "queues", "route_timeouts", "runtimes"]

DEVICES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-gaudi": "habana.ai/gaudi"}
"""What a node offers of each accelerator."""

RUNTIMES = {"cpu": "vllm-cpu", "nvidia": "vllm-nvidia", "amd": "vllm-amd", "intel-gaudi": "vllm-gaudi"}
"""Our ClusterServingRuntime of each (`kserve/`), unless the settings name another."""

_PLUGINS = {
    "nvidia": "the NVIDIA GPU operator or device plugin",
    "amd": "the AMD GPU operator or device plugin",
    "intel-gaudi": "the Intel Gaudi operator or device plugin",
}
_KSERVE, _CONFIG = "kserve", "inferenceservice-config"
_MODES = {"Standard": "Standard", "RawDeployment": "Standard", "Knative": "Knative", "Serverless": "Knative"}
_EDIT = f"kubectl -n {_KSERVE} edit configmap {_CONFIG}"
_KUEUE = "kueue-system"
# An InferenceService in Standard mode is a Deployment, and Kueue admits a Deployment pod by pod.
_FRAMEWORKS = ("deployment", "pod")


def deployment_mode(place: Place) -> Iterator[Finding]:
    """What becomes of an InferenceService that doesn't say; ours do."""
    check = "KServe deployment mode"
    if not place.has("KServe"):
        return
    found = _config(place, "deploy")
    if isinstance(found, str):
        yield failed(check, found, f"`{_EDIT}`: its key `deploy` is JSON such as {_standard()}.")
        return
    said = str(found.get("defaultDeploymentMode", "Knative"))
    if _MODES.get(said) == "Standard":
        yield ok(check, said)
    elif said in _MODES:
        yield optional(
            check,
            f"{said}: a model that is made with kubectl and doesn't say otherwise becomes a Knative revision",
            f"For Deployments unless said otherwise: `{_EDIT}`, and set its key `deploy` to {_standard()}.",
        )
    else:
        yield failed(check, f"{said} is none", f"`{_EDIT}`: set its key `deploy` to {_standard()}.")


def route_timeouts(place: Place) -> Iterator[Finding]:
    """That KServe's own routes don't cut streams: it makes them with 60 seconds where a model doesn't say."""
    check = "KServe routes"
    if not place.has("KServe"):
        return
    found = _config(place, "ingress")
    if isinstance(found, str):
        yield failed(check, found, f"`{_EDIT}`: its key `ingress` is JSON; compare it with KServe's release.")
        return
    if not found.get("enableGatewayApi"):
        yield ok(check, f"by {found.get('ingressClassName', 'no')} ingress")
        return
    gateway = found.get("kserveIngressGateway", "")
    if found.get("disableHTTPRouteTimeout"):
        yield ok(check, f"by the Gateway {gateway}, without a deadline")
        return
    services = place.reading.all(INFERENCE_SERVICES, place.models.namespace)
    short = [each["metadata"]["name"] for each in services if not _lasting(each)]
    if not short:
        yield ok(check, f"by the Gateway {gateway}; every model sets a deadline of its own")
    for name in short:
        yield failed(
            check,
            f"streams through KServe's route to {name} are cut after 60 s",
            f"kubectl -n {place.models.namespace} patch inferenceservice {name} --type merge "
            """-p '{"spec":{"predictor":{"timeout":3600}}}'""",
        )


def _lasting(service: dict[str, Any]) -> bool:
    """Whether no route of KServe's cuts its streams: it says how long, or has no route."""
    label = (service["metadata"].get("labels") or {}).get("networking.kserve.io/visibility")
    return bool(spec(service).get("predictor", {}).get("timeout")) or label == "cluster-local"


def hardware(place: Place) -> Iterator[Finding]:
    """Nodes, and among them those with the accelerator that the settings name."""
    nodes = place.reading.all(NODES)
    well = [each for each in nodes if not ready(each)]
    if not well:
        yield failed("nodes", f"none of {len(nodes)} is ready", "`kubectl get nodes` and `kubectl describe node NODE`.")
        return
    for name in sorted(each["metadata"]["name"] for each in nodes if ready(each)):
        yield failed("nodes", f"{name} is not ready", f"kubectl describe node {name}")
    cpu, memory = (_sum(well, what) for what in ("cpu", "memory"))
    yield ok("nodes", f"{len(well)} ready: {cpu:.0f} cores, {memory / 2**30:.0f} GiB")
    offered = {name: int(_sum(well, device)) for name, device in DEVICES.items()}
    shown = ", ".join(f"{count} {DEVICES[name]}" for name, count in offered.items() if count) or "none"
    accelerator = place.models.accelerator
    if accelerator == "cpu" or offered[accelerator]:
        yield ok("accelerators", shown)
        return
    others = [name for name, count in offered.items() if count] or ["cpu"]
    yield failed(
        "accelerators",
        f"LLMARINER_ACCELERATOR is {accelerator}, but no node that is ready offers {DEVICES[accelerator]} "
        f"(offered: {shown})",
        f"Install {_PLUGINS[accelerator]}, or set LLMARINER_ACCELERATOR={others[0]} in the overlay's settings.env, "
        f"then {APPLY}.",
    )


def runtimes(place: Place) -> Iterator[Finding]:
    """The ClusterServingRuntimes of our models: of the accelerator, and of CPUs for those that ask for none."""
    if not place.has("KServe"):
        return
    there = {each["metadata"]["name"]: each for each in place.reading.all(CLUSTER_SERVING_RUNTIMES)}
    needed = {hardware: place.models.runtimes.get(hardware, RUNTIMES[hardware]) for hardware in _hardware(place)}
    well = True
    for hardware, name in needed.items():
        if name not in there:
            bring = f"List components/{hardware} in the overlay, or name another in LLMARINER_RUNTIMES, then {APPLY}."
            yield failed("runtimes", f"there is no ClusterServingRuntime {name}", bring)
        elif spec(there[name]).get("disabled"):
            enable = f"""kubectl patch clusterservingruntime {name} --type merge -p '{{"spec":{{"disabled":false}}}}'"""
            yield failed("runtimes", f"{name} is disabled", enable)
        else:
            continue
        well = False
    if well:
        yield ok("runtimes", named(needed.values()))


def _hardware(place: Place) -> list[str]:
    return list(dict.fromkeys(("cpu", place.models.accelerator)))


def queues(place: Place) -> Iterator[Finding]:
    """That Kueue admits what our models are, and that the queue of the settings is open."""
    if not place.has("Kueue"):
        return
    frameworks = _frameworks(place)
    if frameworks is not None and (off := [each for each in _FRAMEWORKS if each not in frameworks]):
        yield failed(
            "Kueue frameworks",
            f"Kueue doesn't look at {named(off)}",
            f"`kubectl -n {_KUEUE} edit configmap kueue-manager-config`: add them to integrations.frameworks, then "
            f"`kubectl -n {_KUEUE} rollout restart deployment kueue-controller-manager`.",
        )
    elif frameworks is not None:
        yield ok("Kueue frameworks", named(_FRAMEWORKS))
    if not place.models.queue:
        return
    local = place.reading.one(LOCAL_QUEUES, place.models.namespace, place.models.queue)
    if local is None:
        pool = f"List components/kueue/{place.models.queue} in the overlay, or set LLMARINER_QUEUE, then {APPLY}."
        yield failed("queue", f"there is no LocalQueue {place.models.queue} in {place.models.namespace}", pool)
        return
    name = str(spec(local).get("clusterQueue", ""))
    behind = place.reading.one(CLUSTER_QUEUES, None, name)
    why = ready(behind, "Active") if behind else f"there is no ClusterQueue {name}"
    why = why or ready(local, "Active")
    if why:
        yield failed("queue", f"{place.models.queue}: {why}", f"kubectl describe clusterqueue {name}")
    else:
        yield ok("queue", f"{place.models.queue} of {name}")


def _frameworks(place: Place) -> list[str] | None:
    """None where Kueue's configuration can't be found where its release puts it."""
    found = place.reading.get(CONFIG_MAPS, _KUEUE, "kueue-manager-config")
    text = ((found or {}).get("data") or {}).get("controller_manager_config.yaml")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return None
    integrations = value.get("integrations") if isinstance(value, dict) else None
    listed = integrations.get("frameworks") if isinstance(integrations, dict) else None
    return [str(each) for each in listed] if isinstance(listed, list) else None


def _config(place: Place, key: str) -> dict[str, Any] | str:
    """One key of KServe's configuration, or what is wrong with it."""
    found = place.reading.get(CONFIG_MAPS, _KSERVE, _CONFIG)
    if found is None:
        return f"there is no ConfigMap {_CONFIG} in {_KSERVE}"
    try:
        value = json.loads((found.get("data") or {}).get(key) or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else f"the key `{key}` of {_CONFIG} is no JSON object"


def _standard() -> str:
    return json.dumps({"defaultDeploymentMode": "Standard"})


def _sum(nodes: list[dict[str, Any]], resource: str) -> float:
    return sum(parse_quantity((status(each).get("allocatable") or {}).get(resource, "0")) for each in nodes)
