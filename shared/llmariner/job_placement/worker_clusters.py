"""Where jobs run besides the control plane's own place: which worker clusters take them, and what runs them there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from llmariner.clusters.assignments import assigned_clusters
from llmariner.clusters.cluster import Cluster
from llmariner.clusters.placement import Candidate, Decision, Demand, place
from llmariner.clusters.status import ClusterStatus, ClusterStatuses
from llmariner.clusters.tables import clusters
from llmariner.errors import NotFound, Unavailable
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.jobs import Jobs

__all__ = ["Needs", "Places", "WorkerClusters", "chosen_cluster", "control_plane_url"]

_MAX_CLUSTERS = 100
"""Of a project, that are looked at for a job."""
_PORT_SECONDS = 60.0
"""How long what runs jobs on a cluster is kept: its agent may report another address, and its pools may change."""

MakePort = Callable[[str, ClusterStatus, bool], Jobs]
"""Makes what runs jobs on a cluster; `bool`: jobs with GPUs."""
PlacedGpus = Callable[[ReadSession, str, float], int]
"""GPUs of the jobs that were placed on a cluster since a time (Unix seconds), and have not ended."""


@dataclass(frozen=True)
class Needs:
    """What a job needs. `gpus`: of each of its workers. `image`: its name; empty: that of the platform's own program."""

    gpus: int = 0
    image: str = ""


@dataclass(frozen=True)
class Places:
    """Worker clusters that a job may run on, as they were known at `known_at` (Unix seconds)."""

    candidates: tuple[Candidate, ...]
    needs: Needs
    known_at: float
    placed_gpus: PlacedGpus

    def choose(self, session: WriteSession, *, without: str | None = None) -> Decision:
        """The best cluster, with what was placed meanwhile: two choices at once wait for each other at clusters' rows."""
        ids = [each.cluster_id for each in self.candidates if each.cluster_id != without]
        locked = select(clusters.c.id).where(clusters.c.id.in_(ids)).order_by(clusters.c.id).with_for_update()
        known = {row.id for row in session.rows(locked)} if ids else set()
        present = [self._with_assumed(session, each) for each in self.candidates if each.cluster_id in known]
        return place(Demand(gpus=self.needs.gpus), present)

    def _with_assumed(self, session: WriteSession, candidate: Candidate) -> Candidate:
        """With the GPUs of jobs that were placed there since its inventory."""
        since = self.known_at - (candidate.inventory_age_seconds or 0.0)
        return replace(candidate, assumed_gpus=self.placed_gpus(session, candidate.cluster_id, since))


class WorkerClusters:
    """The worker clusters of one installation. Thread-safe. `make_port` may raise Unavailable and ClusterError.

    `images`: names of those that clusters can load. `placed_gpus`: of jobs of all kinds.
    """

    def __init__(
        self,
        database: Database,
        statuses: ClusterStatuses,
        make_port: MakePort,
        *,
        images: Collection[str],
        lost_seconds: float,
        placed_gpus: PlacedGpus,
    ) -> None:
        self._database = database
        self._images = images
        self._placed_gpus = placed_gpus
        self._statuses = statuses
        self._make_port = make_port
        self._lost_seconds = lost_seconds
        self._lock = threading.Lock()
        self._ports: dict[tuple[str, bool], tuple[float, Jobs]] = {}

    def allowed(self, organization_id: str, project_id: str, *, only: str | None = None) -> list[Cluster]:
        """The clusters on which a project may run jobs, this place perhaps among them. `only`: the one that is asked for.

        NotFound if that is not among them.
        """
        found, _ = assigned_clusters(self._database, organization_id, project_id, after=None, limit=_MAX_CLUSTERS)
        if only is None:
            return found
        if not (chosen := [each for each in found if each.id == only]):
            raise NotFound(
                f"Your project has no cluster '{only[:64]}'. GET /v1/jobs/clusters lists those on which it may run jobs.",
                param="cluster_id",
                code="cluster_not_found",
            )
        return chosen

    def loads(self, image: str) -> bool:
        """Whether clusters can load an image of this name: it has a reference, or is that of the platform's own programs."""
        return not image or image in self._images

    def places(self, allowed: Sequence[Cluster], needs: Needs) -> Places:
        """What is known of those among the clusters that take work. There are none for an image that no cluster loads."""
        workers = [each for each in allowed if not each.is_local] if self.loads(needs.image) else []
        statuses, now = self._statuses.of([each.id for each in workers], whole=True), time.time()
        return Places(
            tuple(
                _candidate(each.id, each.drain_requested_at is not None, status, now)
                for each in workers
                if (status := statuses.get(each.id)) is not None and (status.accepts_work or not status.is_connected)
            ),
            needs,
            now,
            self._placed_gpus,
        )

    def port(self, cluster_id: str, *, gpus: bool) -> Jobs:
        """What runs jobs on a cluster. NotFound for one that is not registered any more, Unavailable while it is away."""
        key = cluster_id, gpus
        with self._lock:
            made_at, known = self._ports.get(key, (0.0, None))
        if known is not None and time.monotonic() - made_at < _PORT_SECONDS:
            return known
        port = self._make_port(cluster_id, self._status(cluster_id), gpus)
        with self._lock:
            self._ports[key] = time.monotonic(), port
        return port

    def control_plane_url(self, cluster_id: str) -> str:
        """Where pods of a cluster reach this platform. NotFound and Unavailable as `port`."""
        return control_plane_url(self._status(cluster_id))

    def is_lost(self, cluster_id: str) -> bool:
        """Whether a cluster is not registered any more, or away for so long that what ran there begins again elsewhere."""
        try:
            status = self._status(cluster_id)
        except NotFound:
            return True
        except Unavailable:
            return False
        return time.time() - status.heartbeat_at > self._lost_seconds

    def registered(self, cluster_ids: Collection[str]) -> Sequence[str]:
        """Those of the ids that are clusters."""
        with self._database.read() as session:
            rows = session.rows(select(clusters.c.id).where(clusters.c.id.in_(cluster_ids))) if cluster_ids else ()
            return [row.id for row in rows]

    def _status(self, cluster_id: str) -> ClusterStatus:
        found = self._statuses.of([cluster_id]).get(cluster_id)
        if found is None:
            if not self.registered([cluster_id]):
                raise NotFound(f"No such cluster: '{cluster_id[:64]}'.", code="cluster_not_found")
            raise Unavailable("The agent of the cluster has not reported yet.", code="cluster_not_connected")
        return found


def _candidate(cluster_id: str, draining: bool, status: ClusterStatus, now: float) -> Candidate:
    age = None if status.inventory_at is None else max(0.0, now - status.inventory_at)
    return Candidate(cluster_id, status.is_connected, draining, status.inventory, age)


def chosen_cluster(decision: Decision) -> str | None:
    """The cluster of a decision; without one that has room, one that will have some."""
    full = (each.cluster_id for each in decision.refusals if each.is_full)
    return decision.cluster_id or next(full, None)


def control_plane_url(status: ClusterStatus) -> str:
    """Where pods of a cluster reach this platform: as its agent does. Raises Unavailable for an agent that does not say."""
    if not status.control_plane_url:
        raise Unavailable(
            "The agent of this cluster does not say how its jobs reach the platform: join the cluster again with "
            "`llma admin clusters join --rotate`.",
            code="agent_too_old",
        )
    return status.control_plane_url
