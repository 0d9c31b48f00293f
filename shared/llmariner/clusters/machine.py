"""The machine of the standalone mode as a cluster of one node, so that it is listed as clusters are."""

from __future__ import annotations

import platform
import time

from llmariner import __version__
from llmariner.clusters.heartbeats import PROTOCOL_VERSION, Component, Heartbeat
from llmariner.clusters.inventory import Inventory, Node, ProductTotal
from llmariner.platform.capacity import Capacity, total

__all__ = ["machine_heartbeat", "machine_inventory"]


def machine_inventory(capacity: Capacity) -> Inventory:
    """The inventory of the capacity of this machine and what holds it."""
    use = capacity.use()
    held = [claim for claim in use.claims if not claim.waits]
    used = total(held)
    gpus, cpu, memory = (use.pool.get(name, 0) for name in ("gpu", "cpu", "memory"))
    node = Node(
        name=platform.node()[:253] or "localhost",
        gpus=gpus,
        allocated_gpus=used["gpu"],
        cpu_millis=cpu,
        memory_bytes=memory,
    )
    whole = ProductTotal(
        nodes=1,
        ready_nodes=1,
        gpus=gpus,
        allocated_gpus=used["gpu"],
        cpu_millis=cpu,
        allocated_cpu_millis=used["cpu"],
        memory_bytes=memory,
        allocated_memory_bytes=used["memory"],
        pods=len(held),
    )
    return Inventory(products=(whole,), nodes=(node,), workloads=len(held))


def machine_heartbeat(inventory: Inventory) -> Heartbeat:
    """The heartbeat of this machine, which has no agent."""
    return Heartbeat(
        agent_version=__version__,
        protocol_version=PROTOCOL_VERSION,
        kubernetes_version="",
        sent_at=time.time(),
        components=(Component("platform", True, version=__version__),),
        inventory=inventory,
    )
