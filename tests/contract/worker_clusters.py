"""An organization with worker clusters, each with a jobs port that a test plays."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select, update

from llmariner.batch_jobs.placement import placed_gpus
from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters.cluster import cluster_from_row
from llmariner.clusters.heartbeats import Component, Heartbeat, Heartbeats
from llmariner.clusters.inventory import Inventory, Node, ProductTotal
from llmariner.clusters.registration_keys import RegisteredAgent
from llmariner.clusters.status import ClusterStatuses
from llmariner.clusters.tables import cluster_statuses, clusters
from llmariner.errors import Unavailable
from llmariner.job_placement.cluster_reports import request_reported_jobs
from llmariner.job_placement.tables import job_leftovers
from llmariner.job_placement.worker_clusters import WorkerClusters
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.jobs import JobStatus
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.tables import projects

from .batch_jobs.scripted_jobs import ScriptedJobs

__all__ = ["FULL", "IMAGES", "LOST", "AwayJobs", "ClusterDesk"]

IMAGES = {"pytorch-2.1": "pytorch:2.1"}
GPU_NODE = Node("n", gpu_product="A100", gpu_resource="nvidia.com/gpu", gpus=4, cpu_millis=8000, memory_bytes=2**35)
LOST, FULL = 600.0, 300.0


class AwayJobs(ScriptedJobs):
    """A port whose cluster is away while `error` is set."""

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        """The jobs that were to be removed."""

    def submit(self, job: Any) -> JobStatus:
        self._check()
        return super().submit(job)

    def status(self, job_id: str) -> JobStatus | None:
        self._check()
        return super().status(job_id)

    def remove(self, job_id: str) -> None:
        self.asked.append(job_id)
        self._check()
        super().remove(job_id)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


class ClusterDesk:
    """See the module. Pods of a cluster reach the platform at `https://<id>.example.org`."""

    def __init__(self, database: Database, owner: KeyOwner) -> None:
        self.database, self.owner = database, owner
        self.ports: dict[str, AwayJobs] = {}
        statuses = ClusterStatuses(database, WorkerClusterSettings())
        self.workers = WorkerClusters(
            database,
            statuses,
            lambda id_, *_: self.ports[id_],
            images=IMAGES,
            lost_seconds=LOST,
            placed_gpus=placed_gpus,
        )

    def add(self, name: str, *, allocated: int = 0, work: bool = True, node: Node = GPU_NODE) -> str:
        """A cluster with one node, whose agent reported a moment ago."""
        id_ = f"cluster-{name}"
        with self.database.write() as session:
            session.add(
                clusters, id=id_, organization_id=self.owner.organization_id, name=name, created_at=1, digest=id_
            )
            session.add(
                cluster_statuses, cluster_id=id_, **self._status(id_, replace(node, allocated_gpus=allocated), work)
            )
        self.ports[id_] = AwayJobs()
        return id_

    def _status(self, id_: str, node: Node, work: bool) -> dict[str, Any]:
        inventory = Inventory([ProductTotal("A100", "nvidia.com/gpu", 1, 1, node.gpus, node.allocated_gpus)], [node])
        found = inventory.to_json()
        named = ["agent", *(["work"] if work else [])]
        parts = [{"name": each, "is_healthy": True, "message": "", "version": ""} for each in named]
        return {
            "heartbeat_at": time.time(),
            "agent_version": "1",
            "protocol_version": 1,
            "kubernetes_version": "1",
            "components": json.dumps(parts),
            "products": json.dumps(found["products"]),
            "inventory": json.dumps(found),
            "inventory_at": time.time(),
            "control_plane_url": f"https://{id_}.example.org",
        }

    def lose(self, cluster_id: str, seconds: float = LOST + 1) -> None:
        """The cluster's agent is silent since so long, and nothing of it answers."""
        self.ports[cluster_id].error = Unavailable("It is away.")
        with self.database.write() as session:
            at = update(cluster_statuses).where(cluster_statuses.c.cluster_id == cluster_id)
            session.run(at.values(heartbeat_at=time.time() - seconds))

    def come_back(self, cluster_id: str) -> None:
        self.ports[cluster_id].error = None
        with self.database.write() as session:
            at = update(cluster_statuses).where(cluster_statuses.c.cluster_id == cluster_id)
            session.run(at.values(heartbeat_at=time.time()))

    def unregister(self, cluster_id: str) -> None:
        with self.database.write() as session:
            session.run(cluster_statuses.delete().where(cluster_statuses.c.cluster_id == cluster_id))
            session.run(clusters.delete().where(clusters.c.id == cluster_id))

    def assign(self, cluster_id: str) -> None:
        """Let the project run jobs on this cluster alone."""
        assigned = json.dumps([{"cluster_id": cluster_id, "namespace": "n", "queue": "", "node_selector": []}])
        with self.database.write() as session:
            session.run(update(projects).where(projects.c.id == self.owner.project_id).values(assignments=assigned))

    def hear(
        self, cluster_id: str, names: Sequence[str], *, seconds_after: float = 15.0
    ) -> tuple[bool, list[tuple[str, str]]]:
        """The agent names Jobs that changed. Returns if they were taken, and the events of it: type and the job's id."""
        with self.database.write() as session:
            at = update(cluster_statuses).where(cluster_statuses.c.cluster_id == cluster_id)
            session.run(at.values(heartbeat_at=time.time() - seconds_after))
            row = session.first(select(clusters).where(clusters.c.id == cluster_id))
            before = len(session.rows(select(events.c.sequence)))
        assert row is not None
        agent = RegisteredAgent(cluster_from_row(row), cluster_id)
        parts = (Component("agent", True), Component("work", True))
        url = f"https://{cluster_id}.example.org"
        heartbeat = Heartbeat("1", 1, "1", time.time(), parts, control_plane_url=url, changed_jobs=names)
        answer = Heartbeats(self.database, WorkerClusterSettings(), request_reported_jobs).record(agent, heartbeat)
        assert answer["changed_jobs_limit"] == 200
        with self.database.read() as session:
            added = session.rows(select(events).order_by(events.c.sequence))[before:]
        return answer["changed_jobs_taken"], [(each.type, json.loads(each.data)["id"]) for each in added]

    def leftovers(self, *, due: bool = True) -> list[str]:
        """What is noted as left somewhere. `due`: it was noted long ago, and is due from now on."""
        with self.database.write() as session:
            if due:
                session.run(update(job_leftovers).values(due_at=0.0, noted_at=0.0))
            return [row.name for row in session.rows(select(job_leftovers).order_by(job_leftovers.c.name))]
