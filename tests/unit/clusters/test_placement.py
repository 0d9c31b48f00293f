"""Placement picks a cluster with room by the policy, and says of every other why not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from llmariner.clusters.inventory import Inventory, Node, ProductTotal
from llmariner.clusters.placement import Candidate, Demand, Policy, place

GIB = 2**30


def node(name: str, free: int, gpus: int = 8, product: str = "A100", **fields: bool) -> Node:
    held = {"gpus": gpus, "allocated_gpus": gpus - free, "cpu_millis": 64_000, "memory_bytes": 256 * GIB}
    return Node(name, gpu_product=product, **held, **fields)  # type: ignore[arg-type]


def cluster(id_: str, *nodes: Node, **fields: object) -> Candidate:
    whole = ProductTotal(
        gpus=sum(each.gpus for each in nodes), allocated_gpus=sum(each.allocated_gpus for each in nodes)
    )
    known = Candidate(id_, True, False, Inventory((whole,), nodes), 10.0)
    return replace(known, **fields)  # type: ignore[arg-type]


EAST, WEST = cluster("east", node("e1", free=4)), cluster("west", node("w1", free=8))
FOUR = Demand(gpus=4, cpu_millis=8000, memory_bytes=64 * GIB)


@pytest.mark.parametrize(
    ("candidate", "words", "full"),
    [
        (replace(EAST, is_draining=True), "drained", False),
        (replace(EAST, is_connected=False), "does not report", False),
        (replace(EAST, inventory=None), "not reported its nodes", False),
        (replace(EAST, inventory_age_seconds=301.0), "301 s old", False),
        (cluster("east", node("e1", free=2, gpus=2)), "even an empty one, has 4 GPUs", False),
        (cluster("east", node("e1", free=8, product="T4")), "4 GPUs of A100 or H100", False),
        # Six are free, and no node has four of them.
        (cluster("east", node("e1", free=3), node("e2", free=3)), "2 suitable nodes has 4 free", True),
        (cluster("east", node("e1", free=8, ready=False)), "has 4 free GPUs now", True),
        (cluster("east", node("e1", free=8, schedulable=False)), "has 4 free GPUs now", True),
        (cluster("east", node("e1", free=8), assumed_gpus=5), "has 4 free GPUs now", True),
    ],
)
def test_a_cluster_that_can_not_take_it_says_why(candidate: Candidate, words: str, full: bool) -> None:
    decision = place(replace(FOUR, products=frozenset({"A100", "H100"})), [candidate])
    assert decision.cluster_id is None
    assert [(words in each.reason, each.is_full) for each in decision.refusals] == [(True, full)]
    assert decision.may_wait is full


def test_a_cluster_that_is_not_allowed_is_never_chosen() -> None:
    decision = place(replace(FOUR, allowed=frozenset({"east"})), [EAST, WEST])
    assert (decision.cluster_id, decision.alternatives) == ("east", ())
    assert place(replace(FOUR, allowed=frozenset()), [EAST, WEST]).cluster_id is None


@pytest.mark.parametrize(
    ("policy", "demand", "order"),
    [
        (Policy.SPREAD, FOUR, ["west", "east"]),
        (Policy.SPREAD, replace(FOUR, running={"west": 1}), ["east", "west"]),
        (Policy.SPREAD, replace(FOUR, warm=frozenset({"east"})), ["east", "west"]),
        (Policy.SPREAD, replace(FOUR, running={"west": 1}, warm=frozenset({"west"})), ["east", "west"]),
        (Policy.PACK, FOUR, ["east", "west"]),
        (Policy.CHEAPEST, FOUR, ["west", "east"]),
    ],
)
def test_the_policy_orders_the_clusters_with_room(policy: Policy, demand: Demand, order: list[str]) -> None:
    priced = [replace(EAST, price={"A100": 3}), replace(WEST, price={"A100": 2 if policy is Policy.CHEAPEST else 3})]
    decision = place(demand, priced, policy)
    assert [decision.cluster_id, *decision.alternatives] == order


def test_a_decision_does_not_depend_on_the_order_of_the_clusters() -> None:
    clusters = [cluster(f"c{number}", node("n", free=number % 9)) for number in range(20)]
    expected = place(FOUR, clusters)
    for seed in range(5):
        random.Random(seed).shuffle(clusters)
        assert place(FOUR, clusters) == expected


def test_without_gpus_any_node_with_cores_and_memory_will_do() -> None:
    small = Demand(cpu_millis=1000, memory_bytes=GIB, products=frozenset({"A100"}))
    assert place(small, [cluster("cpu", node("c1", free=0, gpus=0, product=""))]).cluster_id == "cpu"
    assert place(replace(small, memory_bytes=512 * GIB), [EAST]).cluster_id is None
