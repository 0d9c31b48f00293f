"""The status of clusters by what their agents reported last: connected or not, health of components, inventory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from llmariner import __version__
from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.heartbeats import PROTOCOL_VERSION
from llmariner.clusters.inventory import WORK, Inventory
from llmariner.clusters.tables import cluster_statuses
from llmariner.platform.database import Database

__all__ = ["ClusterStatus", "ClusterStatuses", "ComponentStatus"]


@dataclass(frozen=True)
class ComponentStatus:
    """The health of a component. `version` empty: unknown."""

    is_healthy: bool
    message: str
    version: str


@dataclass(frozen=True)
class ClusterStatus:
    """What an agent reported last. Times are Unix seconds.

    `inventory` None: none was reported; one with totals alone, where the whole was not asked for.

    `is_connected`: no more than three heartbeats were missed. Components of a cluster that is not are unhealthy.
    """

    heartbeat_at: float
    is_connected: bool
    agent_version: str
    protocol_version: int
    kubernetes_version: str
    clock_skew_seconds: float | None
    components: dict[str, ComponentStatus]
    inventory: Inventory | None
    inventory_at: float | None
    control_plane_url: str = ""
    """The URL of the control plane as the cluster reaches it; empty: unknown."""

    @property
    def accepts_work(self) -> bool:
        """Whether the cluster's administrator lets the control plane run work there, and the cluster is connected."""
        return self.is_connected and WORK in self.components


class ClusterStatuses:
    """Reads the status of clusters. The caller has checked who may see them.

    `machine`: what the machine of the standalone mode has, which has no agent.
    """

    def __init__(
        self, database: Database, settings: WorkerClusterSettings, machine: Callable[[], Inventory] | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._machine = machine

    def of(self, cluster_ids: Sequence[str], *, whole: bool = False) -> dict[str, ClusterStatus]:
        """The status of those clusters whose agents have reported; `whole`: with all of their inventories."""
        columns = [each for each in cluster_statuses.c if whole or each.name != "inventory"]
        query = select(*columns).where(cluster_statuses.c.cluster_id.in_(cluster_ids))
        with self._database.read() as session:
            rows = session.rows(query) if cluster_ids else ()
        found = {row.cluster_id: self._status(row) for row in rows}
        if self._machine is not None and LOCAL_CLUSTER_ID in cluster_ids:
            found[LOCAL_CLUSTER_ID] = _machine_status(self._machine())
        return found

    def _status(self, row: Row[Any]) -> ClusterStatus:
        age = time.time() - row.heartbeat_at
        connected = age < self._settings.stale_seconds
        components = {each["name"]: _component(each, None if connected else age) for each in json.loads(row.components)}
        return ClusterStatus(
            heartbeat_at=row.heartbeat_at,
            is_connected=connected,
            agent_version=row.agent_version,
            protocol_version=row.protocol_version,
            kubernetes_version=row.kubernetes_version,
            clock_skew_seconds=row.clock_skew_seconds,
            components=components,
            inventory=_inventory(row),
            inventory_at=row.inventory_at,
            control_plane_url=row.control_plane_url,
        )


def _machine_status(inventory: Inventory) -> ClusterStatus:
    now = time.time()
    return ClusterStatus(
        heartbeat_at=now,
        is_connected=True,
        agent_version=__version__,
        protocol_version=PROTOCOL_VERSION,
        kubernetes_version="",
        clock_skew_seconds=0.0,
        components={"platform": ComponentStatus(True, "", __version__)},
        inventory=inventory,
        inventory_at=now,
    )


def _component(stored: dict[str, Any], silent_seconds: float | None) -> ComponentStatus:
    if silent_seconds is not None:
        message = f"No update received for {silent_seconds:.0f} s. It was {_health(stored)} then."
        return ComponentStatus(False, message, stored["version"])
    return ComponentStatus(stored["is_healthy"], stored["message"], stored["version"])


def _health(stored: dict[str, Any]) -> str:
    return "healthy" if stored["is_healthy"] else "unhealthy"


def _inventory(row: Row[Any]) -> Inventory | None:
    if row.products is None:
        return None
    text = row._mapping.get("inventory")
    return Inventory.from_json(json.loads(text) if text else {"products": json.loads(row.products)})
