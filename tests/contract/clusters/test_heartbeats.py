"""What agents report of their clusters, the answers to it, and how clusters are deleted by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters import tables
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID, cluster_from_row
from llmariner.clusters.clusters import Clusters
from llmariner.clusters.configs import ClusterConfigs
from llmariner.clusters.device_plugin import DevicePluginConfig, MigStrategy
from llmariner.clusters.heartbeats import Component, ConfigResult, Heartbeat, Heartbeats
from llmariner.clusters.inventory import GpuPod, Inventory, Node, ProductTotal
from llmariner.clusters.machine import machine_heartbeat, machine_inventory
from llmariner.clusters.registration_keys import RegisteredAgent, RegistrationKeys
from llmariner.clusters.snapshots import HOUR, GroupBy, Snapshots
from llmariner.clusters.status import ClusterStatuses
from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, Unavailable
from llmariner.job_placement.cluster_reports import request_reported_jobs
from llmariner.platform.capacity import Claim, Kind, Use
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller

from ..team import PEPPER, Team

SETTINGS = WorkerClusterSettings(heartbeat_seconds=0.001)
PATIENT = WorkerClusterSettings()
NODES = (
    Node("gpu-1", gpu_product="A100", gpu_resource="nvidia.com/gpu", gpus=8, allocated_gpus=3, gpu_memory_mib=640),
)
PRODUCTS = (
    ProductTotal(
        "A100", "nvidia.com/gpu", nodes=1, ready_nodes=1, gpus=8, allocated_gpus=3, gpu_memory_mib=640, pods=4
    ),
    ProductTotal(nodes=2, ready_nodes=2, pods=5),
)
INVENTORY = Inventory(PRODUCTS, NODES, (GpuPod("jobs", "train-0", "nvidia.com/gpu", 3, "gpu-1"),), workloads=1)
HEARTBEAT = Heartbeat("0.4.0", 1, "v1.34.1", 0.0, (Component("agent", True), Component("kueue", False, "No replica.")))


@pytest.fixture
def clusters(database: Database) -> Clusters:
    return Clusters(database, PEPPER)


@pytest.fixture
def heartbeats(database: Database) -> Heartbeats:
    return Heartbeats(database, SETTINGS, request_reported_jobs)


@pytest.fixture
def admin(team: Team) -> Caller:
    return team.admin


@pytest.fixture
def agent(clusters: Clusters, admin: Caller, database: Database) -> RegisteredAgent:
    return RegistrationKeys(database, PEPPER).authenticate(clusters.register(admin, "gpu-west")[1])


def heard(heartbeats: Heartbeats, agent: RegisteredAgent, heartbeat: Heartbeat) -> dict[str, object]:
    return heartbeats.record(agent, replace(heartbeat, sent_at=time.time() - 90))


def test_a_heartbeat_is_the_status_until_too_many_are_missed(
    heartbeats: Heartbeats, agent: RegisteredAgent, database: Database
) -> None:
    answer = heard(heartbeats, agent, replace(HEARTBEAT, inventory=INVENTORY))
    assert (answer["cluster_id"], answer["device_plugin_config"], answer["draining"]) == (agent.cluster.id, None, False)
    time.sleep(0.001)
    heard(heartbeats, agent, HEARTBEAT)  # without an inventory: the one before stays
    [status] = ClusterStatuses(database, PATIENT).of([agent.cluster.id, "cluster-none"], whole=True).values()
    assert status.is_connected
    assert status.inventory == INVENTORY
    assert -95 < (status.clock_skew_seconds or 0) < -85
    assert [(name, each.is_healthy) for name, each in status.components.items()] == [("agent", True), ("kueue", False)]
    with database.write() as session:
        session.run(update(tables.cluster_statuses).values(heartbeat_at=time.time() - 61))
    [status] = ClusterStatuses(database, PATIENT).of([agent.cluster.id]).values()
    assert not status.is_connected
    assert status.components["agent"].message.startswith("No update received for 61 s. It was healthy")
    assert status.inventory == Inventory(PRODUCTS)


def test_a_revoked_key_reports_nothing_also_where_it_was_valid_a_moment_ago(
    clusters: Clusters, heartbeats: Heartbeats, agent: RegisteredAgent, admin: Caller, database: Database
) -> None:
    clusters.revoke_key(admin, agent.cluster.id, operator=False)
    with pytest.raises(AuthenticationFailed):
        heard(heartbeats, agent, HEARTBEAT)
    assert ClusterStatuses(database, PATIENT).of([agent.cluster.id]) == {}


def test_an_agent_that_is_too_old_or_too_eager(agent: RegisteredAgent, database: Database) -> None:
    patient = Heartbeats(database, PATIENT, request_reported_jobs)
    with pytest.raises(InvalidRequest) as raised:
        heard(patient, agent, replace(HEARTBEAT, protocol_version=0))
    assert raised.value.code == "agent_too_old"
    for version in ("first", "too soon"):
        heard(patient, agent, replace(HEARTBEAT, agent_version=version, protocol_version=9))
    assert ClusterStatuses(database, PATIENT).of([agent.cluster.id])[agent.cluster.id].agent_version == "first"


def test_the_agent_of_the_control_planes_own_cluster_is_asked_for_no_jobs(database: Database) -> None:
    with database.write() as session:
        home = {"id": LOCAL_CLUSTER_ID, "name": "default", "created_at": 1, "digest": "home"}
        session.insert_if_absent(tables.clusters, [home])
        row = session.first(select(tables.clusters).where(tables.clusters.c.id == LOCAL_CLUSTER_ID))
    assert row is not None
    agent = RegisteredAgent(cluster_from_row(row), "home")
    answer = heard(Heartbeats(database, SETTINGS, fail), agent, replace(HEARTBEAT, changed_jobs=["bj-1"]))
    assert (answer["changed_jobs_limit"], answer["changed_jobs_taken"]) == (0, False)


def test_a_heartbeat_whose_jobs_can_not_be_looked_up_is_not_recorded(
    agent: RegisteredAgent, database: Database
) -> None:
    with pytest.raises(Unavailable):
        heard(Heartbeats(database, SETTINGS, fail), agent, replace(HEARTBEAT, changed_jobs=["bj-1"]))
    assert ClusterStatuses(database, PATIENT).of([agent.cluster.id]) == {}


def fail(*_: object) -> None:
    raise Unavailable("No job can be looked up.")


def test_a_configuration_is_pending_until_the_agent_reports_its_generation(
    heartbeats: Heartbeats, agent: RegisteredAgent, admin: Caller, database: Database
) -> None:
    configs, id_, where = ClusterConfigs(database), agent.cluster.id, admin.organization_id
    for absent in (
        lambda: configs.get(where, id_),
        lambda: configs.delete(admin, id_, operator=False),
        lambda: configs.change(admin, id_, lambda each: each, operator=False),
    ):
        with pytest.raises(NotFound):
            absent()
    assert configs.create(admin, id_, DevicePluginConfig(time_slices=4), operator=False).status == "pending"
    with pytest.raises(Conflict):
        configs.create(admin, id_, DevicePluginConfig(time_slices=4), operator=False)
    answer = heard(heartbeats, agent, HEARTBEAT)["device_plugin_config"]
    assert answer == {"generation": 1, "config": {"time_slicing": {"gpus": 4}}}
    mixed = DevicePluginConfig(time_slices=2, mig_strategy=MigStrategy.MIXED)
    assert configs.change(admin, id_, lambda _: mixed, operator=False).generation == 2
    for result, expected in (
        (ConfigResult(1, True), "pending"),
        (ConfigResult(2, False, "No namespace."), "failed"),
        (ConfigResult(1, True), "failed"),  # late
        (ConfigResult(7, True), "failed"),  # never asked for
        (ConfigResult(2, True), "applied"),
    ):
        time.sleep(0.001)
        heard(heartbeats, agent, replace(HEARTBEAT, config=result))
        assert configs.get(where, id_).status == expected, result
    configs.delete(admin, id_, operator=False)
    time.sleep(0.001)
    assert heard(heartbeats, agent, HEARTBEAT)["device_plugin_config"] == {"generation": 3, "config": None}
    assert configs.create(admin, id_, mixed, operator=False).generation == 4


def test_a_cluster_with_work_is_deleted_once_it_has_none(
    clusters: Clusters, heartbeats: Heartbeats, agent: RegisteredAgent, admin: Caller, database: Database
) -> None:
    id_, where = agent.cluster.id, admin.organization_id
    heard(heartbeats, agent, replace(HEARTBEAT, inventory=INVENTORY))
    with pytest.raises(Conflict) as raised:
        clusters.delete(admin, id_, drain=False, operator=False)
    assert raised.value.code == "cluster_in_use"
    kept = clusters.delete(admin, id_, drain=True, operator=False)
    assert kept is not None
    assert kept.drain_requested_at is not None
    assert clusters.finish_deletions() == 0
    time.sleep(0.001)
    assert heard(heartbeats, agent, HEARTBEAT)["draining"] is True
    time.sleep(0.001)
    heard(heartbeats, agent, replace(HEARTBEAT, inventory=replace(INVENTORY, workloads=0)))
    assert [clusters.finish_deletions() for _ in range(2)] == [1, 0]
    with pytest.raises(NotFound):
        clusters.get(where, id_)
    with pytest.raises(AuthenticationFailed):
        heard(heartbeats, agent, HEARTBEAT)


def test_heartbeats_while_the_cluster_is_deleted_are_recorded_or_refused(
    clusters: Clusters,
    heartbeats: Heartbeats,
    admin: Caller,
    database: Database,
    run_concurrently: Callable[..., list[Any]],
) -> None:
    for number in range(3):
        made, key = clusters.register(admin, f"gone-{number}")
        agent = RegistrationKeys(database, PEPPER).authenticate(key)
        report = partial(heard, heartbeats, agent, HEARTBEAT)
        unregister = partial(clusters.delete, admin, made.id, drain=False, operator=False)
        *reported, deleted = run_concurrently([report] * 4 + [unregister])
        assert deleted is None
        assert all(isinstance(each, dict | AuthenticationFailed) for each in reported), reported
    with database.read() as session:
        assert session.rows(select(tables.cluster_statuses)) == []


def test_the_machine_of_one_machine_is_a_cluster_of_one_node(
    heartbeats: Heartbeats, database: Database, admin: Caller
) -> None:
    class Machine:
        def use(self) -> Use:
            held = Claim("proj_1", Kind.JOBS, {"cpu": 1000, "memory": 5})
            return Use({"cpu": 4000, "memory": 9}, [held, Claim("proj_1", Kind.JOBS, {"cpu": 9000}, waits=True)])

    inventory = machine_inventory(Machine())  # type: ignore[arg-type]
    assert (inventory.total("cpu_millis"), inventory.total("allocated_cpu_millis"), inventory.workloads) == (
        4000,
        1000,
        1,
    )
    live = ClusterStatuses(database, PATIENT, lambda: inventory).of([LOCAL_CLUSTER_ID])[LOCAL_CLUSTER_ID]
    assert (live.is_connected, live.inventory) == (True, inventory)
    heartbeats.record_local(machine_heartbeat(inventory))
    stored = ClusterStatuses(database, PATIENT).of([LOCAL_CLUSTER_ID], whole=True)[LOCAL_CLUSTER_ID]
    assert stored.inventory == inventory


def test_a_cluster_whose_agent_is_gone_for_good_is_deleted_and_undraining_takes_it_back(
    clusters: Clusters, heartbeats: Heartbeats, agent: RegisteredAgent, admin: Caller, database: Database
) -> None:
    heard(heartbeats, agent, replace(HEARTBEAT, inventory=INVENTORY))
    clusters.delete(admin, agent.cluster.id, drain=True, operator=False)
    clusters.set_drain(admin, agent.cluster.id, drain=False, operator=False)
    with database.write() as session:
        session.run(update(tables.cluster_statuses).values(heartbeat_at=time.time() - 1801))
    assert clusters.finish_deletions() == 0
    assert clusters.delete(admin, agent.cluster.id, drain=False, operator=False) is None
    with database.read() as session:
        assert session.rows(select(tables.cluster_statuses)) == []


def test_telemetry_is_averaged_by_the_hour_and_grouped_by_cluster_or_product(
    heartbeats: Heartbeats, agent: RegisteredAgent, admin: Caller, clusters: Clusters, database: Database
) -> None:
    heard(heartbeats, agent, replace(HEARTBEAT, inventory=INVENTORY))
    time.sleep(0.001)
    idle = replace(PRODUCTS[0], allocated_gpus=0)
    heard(heartbeats, agent, replace(HEARTBEAT, inventory=Inventory((idle,))))  # the nodes without GPUs are gone
    other = RegistrationKeys(database, PEPPER).authenticate(clusters.register(admin, "gpu-east")[1])
    heard(heartbeats, other, replace(HEARTBEAT, inventory=Inventory((PRODUCTS[0],))))
    snapshots, end = Snapshots(database), int(time.time()) + 1

    def last(group_by: GroupBy) -> dict[str, tuple[float, ...]]:
        where, start = admin.organization_id, end - 2 * HOUR
        hours, number = snapshots.by_hour(where, start=start, end=end, group_by=group_by, include_shared=True)
        assert number == 2
        merged: dict[str, tuple[float, ...]] = {}
        for groups in hours.values():  # the test may run across the end of an hour
            merged |= {name: (value.nodes, value.gpus, value.allocated_gpus) for name, value in groups.items()}
        return merged

    assert last(GroupBy.PRODUCT) == {"A100": (2.0, 16.0, 4.5), "": (1.0, 0.0, 0.0)}
    assert last(GroupBy.CLUSTER) == {agent.cluster.id: (2.0, 8.0, 1.5), other.cluster.id: (1.0, 8.0, 3.0)}
    assert last(GroupBy.NOTHING) == {"": (3.0, 16.0, 4.5)}
    assert snapshots.by_hour("org_2", start=0, end=end, group_by=GroupBy.NOTHING, include_shared=True) == ({}, 0)
    assert snapshots.prune(older_than=-2 * HOUR) == 3


def test_an_agent_that_names_other_products_each_time_fills_no_table(
    heartbeats: Heartbeats, agent: RegisteredAgent, database: Database, admin: Caller
) -> None:
    for number in range(6):
        products = tuple(ProductTotal(f"GPU-{number}-{each}", gpus=1) for each in range(64))
        heard(heartbeats, agent, replace(HEARTBEAT, inventory=Inventory(products)))
        time.sleep(0.001)
    hour = int(time.time()) // HOUR * HOUR
    show = partial(Snapshots(database).by_hour, admin.organization_id, group_by=GroupBy.PRODUCT, include_shared=False)
    hours, clusters = show(start=hour - HOUR, end=hour + HOUR)
    assert sum(len(values) for values in hours.values()) <= 2 * 2 * 64
    assert clusters == 1
    with pytest.raises(InvalidRequest, match="fewer hours"):
        show(start=hour - 2000 * HOUR, end=hour + HOUR)
