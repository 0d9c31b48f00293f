"""Checks of what models need: KServe's configuration, runtimes, hardware and quota."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from llmariner.diagnostics.result import CheckResult, failed, join_names, ok, optional
from llmariner.diagnostics.snapshot import not_ready_reason, spec, status
from llmariner.diagnostics.target import APPLY_COMMAND, Target
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import (
    CLUSTER_QUEUES,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    INFERENCE_SERVICES,
    LOCAL_QUEUES,
    NODES,
)

__all__ = [
    "ACCELERATOR_RESOURCES",
    "DEFAULT_RUNTIMES",
    "deployment_mode",
    "hardware",
    "queues",
    "route_timeouts",
    "runtimes",
]

ACCELERATOR_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-gaudi": "habana.ai/gaudi"}
"""Accelerator → extended resource of its nodes."""

DEFAULT_RUNTIMES = {"cpu": "vllm-cpu", "nvidia": "vllm-nvidia", "amd": "vllm-amd", "intel-gaudi": "vllm-gaudi"}
"""Accelerator → ClusterServingRuntime (`kserve/`) unless the settings name another."""

_DEVICE_PLUGINS = {
    "nvidia": "the NVIDIA GPU operator or device plugin",
    "amd": "the AMD GPU operator or device plugin",
    "intel-gaudi": "the Intel Gaudi operator or device plugin",
}
_KSERVE_NAMESPACE, _KSERVE_CONFIG_MAP = "kserve", "inferenceservice-config"
_MODES = {"Standard": "Standard", "RawDeployment": "Standard", "Knative": "Knative", "Serverless": "Knative"}
_EDIT_COMMAND = f"kubectl -n {_KSERVE_NAMESPACE} edit configmap {_KSERVE_CONFIG_MAP}"
_KUEUE = "kueue-system"
# An InferenceService in Standard mode is a Deployment, and Kueue admits a Deployment pod by pod.
_FRAMEWORKS = ("deployment", "pod")


def deployment_mode(target: Target) -> Iterator[CheckResult]:
    """KServe's default deployment mode, for InferenceServices that set none; the platform's set one."""
    check = "KServe deployment mode"
    if not target.has_dependency("KServe"):
        return
    found = _kserve_config(target, "deploy")
    if isinstance(found, str):
        yield failed(check, found, f"`{_EDIT_COMMAND}`: its key `deploy` is JSON such as {_standard_mode()}.")
        return
    mode = str(found.get("defaultDeploymentMode", "Knative"))
    if _MODES.get(mode) == "Standard":
        yield ok(check, mode)
    elif mode in _MODES:
        yield optional(
            check,
            f"{mode}: a model that is made with kubectl and doesn't say otherwise becomes a Knative revision",
            f"For Deployments unless said otherwise: `{_EDIT_COMMAND}`, and set its key `deploy` to {_standard_mode()}.",
        )
    else:
        yield failed(check, f"{mode} is none", f"`{_EDIT_COMMAND}`: set its key `deploy` to {_standard_mode()}.")


def route_timeouts(target: Target) -> Iterator[CheckResult]:
    """KServe's own routes do not cut streams: their timeout is 60 seconds unless the model sets one."""
    check = "KServe routes"
    if not target.has_dependency("KServe"):
        return
    found = _kserve_config(target, "ingress")
    if isinstance(found, str):
        yield failed(check, found, f"`{_EDIT_COMMAND}`: its key `ingress` is JSON; compare it with KServe's release.")
        return
    if not found.get("enableGatewayApi"):
        yield ok(check, f"by {found.get('ingressClassName', 'no')} ingress")
        return
    gateway = found.get("kserveIngressGateway", "")
    if found.get("disableHTTPRouteTimeout"):
        yield ok(check, f"by the Gateway {gateway}, without a deadline")
        return
    services = target.snapshot.list_objects(INFERENCE_SERVICES, target.models.namespace)
    without_timeout = [each["metadata"]["name"] for each in services if not _has_own_timeout(each)]
    if not without_timeout:
        yield ok(check, f"by the Gateway {gateway}; every model sets a deadline of its own")
    for name in without_timeout:
        yield failed(
            check,
            f"streams through KServe's route to {name} are cut after 60 s",
            f"kubectl -n {target.models.namespace} patch inferenceservice {name} --type merge "
            """-p '{"spec":{"predictor":{"timeout":3600}}}'""",
        )


def _has_own_timeout(service: dict[str, Any]) -> bool:
    """Whether the InferenceService sets a timeout or has no route, so that KServe does not cut its streams."""
    label = (service["metadata"].get("labels") or {}).get("networking.kserve.io/visibility")
    return bool(spec(service).get("predictor", {}).get("timeout")) or label == "cluster-local"


def hardware(target: Target) -> Iterator[CheckResult]:
    """Nodes are ready, and some offer the accelerator that the settings name."""
    nodes = target.snapshot.list_objects(NODES)
    healthy = [each for each in nodes if not not_ready_reason(each)]
    if not healthy:
        yield failed("nodes", f"none of {len(nodes)} is ready", "`kubectl get nodes` and `kubectl describe node NODE`.")
        return
    for name in sorted(each["metadata"]["name"] for each in nodes if not_ready_reason(each)):
        yield failed("nodes", f"{name} is not ready", f"kubectl describe node {name}")
    cpu, memory = (_total_allocatable(healthy, what) for what in ("cpu", "memory"))
    yield ok("nodes", f"{len(healthy)} ready: {cpu:.0f} cores, {memory / 2**30:.0f} GiB")
    offered = {name: int(_total_allocatable(healthy, device)) for name, device in ACCELERATOR_RESOURCES.items()}
    shown = ", ".join(f"{count} {ACCELERATOR_RESOURCES[name]}" for name, count in offered.items() if count) or "none"
    accelerator = target.models.accelerator
    if accelerator == "cpu" or offered[accelerator]:
        yield ok("accelerators", shown)
        return
    others = [name for name, count in offered.items() if count] or ["cpu"]
    yield failed(
        "accelerators",
        f"LLMARINER_ACCELERATOR is {accelerator}, but no node that is ready offers {ACCELERATOR_RESOURCES[accelerator]} "
        f"(offered: {shown})",
        f"Install {_DEVICE_PLUGINS[accelerator]}, or set LLMARINER_ACCELERATOR={others[0]} in the overlay's settings.env, "
        f"then {APPLY_COMMAND}.",
    )


def runtimes(target: Target) -> Iterator[CheckResult]:
    """The ClusterServingRuntimes for the accelerator and for CPUs exist and are enabled."""
    if not target.has_dependency("KServe"):
        return
    existing = {each["metadata"]["name"]: each for each in target.snapshot.list_objects(CLUSTER_SERVING_RUNTIMES)}
    needed = {
        hardware: target.models.runtimes.get(hardware, DEFAULT_RUNTIMES[hardware]) for hardware in _hardware(target)
    }
    healthy = True
    for hardware, name in needed.items():
        if name not in existing:
            hint = f"List components/{hardware} in the overlay, or name another in LLMARINER_RUNTIMES, then {APPLY_COMMAND}."
            yield failed("runtimes", f"there is no ClusterServingRuntime {name}", hint)
        elif spec(existing[name]).get("disabled"):
            enable = f"""kubectl patch clusterservingruntime {name} --type merge -p '{{"spec":{{"disabled":false}}}}'"""
            yield failed("runtimes", f"{name} is disabled", enable)
        else:
            continue
        healthy = False
    if healthy:
        yield ok("runtimes", join_names(needed.values()))


def _hardware(target: Target) -> list[str]:
    return list(dict.fromkeys(("cpu", target.models.accelerator)))


def queues(target: Target) -> Iterator[CheckResult]:
    """Kueue manages the kinds that models run as, and the configured queue is active."""
    if not target.has_dependency("Kueue"):
        return
    frameworks = _frameworks(target)
    if frameworks is not None and (disabled := [each for each in _FRAMEWORKS if each not in frameworks]):
        yield failed(
            "Kueue frameworks",
            f"Kueue doesn't look at {join_names(disabled)}",
            f"`kubectl -n {_KUEUE} edit configmap kueue-manager-config`: add them to integrations.frameworks, then "
            f"`kubectl -n {_KUEUE} rollout restart deployment kueue-controller-manager`.",
        )
    elif frameworks is not None:
        yield ok("Kueue frameworks", join_names(_FRAMEWORKS))
    if not target.models.queue:
        return
    local = target.snapshot.find_object(LOCAL_QUEUES, target.models.namespace, target.models.queue)
    if local is None:
        pool = (
            f"List components/kueue/{target.models.queue} in the overlay, or set LLMARINER_QUEUE, then {APPLY_COMMAND}."
        )
        yield failed("queue", f"there is no LocalQueue {target.models.queue} in {target.models.namespace}", pool)
        return
    name = str(spec(local).get("clusterQueue", ""))
    cluster_queue = target.snapshot.find_object(CLUSTER_QUEUES, None, name)
    why = not_ready_reason(cluster_queue, "Active") if cluster_queue else f"there is no ClusterQueue {name}"
    why = why or not_ready_reason(local, "Active")
    if why:
        yield failed("queue", f"{target.models.queue}: {why}", f"kubectl describe clusterqueue {name}")
    else:
        yield ok("queue", f"{target.models.queue} of {name}")


def _frameworks(target: Target) -> list[str] | None:
    """None where Kueue's configuration can't be found where its release puts it."""
    found = target.snapshot.get_object(CONFIG_MAPS, _KUEUE, "kueue-manager-config")
    text = ((found or {}).get("data") or {}).get("controller_manager_config.yaml")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return None
    integrations = value.get("integrations") if isinstance(value, dict) else None
    listed = integrations.get("frameworks") if isinstance(integrations, dict) else None
    return [str(each) for each in listed] if isinstance(listed, list) else None


def _kserve_config(target: Target, key: str) -> dict[str, Any] | str:
    """One key of KServe's configuration as a mapping, or a message why it cannot be used."""
    found = target.snapshot.get_object(CONFIG_MAPS, _KSERVE_NAMESPACE, _KSERVE_CONFIG_MAP)
    if found is None:
        return f"there is no ConfigMap {_KSERVE_CONFIG_MAP} in {_KSERVE_NAMESPACE}"
    try:
        value = json.loads((found.get("data") or {}).get(key) or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else f"the key `{key}` of {_KSERVE_CONFIG_MAP} is no JSON object"


def _standard_mode() -> str:
    return json.dumps({"defaultDeploymentMode": "Standard"})


def _total_allocatable(nodes: list[dict[str, Any]], resource: str) -> float:
    return sum(parse_quantity((status(each).get("allocatable") or {}).get(resource, "0")) for each in nodes)
