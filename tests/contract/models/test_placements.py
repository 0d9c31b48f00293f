"""Placements of engines: which clusters a model may be placed on, what two at once assume, and what is recorded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters.inventory import WORK, Inventory, Node, ProductTotal
from llmariner.clusters.placement import Policy
from llmariner.clusters.status import ClusterStatuses
from llmariner.clusters.tables import cluster_statuses, clusters
from llmariner.models.placements import ModelPlacements
from llmariner.models.tables import model_placements
from llmariner.platform.database import Database
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.placed.placements import HOME
from llmariner.showback.tables import compute_prices
from llmariner.tenancy.tables import organizations, projects

MODEL = EngineModel("small", "hf://org/small", "generate", 0, storage_uri="hf://org/small", gpus=1)


def inventory(gpus: int) -> Inventory:
    product = "NVIDIA-L4" if gpus else ""
    node = Node("n", gpu_product=product, gpus=gpus, cpu_millis=64_000, memory_bytes=1 << 40)
    return Inventory((ProductTotal(product, nodes=1, ready_nodes=1, gpus=gpus),), (node,))


class World:
    """Two organizations with clusters. `gpus`: by cluster, None for one that has not reported."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.write() as session:
            for name, is_default in (("org_a", True), ("org_b", False)):
                session.add(organizations, id=name, title=name, is_default=is_default, created_at=1)
                project = {"id": f"proj_{name[-1]}", "organization_id": name, "title": name, "created_at": 1}
                session.add(projects, **project, is_default=False)
        self.placements = ModelPlacements(database, lambda: ClusterStatuses(database, WorkerClusterSettings()))

    def cluster(
        self, cluster_id: str, gpus: int | None, organization: str = "org_a", *, takes_work: bool = True
    ) -> None:
        components = [{"name": WORK, "is_healthy": True, "message": "", "version": ""}] if takes_work else []
        with self.database.write() as session:
            session.add(clusters, id=cluster_id, organization_id=organization, name=cluster_id[8:], created_at=1)
            if gpus is not None:
                found = inventory(gpus).to_json()
                row: Mapping[str, Any] = {
                    "cluster_id": cluster_id,
                    "heartbeat_at": time.time(),
                    "agent_version": "1",
                    "protocol_version": 1,
                    "kubernetes_version": "v1",
                    "components": json.dumps(components),
                    "products": json.dumps(found["products"]),
                    "inventory": json.dumps(found),
                    "inventory_at": time.time(),
                    "workloads": 0,
                }
                session.add(cluster_statuses, **row)

    def change(self, table: Any, key: str, **values: Any) -> None:
        with self.database.write() as session:
            session.run(table.update().where(table.c.id == key).values(**values))

    def place(self, model: EngineModel = MODEL, *adapters: EngineModel, without: str = HOME) -> str | None:
        excluded = {each for each in without.split() if each}
        return asyncio.run(self.placements.place(ServedEngine(model, adapters), excluded=excluded)).cluster_id


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def own(project: str = "proj_a", **fields: Any) -> EngineModel:
    return replace(MODEL, project=project, organization=f"org_{project[-1]}", **fields)


def test_without_other_clusters_a_model_is_woken_at_home_and_nothing_is_recorded(world: World) -> None:
    assert not asyncio.run(world.placements.exist())
    assert world.place(without="") == HOME
    assert asyncio.run(world.placements.all()) == []


def test_a_placement_is_recorded_once_and_removed(world: World) -> None:
    world.cluster("cluster-west", 4)
    assert asyncio.run(world.placements.exist())
    engine = (MODEL.id, None)
    for _ in range(2):
        assert world.place() == "cluster-west"
        (row,) = asyncio.run(world.placements.of(engine))
        assert (row.cluster_id, row.cluster_name, row.is_draining) == ("cluster-west", "west", False)
        assert row.woken_at == pytest.approx(time.time(), abs=60)
    world.change(clusters, "cluster-west", drain_requested_at=1)
    assert [each.is_draining for each in asyncio.run(world.placements.all())] == [True]
    for _ in range(2):
        asyncio.run(world.placements.remove(engine, "cluster-west"))
    assert asyncio.run(world.placements.of(engine)) == []


def test_gpus_that_were_placed_since_the_inventory_count_also_for_two_at_once(world: World) -> None:
    world.cluster("cluster-west", 2)
    models = [replace(MODEL, id=f"model-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        placed = list(threads.map(world.place, models))
    assert placed.count("cluster-west") == 2
    assert placed.count(None) == 2
    choice = asyncio.run(world.placements.place(ServedEngine(own(id="more")), excluded={HOME}))
    assert "west: None of its 1 suitable nodes has 1 free GPUs now." in choice.reason
    shared = asyncio.run(world.placements.place(ServedEngine(replace(MODEL, id="more")), excluded={HOME}))
    assert shared.reason == "No cluster takes the model now."  # whose clusters these are is not for everybody


def test_two_processes_that_wake_a_model_at_once_have_one_cluster_start_it(world: World) -> None:
    for name in ("east", "west"):
        world.cluster(f"cluster-{name}", 4)
    with ThreadPoolExecutor(3) as threads:
        placed = set(threads.map(lambda _: world.place(), range(3)))
    assert len(placed) == 1
    (first,) = placed
    assert len(asyncio.run(world.placements.all())) == 1
    other = {"cluster-east", "cluster-west"} - placed
    assert {world.place(without=f"{HOME} {first}")} == other  # where it failed it is not woken again
    world.change(clusters, other.pop(), drain_requested_at=1)
    assert world.place() == first


def test_placements_on_clusters_that_are_not_registered_any_more_are_forgotten(world: World) -> None:
    world.cluster("cluster-west", 4)
    world.place()
    asyncio.run(world.placements.forget_gone())
    assert [each.cluster_id for each in asyncio.run(world.placements.all())] == ["cluster-west"]
    with world.database.write() as session:
        session.run(cluster_statuses.delete().where(cluster_statuses.c.cluster_id == "cluster-west"))
        session.run(clusters.delete().where(clusters.c.id == "cluster-west"))
    asyncio.run(world.placements.forget_gone())
    assert asyncio.run(world.placements.all()) == []


def test_clusters_are_those_of_the_organization_that_its_project_and_the_model_allow(world: World) -> None:
    world.cluster("cluster-west", 4)
    world.cluster("cluster-east", 8)
    world.cluster("cluster-other", 16, "org_b")
    assert world.place(own("proj_b")) == "cluster-other"
    # A shared model has clusters of the organization that runs the installation.
    assert world.place() == "cluster-east"
    assert world.place(own(allowed_clusters=("cluster-west", "cluster-other"))) == "cluster-west"
    assert world.place(own(allowed_clusters=("cluster-other",))) is None
    assigned = [{"cluster_id": "cluster-west", "namespace": "n", "queue": "", "node_selector": []}]
    world.change(projects, "proj_a", assignments=json.dumps(assigned))
    assert world.place(own()) == "cluster-west"


@pytest.mark.parametrize(
    "change",
    [{"drain_requested_at": 1}, {"delete_requested_at": 1, "drain_requested_at": 1}],
    ids=["drained", "leaving"],
)
def test_a_drained_cluster_gets_nothing(world: World, change: dict[str, int]) -> None:
    world.cluster("cluster-west", 4)
    world.change(clusters, "cluster-west", **change)
    assert world.place() is None


def test_a_cluster_that_lets_only_people_in_or_was_never_seen_gets_nothing(world: World) -> None:
    world.cluster("cluster-closed", 4, takes_work=False)
    world.cluster("cluster-unseen", None)
    assert world.place() is None


def test_an_engine_stays_at_home_when_others_can_not_fetch_one_of_its_files(world: World) -> None:
    world.cluster("cluster-west", 4)
    assert world.place(replace(MODEL, storage_uri="")) is None
    adapter = replace(MODEL, id="ft:small:x", base=MODEL.id, storage_uri="")
    assert world.place(MODEL, adapter) is None
    assert world.place(MODEL, adapter, without="") == HOME


def test_models_run_on_processors_only_where_no_cluster_has_a_gpu(world: World) -> None:
    world.cluster("cluster-cpu", 0)
    assert world.place() == "cluster-cpu"
    world.cluster("cluster-gpu", 2)
    assert world.place(replace(MODEL, id="another")) == "cluster-gpu"


def test_a_model_that_is_too_large_is_placed_nowhere(world: World) -> None:
    world.cluster("cluster-west", 4)
    assert world.place(replace(MODEL, size_bytes=1 << 41)) is None


def test_rows_of_two_engines_of_one_model_do_not_mix(world: World) -> None:
    world.cluster("cluster-west", 4)
    assert world.place(replace(MODEL, adapters_of="proj_b", project="proj_a", organization="org_a")) == "cluster-west"
    assert asyncio.run(world.placements.of((MODEL.id, None))) == []
    with world.database.read() as session:
        assert [row.adapters_of for row in session.rows(model_placements.select())] == ["proj_b"]


def test_the_cheapest_cluster_has_the_lowest_price_of_its_gpus(world: World) -> None:
    world.cluster("cluster-big", 8)
    world.cluster("cluster-cheap", 1)
    with world.database.write() as session:
        price = {"valid_from": 1.0, "valid_to": None, "core_hour": 0, "gib_hour": 0, "created_at": 1}
        session.add(compute_prices, id="p1", device="NVIDIA-L4", gpu_hour=9, **price)
        session.add(compute_prices, id="p2", device="NVIDIA-T4", gpu_hour=5, **price)
        found = json.dumps(inventory(1).to_json()).replace("NVIDIA-L4", "NVIDIA-T4")
        row = cluster_statuses.update().where(cluster_statuses.c.cluster_id == "cluster-cheap")
        session.run(row.values(inventory=found))
    assert world.place() == "cluster-big"
    statuses = ClusterStatuses(world.database, WorkerClusterSettings())
    cheapest = ModelPlacements(world.database, lambda: statuses, Policy.CHEAPEST)
    choice = asyncio.run(cheapest.place(ServedEngine(replace(MODEL, id="another")), excluded={HOME}))
    assert choice.cluster_id == "cluster-cheap"
