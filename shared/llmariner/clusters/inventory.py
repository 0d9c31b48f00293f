"""What there is in a cluster, as its agent reports it. Imports the standard library alone: the agent uses it, too.

An agent of another minor version may send fields that this version does not know, and lack some that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

__all__ = ["MAX_GPU_PODS", "MAX_NODES", "MAX_PRODUCTS", "WORK", "GpuPod", "Inventory", "Node", "ProductTotal"]

MAX_NODES, MAX_GPU_PODS, MAX_PRODUCTS = 1000, 2000, 64
"""How many an inventory lists; `products` has the totals of all nodes, also of those that are not listed."""

WORK = "work"
"""The component that an agent reports where the control plane may run work in its cluster."""

Part = TypeVar("Part", bound="Node | GpuPod | ProductTotal")


@dataclass(frozen=True)
class Node:
    """A node. `gpus`: those that can be allocated, of the kind `gpu_resource`; `gpu_product` empty: it has none."""

    name: str
    ready: bool = True
    schedulable: bool = True
    gpu_product: str = ""
    gpu_resource: str = ""
    gpus: int = 0
    allocated_gpus: int = 0
    gpu_memory_mib: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class GpuPod:
    """A pod that holds GPUs, or (`node` empty) waits for them."""

    namespace: str
    name: str
    gpu_resource: str
    gpus: int
    node: str = ""


@dataclass(frozen=True)
class ProductTotal:
    """The nodes with one GPU product together; `product` empty: those without a GPU. `pods`: all that run there."""

    product: str = ""
    gpu_resource: str = ""
    nodes: int = 0
    ready_nodes: int = 0
    gpus: int = 0
    allocated_gpus: int = 0
    gpu_memory_mib: int = 0
    cpu_millis: int = 0
    allocated_cpu_millis: int = 0
    memory_bytes: int = 0
    allocated_memory_bytes: int = 0
    pods: int = 0


@dataclass(frozen=True)
class Inventory:
    """The nodes of a cluster and what is allocated of them. `workloads`: pods of the platform's models, jobs, notebooks."""

    products: Sequence[ProductTotal] = ()
    nodes: Sequence[Node] = ()
    gpu_pods: Sequence[GpuPod] = ()
    workloads: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Inventory:
        """The inventory of `to_json`. Unknown fields are ignored."""
        return cls(
            products=tuple(_part(ProductTotal, each) for each in value.get("products") or ()),
            nodes=tuple(_part(Node, each) for each in value.get("nodes") or ()),
            gpu_pods=tuple(_part(GpuPod, each) for each in value.get("gpu_pods") or ()),
            workloads=int(value.get("workloads") or 0),
        )

    def to_json(self) -> dict[str, Any]:
        """As an agent sends it."""
        return asdict(self)

    def total(self, name: str) -> int:
        """The sum of a field of `ProductTotal` over all products."""
        return sum(getattr(each, name) for each in self.products)


def _part(kind: type[Part], value: Mapping[str, Any]) -> Part:
    known = {each.name for each in fields(kind)}
    return kind(**{name: each for name, each in value.items() if name in known})
