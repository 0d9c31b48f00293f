"""The inventory of a cluster: its nodes, what their GPUs are, and what pods have been given of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llmariner.clusters.inventory import MAX_GPU_PODS, MAX_NODES, MAX_PRODUCTS, GpuPod, Inventory, Node, ProductTotal
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import NODES, PODS

__all__ = ["is_gpu", "make_inventory", "read_inventory"]

_MANAGED_BY, _PLATFORM = "app.kubernetes.io/managed-by", "llmariner"
_ALIVE = "status.phase!=Succeeded,status.phase!=Failed"
_MAX_PRODUCT_LENGTH = 64
# Resources of device plugins that are GPUs or the like; NVIDIA's are also `.shared` and, of MIG, `mig-1g.5gb`.
_GPU_RESOURCES = frozenset(
    {
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "amd.com/gpu",
        "habana.ai/gaudi",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
    }
    | {"aws.amazon.com/neuroncore", "google.com/tpu"}
)
_PRODUCT_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")
_DEFAULT_PRODUCTS = {"habana.ai/gaudi": "Intel-Gaudi"}


def is_gpu(resource: str) -> bool:
    """Whether the resource of a device plugin is a GPU or another accelerator."""
    return resource in _GPU_RESOURCES or resource.startswith("nvidia.com/mig-")


def read_inventory(cluster: Cluster) -> Inventory:
    """The inventory of a cluster. Raises as `Cluster.list`."""
    nodes = cluster.list(NODES, None).items
    return make_inventory(nodes, cluster.list(PODS, None, fields=_ALIVE).items)


def make_inventory(nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> Inventory:
    """The inventory of nodes and pods that have not ended."""
    found = {node.name: node for node in map(_node, nodes)}
    used: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("gpus", "cpu", "memory", "pods"), 0))
    gpu_pods: list[GpuPod] = []
    workloads = 0
    for pod in pods:
        metadata, spec = pod["metadata"], pod.get("spec") or {}
        requests, on = _requests(spec), str(spec.get("nodeName") or "")
        gpus = {name: int(amount) for name, amount in requests.items() if is_gpu(name) and amount >= 1}
        workloads += metadata.get("labels", {}).get(_MANAGED_BY) == _PLATFORM
        for name, number in gpus.items():
            gpu_pods.append(GpuPod(metadata["namespace"], metadata["name"], name, number, on))
        if on:
            amounts = used[on]
            amounts["gpus"] += sum(gpus.values())
            amounts["cpu"] += round(1000 * requests.get("cpu", 0))
            amounts["memory"] += round(requests.get("memory", 0))
            amounts["pods"] += 1
    placed = [replace(node, allocated_gpus=used[node.name]["gpus"]) for node in found.values()]
    return Inventory(
        products=_products(placed, used),
        nodes=tuple(sorted(placed, key=_gpus_first)[:MAX_NODES]),
        gpu_pods=tuple(sorted(gpu_pods, key=lambda each: (each.namespace, each.name))[:MAX_GPU_PODS]),
        workloads=workloads,
    )


def _node(node: Mapping[str, Any]) -> Node:
    metadata, status = node["metadata"], node.get("status") or {}
    allocatable, labels = status.get("allocatable") or {}, metadata.get("labels") or {}
    gpus = {name: int(parse_quantity(amount)) for name, amount in allocatable.items() if is_gpu(name)}
    resource = max(gpus, key=lambda name: (gpus[name], name)) if any(gpus.values()) else ""
    return Node(
        name=metadata["name"],
        ready=any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ()),
        schedulable=not (node.get("spec") or {}).get("unschedulable", False),
        gpu_product=_product(labels, resource) if resource else "",
        gpu_resource=resource,
        gpus=sum(gpus.values()),
        gpu_memory_mib=_gpu_memory_mib(labels, gpus.get(resource, 0)),
        cpu_millis=round(1000 * parse_quantity(allocatable.get("cpu", 0))),
        memory_bytes=round(parse_quantity(allocatable.get("memory", 0))),
    )


def _product(labels: Mapping[str, str], resource: str) -> str:
    named = next((labels[label] for label in _PRODUCT_LABELS if labels.get(label)), "")
    return (named or _DEFAULT_PRODUCTS.get(resource, resource))[:_MAX_PRODUCT_LENGTH]


def _gpu_memory_mib(labels: Mapping[str, str], gpus: int) -> int:
    """The memory of all GPUs of a node. A GPU that is shared counts several times as `gpus`, and once here."""
    if memory := labels.get("nvidia.com/gpu.memory"):
        return int(parse_quantity(memory)) * int(parse_quantity(labels.get("nvidia.com/gpu.count", gpus)))
    vram = next((labels[name] for name in ("amd.com/gpu.vram", "beta.amd.com/gpu.vram") if labels.get(name)), "0")
    # AMD's labels say `64G` for 64 GiB.
    return round(parse_quantity(f"{vram}i" if vram[-1:].isalpha() and not vram.endswith("i") else vram) / 2**20) * gpus


def _requests(spec: Mapping[str, Any]) -> dict[str, float]:
    """What the scheduler reserves for a pod: containers and sidecars together, or one init container, which may be more."""
    init = spec.get("initContainers") or ()
    sidecars = [each for each in init if each.get("restartPolicy") == "Always"]
    total: dict[str, float] = defaultdict(float)
    for container in (*(spec.get("containers") or ()), *sidecars):
        for name, amount in _of(container).items():
            total[name] += amount
    for container in init:
        for name, amount in _of(container).items():
            total[name] = max(total[name], amount)
    for name, amount in _of(spec).items():  # resources of the pod as a whole go before those of its containers
        total[name] = amount
    for name, value in (spec.get("overhead") or {}).items():
        total[name] += parse_quantity(value)
    return total


def _of(container: Mapping[str, Any]) -> dict[str, float]:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_quantity(value) for name, value in amounts.items()}


def _products(nodes: Iterable[Node], used: Mapping[str, Mapping[str, int]]) -> tuple[ProductTotal, ...]:
    """The totals by product: the ones with the most GPUs; further ones together under the name `other`."""
    by_product: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        by_product[node.gpu_product].append(node)
    order = sorted(by_product, key=lambda name: (-sum(node.gpus for node in by_product[name]), name))
    for name in order[MAX_PRODUCTS - 1 :] if len(order) > MAX_PRODUCTS else ():
        by_product["other"] += by_product.pop(name)
    return tuple(_total(name, by_product[name], used) for name in sorted(by_product))


def _total(product: str, nodes: list[Node], used: Mapping[str, Mapping[str, int]]) -> ProductTotal:
    return ProductTotal(
        product=product,
        gpu_resource=nodes[0].gpu_resource,
        nodes=len(nodes),
        ready_nodes=sum(node.ready for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        allocated_gpus=sum(node.allocated_gpus for node in nodes),
        gpu_memory_mib=sum(node.gpu_memory_mib for node in nodes),
        cpu_millis=sum(node.cpu_millis for node in nodes),
        allocated_cpu_millis=sum(used[node.name]["cpu"] for node in nodes),
        memory_bytes=sum(node.memory_bytes for node in nodes),
        allocated_memory_bytes=sum(used[node.name]["memory"] for node in nodes),
        pods=sum(used[node.name]["pods"] for node in nodes),
    )


def _gpus_first(node: Node) -> tuple[int, str]:
    return -node.gpus, node.name
