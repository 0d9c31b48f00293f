"""The configuration of a cluster's GPUs: set, changed and deleted here, applied by the cluster's agent.

Each change is a generation. Every answer to a heartbeat has the newest, and the agent reports what became of it, so nothing
is lost where it was away: it applies the newest, and only that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.clusters.cluster import Cluster
from llmariner.clusters.device_plugin import DevicePluginConfig
from llmariner.clusters.events import UPDATED
from llmariner.clusters.stored import lock_changeable, record_change, visible_cluster
from llmariner.clusters.tables import cluster_configs
from llmariner.errors import Conflict, NotFound
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.principal import Caller

__all__ = ["ClusterConfig", "ClusterConfigs", "current_config", "record_result"]


@dataclass(frozen=True)
class ClusterConfig:
    """A stored configuration. `status`: `pending`, `applied` or `failed`, with the agent's `message`."""

    cluster_id: str
    generation: int
    device_plugin: DevicePluginConfig
    status: str
    message: str
    created_at: int
    updated_at: int


class ClusterConfigs:
    """The configurations of one installation. `operator` as in `Clusters`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, organization_id: str, cluster_id: str) -> ClusterConfig:
        """The configuration of a cluster that an organization sees. NotFound."""
        with self._database.read() as session:
            visible_cluster(session, organization_id, cluster_id)
            return _load(session, cluster_id)

    def create(
        self, actor: Caller, cluster_id: str, device_plugin: DevicePluginConfig, *, operator: bool
    ) -> ClusterConfig:
        """Configure a cluster that is not configured. Conflict, NotFound, PermissionDenied."""

        def store(session: WriteSession) -> ClusterConfig:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            row = _row(session, cluster_id)
            if row is not None and row.device_plugin is not None:
                raise Conflict(
                    "The cluster is configured already: change it with PATCH, or delete its configuration first.",
                    code="config_exists",
                )
            return _store(session, actor, cluster, device_plugin, row, created_at=int(time.time()))

        return self._database.transact(store)

    def change(
        self,
        actor: Caller,
        cluster_id: str,
        changed: Callable[[DevicePluginConfig], DevicePluginConfig],
        *,
        operator: bool,
    ) -> ClusterConfig:
        """Change the configuration to what `changed` makes of it. NotFound, PermissionDenied, and what that raises."""

        def store(session: WriteSession) -> ClusterConfig:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            found = _load(session, cluster_id)
            row = _row(session, cluster_id)
            return _store(session, actor, cluster, changed(found.device_plugin), row, created_at=found.created_at)

        return self._database.transact(store)

    def delete(self, actor: Caller, cluster_id: str, *, operator: bool) -> None:
        """Delete the configuration: the agent removes it from the cluster. NotFound, PermissionDenied."""

        def remove(session: WriteSession) -> None:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            found = _load(session, cluster_id)
            values = {"device_plugin": None, "generation": found.generation + 1, "updated_at": int(time.time())}
            session.run(update(cluster_configs).where(cluster_configs.c.cluster_id == cluster_id).values(**values))
            record_change(session, actor, cluster, UPDATED, {"changes_requested": {"device_plugin_config": None}})

        self._database.transact(remove)


def current_config(session: ReadSession, cluster_id: str) -> dict[str, Any] | None:
    """The newest generation, and its configuration or null, as agents get it; None where there never was one."""
    row = _row(session, cluster_id)
    if row is None:
        return None
    config = None if row.device_plugin is None else json.loads(row.device_plugin)
    return {"generation": row.generation, "config": config}


def record_result(session: WriteSession, cluster_id: str, generation: int, *, applied: bool, message: str) -> None:
    """Record what became of a generation. A report of an older one than the last report is late, and ignored."""
    c = cluster_configs.c
    newer = (c.generation >= generation) & (c.reported_generation.is_(None) | (c.reported_generation <= generation))
    values = {"reported_generation": generation, "reported_applied": applied, "reported_message": message}
    session.run(update(cluster_configs).where(c.cluster_id == cluster_id, newer).values(**values))


def _store(
    session: WriteSession,
    actor: Caller,
    cluster: Cluster,
    device_plugin: DevicePluginConfig,
    row: Row[Any] | None,
    *,
    created_at: int,
) -> ClusterConfig:
    """Store a new generation, and record it. `row`: the one that there is."""
    text, now = json.dumps(device_plugin.to_json()), int(time.time())
    values = {"device_plugin": text, "created_at": created_at, "updated_at": now}
    if row is None:
        session.add(cluster_configs, cluster_id=cluster.id, generation=1, **values)
    else:
        changed = update(cluster_configs).where(cluster_configs.c.cluster_id == cluster.id)
        session.run(changed.values(**values, generation=row.generation + 1))
    found = _load(session, cluster.id)
    record_change(
        session, actor, cluster, UPDATED, {"changes_requested": {"device_plugin_config": device_plugin.to_json()}}
    )
    return found


def _row(session: ReadSession, cluster_id: str) -> Row[Any] | None:
    return session.first(select(cluster_configs).where(cluster_configs.c.cluster_id == cluster_id))


def _load(session: ReadSession, cluster_id: str) -> ClusterConfig:
    row = _row(session, cluster_id)
    if row is None or row.device_plugin is None:
        raise _not_configured(cluster_id)
    reported = row.reported_generation == row.generation
    return ClusterConfig(
        cluster_id=cluster_id,
        generation=row.generation,
        device_plugin=DevicePluginConfig.from_json(json.loads(row.device_plugin)),
        status=("applied" if row.reported_applied else "failed") if reported else "pending",
        message=(row.reported_message or "") if reported else "The agent has not reported it yet.",
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _not_configured(cluster_id: str) -> NotFound:
    return NotFound(
        f"The cluster '{cluster_id}' has no configuration: create one with POST /v1/clusters/{{id}}/config.",
        code="not_configured",
    )
