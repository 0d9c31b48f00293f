"""Placement: on which cluster a replica of a model, or a worker of a job, may run best, and why on no other.

A pure function of what the control plane knows at one moment: nothing is stored or reserved here. The reasons are sentences
for the people who wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmariner.clusters.inventory import Inventory, Node

__all__ = ["Candidate", "Decision", "Demand", "Policy", "Refusal", "place"]

_FRESH_SECONDS = 300.0


class Policy(StrEnum):
    """Which of the clusters with room is the best."""

    SPREAD = "spread"
    """The one with the fewest replicas of the same workload, so that a lost cluster costs the least."""
    PACK = "pack"
    """The one that is left with the fewest free GPUs, so that large workloads find room elsewhere."""
    CHEAPEST = "cheapest"
    """The one with the lowest price."""


@dataclass(frozen=True)
class Demand:
    """What one replica or worker needs, all of it on one node. `products` empty: any; `allowed` None: every cluster.

    `running`: how many replicas of the same workload each cluster has; `warm`: where its weights are on a disk.
    """

    gpus: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    products: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None
    running: Mapping[str, int] = field(default_factory=dict)
    warm: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """A cluster as the control plane knows it. `inventory_age_seconds` None: it has not reported any.

    `assumed_gpus`: placed there since the inventory, which does not show them. `price`: of a GPU-hour by product, in
    nano-dollars; a product without one is the dearest.
    """

    cluster_id: str
    is_connected: bool
    is_draining: bool
    inventory: Inventory | None
    inventory_age_seconds: float | None
    assumed_gpus: int = 0
    price: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a cluster was not chosen. `is_full`: it would be, with room."""

    cluster_id: str
    reason: str
    is_full: bool = False


@dataclass(frozen=True)
class Decision:
    """`cluster_id` None: on no cluster now. `alternatives`: more clusters with room, the best first, to spill over to."""

    cluster_id: str | None
    alternatives: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    @property
    def may_wait(self) -> bool:
        """Whether a cluster would take it once it has room: else waiting is in vain."""
        return any(each.is_full for each in self.refusals)


def place(demand: Demand, candidates: Sequence[Candidate], policy: Policy = Policy.SPREAD) -> Decision:
    """The best cluster for one replica. The same input gives the same decision, in whatever order the clusters come."""
    fitting: list[tuple[Candidate, Node]] = []
    refusals = []
    for candidate in sorted(candidates, key=lambda each: each.cluster_id):
        found = _fit(demand, candidate)
        if isinstance(found, Refusal):
            refusals.append(found)
        else:
            fitting.append((candidate, found))
    fitting.sort(key=lambda each: _rank(demand, policy, *each))
    ids = [candidate.cluster_id for candidate, _ in fitting]
    return Decision(ids[0] if ids else None, tuple(ids[1:]), tuple(refusals))


def _fit(demand: Demand, candidate: Candidate) -> Node | Refusal:
    """The node on which the replica would fit the most tightly, or why there is none."""
    id_ = candidate.cluster_id
    if demand.allowed is not None and id_ not in demand.allowed:
        return Refusal(id_, "It is not among the clusters that are allowed for this workload.")
    if candidate.is_draining:
        return Refusal(id_, "It is drained, and gets no new work.")
    if not candidate.is_connected:
        return Refusal(id_, "Its agent does not report.")
    if candidate.inventory is None or candidate.inventory_age_seconds is None:
        return Refusal(id_, "Its agent has not reported its nodes yet.")
    if candidate.inventory_age_seconds > _FRESH_SECONDS:
        return Refusal(id_, f"What is known of its nodes is {candidate.inventory_age_seconds:.0f} s old.")
    suitable = [node for node in candidate.inventory.nodes if _is_suitable(demand, node)]
    if not suitable:
        return Refusal(id_, _unsuitable(demand))
    with_room = [node for node in suitable if node.ready and node.schedulable and _free(node) >= demand.gpus]
    free = sum(map(_free, suitable)) - candidate.assumed_gpus
    if not with_room or free < demand.gpus:
        return Refusal(
            id_, f"None of its {len(suitable)} suitable nodes has {demand.gpus} free GPUs now.", is_full=True
        )
    return min(with_room, key=lambda node: (_price(candidate, node), _free(node), node.name))


def _is_suitable(demand: Demand, node: Node) -> bool:
    """Whether an empty node would take the replica."""
    enough = (
        node.gpus >= demand.gpus and node.cpu_millis >= demand.cpu_millis and node.memory_bytes >= demand.memory_bytes
    )
    return enough and (not demand.products or not demand.gpus or node.gpu_product in demand.products)


def _unsuitable(demand: Demand) -> str:
    kinds = f" of {' or '.join(sorted(demand.products))}" if demand.products else ""
    gpus = f"{demand.gpus} GPUs{kinds}, " if demand.gpus else ""
    return (
        f"None of its nodes, even an empty one, has {gpus}{demand.cpu_millis / 1000:g} cores and "
        f"{demand.memory_bytes / 2**30:g} GiB of memory."
    )


def _free(node: Node) -> int:
    return max(0, node.gpus - node.allocated_gpus)


def _price(candidate: Candidate, node: Node) -> float:
    return candidate.price.get(node.gpu_product, float("inf"))


def _rank(demand: Demand, policy: Policy, candidate: Candidate, node: Node) -> tuple[float | str, ...]:
    """What makes a cluster better comes first and is smaller. Weights on a disk decide between equals."""
    id_, inventory = candidate.cluster_id, candidate.inventory
    assert inventory is not None
    free = inventory.total("gpus") - inventory.total("allocated_gpus") - candidate.assumed_gpus
    replicas, cold, price = demand.running.get(id_, 0), id_ not in demand.warm, _price(candidate, node)
    return {
        Policy.SPREAD: (replicas, cold, price, -free, id_),
        Policy.PACK: (free, cold, price, replicas, id_),
        Policy.CHEAPEST: (price, cold, replicas, -free, id_),
    }[policy]
