"""The inventory of nodes and pods: kinds of GPUs by their labels, and what the scheduler reserves."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.agent.nodes import make_inventory
from llmariner.clusters.inventory import MAX_GPU_PODS, MAX_NODES, MAX_PRODUCTS


def node(name: str, labels: dict[str, str] | None = None, ready: str = "True", **allocatable: str) -> dict[str, Any]:
    amounts = {key.replace("__", "/").replace("_", "."): value for key, value in allocatable.items()}
    status: dict[str, Any] = {"allocatable": {"cpu": "3920m", "memory": "16Gi", **amounts}}
    status |= {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {}, "status": status}


def pod(name: str, spec: dict[str, Any], on: str = "", managed: bool = False) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "llmariner"} if managed else {}
    place = {"nodeName": on} if on else {}
    return {"metadata": {"namespace": "jobs", "name": name, "labels": labels}, "spec": {**place, **spec}}


def asks(**requests: str) -> dict[str, Any]:
    return {
        "resources": {"requests": {key.replace("__", "/").replace("_", "."): each for key, each in requests.items()}}
    }


GPUS = {"nvidia_com__gpu": "8"}
A100 = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.count": "8",
}
MI300 = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "192G"}


@pytest.mark.parametrize(
    ("labels", "allocatable", "expected"),
    [
        ({}, {}, ("", "", 0, 0)),
        (A100, GPUS, ("NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", 8, 655360)),
        # Each of eight GPUs is shared by four, and has its memory once.
        (A100, {"nvidia_com__gpu": "32"}, ("NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", 32, 655360)),
        (
            A100,
            {"nvidia_com__gpu": "0", "nvidia_com__mig-1g_10gb": "7"},
            ("NVIDIA-A100-SXM4-80GB", "nvidia.com/mig-1g.10gb", 7, 655360),
        ),
        (MI300, {"amd_com__gpu": "2"}, ("AMD_Instinct_MI300X", "amd.com/gpu", 2, 393216)),
        ({}, {"habana_ai__gaudi": "8"}, ("Intel-Gaudi", "habana.ai/gaudi", 8, 0)),
        ({}, {"gpu_intel_com__xe": "1"}, ("gpu.intel.com/xe", "gpu.intel.com/xe", 1, 0)),
        ({}, {"nvidia_com__gpu": "many"}, ("", "", 0, 0)),
    ],
)
def test_the_gpus_of_a_node(labels: dict[str, str], allocatable: dict[str, str], expected: tuple[Any, ...]) -> None:
    [found] = make_inventory([node("gpu-1", labels, **allocatable)], []).nodes
    assert (found.gpu_product, found.gpu_resource, found.gpus, found.gpu_memory_mib) == expected


@pytest.mark.parametrize(
    ("spec", "gpus", "cpu"),
    [
        ({"containers": [asks(nvidia_com__gpu="2", cpu="1"), asks(cpu="500m")]}, 2, 1500),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}, 1, 0),
        # An init container that asks for more holds it; a sidecar stays beside the containers.
        ({"containers": [asks(cpu="1")], "initContainers": [asks(cpu="3")]}, 0, 3000),
        ({"containers": [asks(cpu="1")], "initContainers": [{**asks(cpu="3"), "restartPolicy": "Always"}]}, 0, 4000),
        ({"containers": [asks(cpu="1")], "overhead": {"cpu": "250m"}}, 0, 1250),
        ({"containers": [asks(cpu="1")], **asks(cpu="2")}, 0, 2000),
        ({}, 0, 0),
    ],
)
def test_what_a_pod_holds(spec: dict[str, Any], gpus: int, cpu: int) -> None:
    [total] = make_inventory([node("gpu-1", A100, **GPUS)], [pod("train-0", spec, "gpu-1")]).products
    assert (total.allocated_gpus, total.allocated_cpu_millis, total.pods) == (gpus, cpu, 1)


def test_waiting_pods_hold_nothing_and_the_platforms_are_counted() -> None:
    holds = {"containers": [asks(nvidia_com__gpu="1")]}
    pods = [
        pod("runs", holds, "gpu-1", True),
        pod("waits", holds, managed=True),
        pod("theirs", holds, "gone-node"),
    ]
    found = make_inventory([node("gpu-1", A100, **GPUS), node("cpu-1", ready="Unknown")], pods)
    assert [(each.product, each.nodes, each.ready_nodes, each.allocated_gpus) for each in found.products] == [
        ("", 1, 0, 0),
        ("NVIDIA-A100-SXM4-80GB", 1, 1, 1),
    ]
    assert [(each.name, each.node) for each in found.gpu_pods] == [
        ("runs", "gpu-1"),
        ("theirs", "gone-node"),
        ("waits", ""),
    ]
    assert found.workloads == 2


def test_an_inventory_is_bounded_and_its_totals_are_not() -> None:
    nodes = [node(f"n{number}", {"nvidia.com/gpu.product": f"P{number}"}, **GPUS) for number in range(70)]
    nodes += [node(f"cpu-{number}") for number in range(MAX_NODES)]
    holds = {"containers": [asks(nvidia_com__gpu="1")]}
    found = make_inventory(nodes, [pod(f"p{number}", holds, "n1") for number in range(MAX_GPU_PODS + 1)])
    assert (len(found.products), len(found.nodes), len(found.gpu_pods)) == (MAX_PRODUCTS, MAX_NODES, MAX_GPU_PODS)
    assert (found.total("nodes"), found.total("gpus"), found.total("allocated_gpus")) == (MAX_NODES + 70, 560, 2001)
