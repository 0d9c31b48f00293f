"""Notebooks adapter for clusters. The objects of the cluster are the truth: the adapter holds nothing beyond a call.

A start is a Job with the notebook's id as its name, so there is one at a time. As with jobs it is created suspended and in
no queue, then what it needs, and is submitted last: who is killed in between leaves a Job that nothing starts, and `start`
completes it. JupyterLab that is idle ends by itself; nothing is scaled from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.jobs.kubernetes.objects import JOB_LABEL, ended_job, submission
from llmariner.platform.jobs.kubernetes.phases import is_finished
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid
from llmariner.platform.kube.errors import NotFound as NoSuchObject
from llmariner.platform.kube.resources import JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, WORKLOADS
from llmariner.platform.notebooks import NotebookServer, ServerStatus
from llmariner.platform.notebooks.jupyter import PORT
from llmariner.platform.notebooks.kubernetes.objects import (
    RUN,
    STOPPED,
    ClusterNotebookSettings,
    claim_object,
    job_object,
    secret_object,
    service_object,
)
from llmariner.platform.notebooks.kubernetes.phases import server_status
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.settings import KServeSettings

__all__ = ["KubernetesNotebooks"]

_ATTEMPTS = 5
_CONNECT_SECONDS = 5.0
_BUFFER_BYTES = 64 * 1024
_ENDED_PODS = ("Succeeded", "Failed")
_UID_LABEL = "kueue.x-k8s.io/job-uid"

Body = dict[str, Any]


class KubernetesNotebooks:
    """See the module. `make_cluster` is called where the API server is needed: to connect to a notebook it is not."""

    def __init__(self, settings: ClusterNotebookSettings, make_cluster: Callable[[], Cluster]) -> None:
        self._settings = settings
        self._make_cluster = make_cluster

    @cached_property
    def _cluster(self) -> Cluster:
        return self._make_cluster()

    @property
    def problem(self) -> str:
        """See the port."""
        return ""

    @property
    def images(self) -> Mapping[str, str]:
        """See the port."""
        return self._settings.images

    @property
    def has_gpus(self) -> bool:
        """See the port."""
        return bool(self._settings.gpu_resource)

    def check_size(self, millicores: int, memory_bytes: int) -> str:
        """See the port. What is too large for the pool waits, and Kueue says for what."""
        return ""

    def start(self, server: NotebookServer) -> None:
        """See the port."""
        name, namespace = server.notebook_id, self._settings.namespace
        found = self._job(name)
        if found is not None and _run_of(found) != server.run:
            status = self._status(found)
            if status is not None and not status.phase.is_final:
                return
            with contextlib.suppress(Conflict):
                self._cluster.delete(JOBS, namespace, name, uid=found["metadata"]["uid"])
            found = None
        if found is None and self._has_pods(name):
            return  # one that has not ended yet has the volume; the periodic call comes back
        image = self._settings.images.get(server.image)
        if not image:
            self._end(server, "image_unavailable", f"The image type '{server.image}' is not configured any more.")
            return
        try:
            self._submit(server, image)
        except (Invalid, Forbidden) as error:  # also a quota of the namespace
            self._cluster.delete(JOBS, namespace, name)
            self._end(server, "start_failed", f"It could not be started: {error.message}")
        except Conflict:  # another process stops it, or has it begin
            pass

    def stop(self, notebook_id: str) -> None:
        """See the port."""
        for _ in range(_ATTEMPTS):
            job = self._job(notebook_id)
            if job is None or is_finished(job) or STOPPED in job["metadata"].get("annotations", {}):
                return
            metadata = job["metadata"]
            with contextlib.suppress(Conflict, NoSuchObject):
                if job["spec"].get("suspend"):  # its time does not run, so a deadline would not end it
                    version = metadata["resourceVersion"]
                    self._cluster.delete(
                        JOBS, self._settings.namespace, notebook_id, uid=metadata["uid"], resource_version=version
                    )
                    return
                # Kubernetes says that it has failed when its last pod has ended, and not before.
                patch = {
                    "metadata": {"uid": metadata["uid"], "annotations": {STOPPED: f"{time.time():.3f}"}},
                    "spec": {"activeDeadlineSeconds": 1},
                }
                self._cluster.merge_patch(
                    *(JOBS, self._settings.namespace, notebook_id, patch), resource_version=metadata["resourceVersion"]
                )
                return

    def remove(self, notebook_id: str) -> bool:
        """See the port. Kubernetes deletes a claim when the last pod with it has ended."""
        namespace = self._settings.namespace
        self._cluster.delete(JOBS, namespace, notebook_id)
        return not self._cluster.delete(PERSISTENT_VOLUME_CLAIMS, namespace, notebook_id)

    def status(self, notebook_id: str) -> ServerStatus | None:
        """See the port."""
        job = self._job(notebook_id)
        return None if job is None else self._status(job)

    async def connect(self, notebook_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See the port. By the name of its Service."""
        host = f"{notebook_id}.{self._settings.namespace}.svc"
        opening = asyncio.open_connection(host, PORT, limit=_BUFFER_BYTES)
        return await asyncio.wait_for(opening, _CONNECT_SECONDS)

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """See the port. Nobody is called: the cluster sends changes of Jobs as CloudEvents."""

    def _submit(self, server: NotebookServer, image: str) -> None:
        settings, namespace = self._settings, self._settings.namespace
        with contextlib.suppress(AlreadyExists):
            self._cluster.create(claim_object(server, settings))
        claim = self._cluster.get(PERSISTENT_VOLUME_CLAIMS, namespace, server.notebook_id)
        if claim is None or "deletionTimestamp" in claim["metadata"]:
            return  # it is removed at the moment
        with contextlib.suppress(AlreadyExists):
            self._cluster.create(service_object(server, claim, settings))
        try:
            job = self._cluster.create(job_object(server, image, settings))
        except AlreadyExists:  # who created it was killed before it submitted it
            found = self._job(server.notebook_id)
            if found is None or _run_of(found) != server.run or self._status(found) is not None:
                return
            job = found
        with contextlib.suppress(AlreadyExists):
            self._cluster.create(secret_object(server, job, settings))
        queues = ProjectQueues(self._cluster, KServeSettings(namespace=namespace, queue=settings.queue))
        queue = queues.ensure(server.project_id, server.organization_id)
        patch = submission(job, queue, settings.jobs, time.time())
        self._cluster.merge_patch(JOBS, namespace, server.notebook_id, patch)

    def _end(self, server: NotebookServer, code: str, reason: str) -> None:
        """Note that a start failed before it ran."""
        failed = JobStatus(Phase.FAILED, time.time(), code=code, reason=reason)
        job = ended_job(server.notebook_id, server.project_id, failed, self._settings.jobs)
        job["metadata"]["annotations"][RUN] = str(server.run)
        del job["spec"]["ttlSecondsAfterFinished"]  # it says so until the next start
        with contextlib.suppress(AlreadyExists):
            self._cluster.create(job)

    def _job(self, notebook_id: str) -> Body | None:
        return self._cluster.get(JOBS, self._settings.namespace, notebook_id)

    def _status(self, job: Body) -> ServerStatus | None:
        """None for a Job that is not submitted yet."""
        waits = job["spec"].get("suspend") and not is_finished(job)
        pods = [] if waits else self._pods(job["metadata"]["name"])
        return server_status(job, pods, lambda: self._workload(job), _run_of(job))

    def _pods(self, notebook_id: str) -> list[Body]:
        return self._cluster.list(PODS, self._settings.namespace, labels={JOB_LABEL: notebook_id}).items

    def _has_pods(self, notebook_id: str) -> bool:
        return any(pod.get("status", {}).get("phase") not in _ENDED_PODS for pod in self._pods(notebook_id))

    def _workload(self, job: Body) -> Body | None:
        """The Workload of a Job; None where Kueue has made none yet, or there is no Kueue."""
        labels = {_UID_LABEL: job["metadata"]["uid"]}
        try:
            found = self._cluster.list(WORKLOADS, self._settings.namespace, labels=labels).items
        except NoSuchObject:
            return None
        return found[0] if found else None


def _run_of(job: Body) -> int:
    return int(job["metadata"].get("annotations", {}).get(RUN, "0"))
