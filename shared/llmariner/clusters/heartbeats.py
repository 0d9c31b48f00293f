"""Heartbeats of agents: what a cluster's agent reports every few seconds, and the answers to it.

An agent speaks of its own cluster alone: the registration key says which. `PROTOCOL_VERSION` grows when the meaning of a
field changes; fields may be added without it, and both sides ignore those that they do not know. The control plane serves
agents of its own version and of the one before, and newer ones.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID, Cluster, cluster_from_row
from llmariner.clusters.configs import current_config, record_result
from llmariner.clusters.inventory import Inventory
from llmariner.clusters.registration_keys import RegisteredAgent, has_digest, invalid_registration_key
from llmariner.clusters.snapshots import record_snapshot
from llmariner.clusters.tables import cluster_statuses, clusters
from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database, WriteSession

__all__ = [
    "MAX_CHANGED_JOBS",
    "OLDEST_PROTOCOL_VERSION",
    "PROTOCOL_VERSION",
    "Component",
    "ConfigResult",
    "Heartbeat",
    "Heartbeats",
    "RequestReportedJobs",
]

PROTOCOL_VERSION = 1
OLDEST_PROTOCOL_VERSION = 1
MAX_CHANGED_JOBS = 200
"""How many Jobs that changed a heartbeat names; the others come with the next one."""
RequestReportedJobs = Callable[[WriteSession, str, Sequence[str]], None]
"""Has jobs looked at, in the transaction of a heartbeat: those on the cluster with that id by the names of their Jobs there.

The names are an agent's: of jobs elsewhere, or of none, perhaps."""


@dataclass(frozen=True)
class Component:
    """A component of the cluster, such as `kueue`, and its health."""

    name: str
    is_healthy: bool
    message: str = ""
    version: str = ""


@dataclass(frozen=True)
class ConfigResult:
    """What became of a generation of the configuration of GPUs."""

    generation: int
    applied: bool
    message: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """What an agent reports. `sent_at`: by its own clock. `inventory` None: as in the heartbeat before.

    `control_plane_url`: this control plane, as the agent reaches it: jobs of the cluster report there. `changed_jobs`: names
    of Jobs of the platform whose status changed since the last heartbeat in which they were taken.
    """

    agent_version: str
    protocol_version: int
    kubernetes_version: str
    sent_at: float
    components: Sequence[Component] = ()
    inventory: Inventory | None = None
    config: ConfigResult | None = None
    control_plane_url: str = ""
    changed_jobs: Sequence[str] = ()


class Heartbeats:
    """Records heartbeats. Thread-safe."""

    def __init__(
        self,
        database: Database,
        settings: WorkerClusterSettings,
        request_reported_jobs: RequestReportedJobs,
    ) -> None:
        self._database = database
        self._settings = settings
        self._request_reported_jobs = request_reported_jobs

    def record(self, agent: RegisteredAgent, heartbeat: Heartbeat) -> dict[str, Any]:
        """Record a heartbeat; returns the answer. One that comes much too soon is answered, not recorded.

        Raises InvalidRequest for an agent of a version that is too old, AuthenticationFailed where the key was revoked
        meanwhile.
        """
        if heartbeat.protocol_version < OLDEST_PROTOCOL_VERSION:
            raise InvalidRequest(
                f"This control plane serves agents of protocol {OLDEST_PROTOCOL_VERSION} and newer, and this one has "
                f"{heartbeat.protocol_version}: join the cluster again with `llma admin clusters join`.",
                param="protocol_version",
                code="agent_too_old",
            )

        def store(session: WriteSession) -> dict[str, Any]:
            query = select(clusters).where(clusters.c.id == agent.cluster.id, has_digest([agent.digest]))
            # The cluster is not deleted until the transaction ends, or is deleted already.
            row = session.first(query.with_for_update(read=True, key_share=True))
            if row is None:
                raise invalid_registration_key()
            cluster = cluster_from_row(row)
            age = self._age_of_last(session, cluster.id)
            if age >= self._settings.least_seconds:
                _store_status(session, cluster, heartbeat)
                if heartbeat.config is not None:
                    record_result(session, cluster.id, **vars(heartbeat.config))
            taken = self._take_jobs(session, cluster, heartbeat, age)
            return self._reply(cluster, current_config(session, cluster.id), taken)

        return self._database.transact(store)

    def record_local(self, heartbeat: Heartbeat) -> None:
        """Record what the platform itself knows of the machine that it runs on."""
        with self._database.write() as session:
            row = session.first(select(clusters).where(clusters.c.id == LOCAL_CLUSTER_ID))
            if row is not None:
                _store_status(session, cluster_from_row(row), heartbeat)

    def _age_of_last(self, session: WriteSession, cluster_id: str) -> float:
        """How many seconds ago the heartbeat before was recorded; infinite where none was, or by a clock that went back.

        Its row is locked until the transaction ends.
        """
        of_cluster = select(cluster_statuses.c.heartbeat_at).where(cluster_statuses.c.cluster_id == cluster_id)
        last = session.value(of_cluster.with_for_update())
        age = math.inf if last is None else time.time() - last
        return age if age >= 0 else math.inf

    def _take_jobs(self, session: WriteSession, cluster: Cluster, heartbeat: Heartbeat, age: float) -> bool:
        """Have the changed jobs looked at; returns if the agent need not name them again. `age`: of the heartbeat before."""
        if not heartbeat.changed_jobs:
            return True
        if cluster.is_local or age < self._settings.least_report_seconds:
            return False
        self._request_reported_jobs(session, cluster.id, heartbeat.changed_jobs[:MAX_CHANGED_JOBS])
        return True

    def _reply(self, cluster: Cluster, config: Mapping[str, Any] | None, taken: bool) -> dict[str, Any]:
        return {
            "object": "cluster.heartbeat",
            "protocol_version": PROTOCOL_VERSION,
            "cluster_id": cluster.id,
            "cluster_name": cluster.name,
            "server_time": time.time(),
            "heartbeat_interval_seconds": self._settings.heartbeat_seconds,
            "inventory_interval_seconds": self._settings.inventory_seconds,
            "draining": cluster.drain_requested_at is not None,
            "device_plugin_config": config,
            "changed_jobs_limit": 0 if cluster.is_local else MAX_CHANGED_JOBS,
            "changed_jobs_taken": taken,
        }


def _store_status(session: WriteSession, cluster: Cluster, heartbeat: Heartbeat) -> None:
    now = time.time()
    values: dict[str, Any] = {
        "heartbeat_at": now,
        "agent_version": heartbeat.agent_version,
        "protocol_version": heartbeat.protocol_version,
        "kubernetes_version": heartbeat.kubernetes_version,
        "clock_skew_seconds": heartbeat.sent_at - now,
        "control_plane_url": heartbeat.control_plane_url,
        "components": json.dumps([vars(each) for each in heartbeat.components]),
    }
    if heartbeat.inventory is not None:
        values |= _inventory_columns(heartbeat.inventory, now)
    if session.insert_if_absent(cluster_statuses, [{"cluster_id": cluster.id, **values}]) == 0:
        session.run(update(cluster_statuses).where(cluster_statuses.c.cluster_id == cluster.id).values(**values))
    if heartbeat.inventory is not None:
        record_snapshot(session, cluster, heartbeat.inventory, now)


def _inventory_columns(inventory: Inventory, now: float) -> dict[str, Any]:
    found = inventory.to_json()
    return {
        "products": json.dumps(found["products"], separators=(",", ":")),
        "inventory": json.dumps(found, separators=(",", ":")),
        "inventory_at": now,
        "workloads": inventory.workloads,
    }
