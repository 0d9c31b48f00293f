"""Jobs adapter for clusters. The objects of the cluster are the truth: the adapter holds nothing for more than a moment.

A job's Job is created suspended and in no queue, then what it needs, owned by it; the annotation `SUBMITTED` and the
queue's label come last. Who is killed in between leaves a Job that nothing starts, and `submit` completes it.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmariner.errors import NotFound, Unavailable
from llmariner.platform.jobs import Execution, Job, JobStatus, LogPart, Phase, Results
from llmariner.platform.jobs.kubernetes.execution import PodExecution, command_line
from llmariner.platform.jobs.kubernetes.objects import (
    CONTAINER,
    JOB_LABEL,
    PAUSED,
    DataLink,
    ended_job,
    ending_patch,
    job_object,
    owned_objects,
    submission,
)
from llmariner.platform.jobs.kubernetes.output import keeps_output, upload_program
from llmariner.platform.jobs.kubernetes.phases import (
    checked_status,
    ended_status,
    is_finished,
    is_running,
    job_status,
    newest_first,
    readable,
    waiting_reason,
)
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.jobs.program_errors import MAX_EXECUTIONS, not_running, too_many_programs
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists, ClusterError, Conflict, Invalid
from llmariner.platform.kube.errors import NotFound as NoSuchObject
from llmariner.platform.kube.resources import JOBS, PODS, WORKLOADS, path_part
from llmariner.platform.serving.kserve.objects import QUEUE_LABEL
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, ProjectQueues
from llmariner.settings import KServeSettings

__all__ = ["KubernetesJobs"]

_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?")
_LOG_BYTES = 256 * 1024
_VISIBILITY = "/apis/visibility.kueue.x-k8s.io/v1beta2"
_LISTED = 1000
"""Waiting jobs of a project whose places are looked up."""
_LINE_SECONDS = 0.5
"""How long the line of a queue is known: a list of a project's jobs asks for each that is queued."""
_WORKER_LABEL = "batch.kubernetes.io/job-completion-index"
_JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
_IN_USE = "kueue.x-k8s.io/resource-in-use"
"""The finalizer of a Workload whose Job may run."""
_ATTEMPTS, _PAUSE_SECONDS = 30, 0.1


class KubernetesJobs:
    """See the module. `links` gives a URL for each data file of a job, or raises NotFound where one is gone.

    `token` gives what a job's pod says with what it leaves, by the job's id.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: ClusterJobSettings,
        links: Callable[[Job], Sequence[DataLink]],
        token: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._links = links
        self._token = token
        self._line: tuple[str, float, Mapping[str, int]] = ("", 0.0, {})
        """A queue, when Kueue was asked for its line, and the line. One value, so that threads see it whole."""
        self._lock = threading.Lock()
        self._programs: dict[str, int] = {}
        """How many programs run in a job."""
        self._queues = ProjectQueues(cluster, KServeSettings(namespace=settings.namespace, queue=settings.queue))

    @property
    def environment(self) -> str:
        """See the port."""
        return "In a container of its image, on the cluster."

    @property
    def problem(self) -> str:
        """See the port."""
        return ""

    def submit(self, job: Job) -> JobStatus:
        """See the port."""
        if (found := self.status(job.id)) is not None:
            return found
        image = self._settings.images.get(job.image) if job.image else self._settings.program_image
        if not image:
            missing = f"The image '{job.image}'" if job.image else "The image of fine-tuning"
            return self._end(job, "image_unavailable", f"{missing} is not configured any more.")
        if not _OBJECT_NAME.fullmatch(job.id):
            raise ValueError(f"{job.id!r} is no name of a Kubernetes object.")
        try:
            links = self._links(job) if job.data_files else ()
        except NotFound:
            return self._end(job, "data_file_unavailable", "A data file was deleted before the job began.")
        try:
            self._create(job, image, links)
        except Invalid as error:
            self._delete(job.id)
            return self._end(job, "start_failed", f"It could not be started: {error.message}")
        except Conflict:  # it was canceled meanwhile
            pass
        found = self.status(job.id)
        return found or JobStatus(Phase.QUEUED, time.time(), reason="It is about to enter its queue.")

    @readable()
    def status(self, job_id: str) -> JobStatus | None:
        """See the port. As the others, it raises ClusterError for a Job that says nonsense."""
        job = self._cluster.get(JOBS, self._settings.namespace, job_id)
        found = None if job is None else self._status(job)
        return found and checked_status(found)

    def _status(self, job: dict[str, Any]) -> JobStatus | None:
        if (ended := ended_status(job)) is not None:
            return ended
        found = self._status_by_pods(job)
        if found is None or found.phase is not Phase.QUEUED or not job["spec"].get("suspend"):
            return found
        workload = self._workload(job)
        place = self._place(job, workload)
        return replace(found, place=place, reason=waiting_reason(workload))

    @readable()
    def cancel(self, job_id: str) -> None:
        """See the port. One that can't start stays a failure: its Job keeps the cause, and ends."""
        for _ in range(_ATTEMPTS):
            job = self._cluster.get(JOBS, self._settings.namespace, job_id)
            if job is not None and (ended_status(job) is not None or is_finished(job)):
                return
            found = None if job is None else self._status_by_pods(job)
            if job is not None and found is not None and found.phase is Phase.FAILED:
                self._patch(job, ending_patch(found))  # one request: who is killed after it has lost nothing
                continue
            project = "" if job is None else job["metadata"]["annotations"].get(PROJECT_ANNOTATION, "")
            if job is not None:
                self._delete_with_workload(job)
            canceled = JobStatus(Phase.CANCELED, time.time())
            with contextlib.suppress(AlreadyExists):
                self._cluster.create(ended_job(job_id, project, canceled, self._settings))
                return
            time.sleep(_PAUSE_SECONDS)  # another process submits it, or a finalizer holds its Job

    @readable()
    def pause(self, job_id: str) -> None:
        """See the port."""
        job = self._cluster.get(JOBS, self._settings.namespace, job_id)
        found = None if job is None else self.status(job_id)
        if job is None or found is None or found.phase.is_final:
            return
        if found.phase is Phase.RUNNING and not job["spec"].get("backoffLimit"):
            return
        if PAUSED not in job["metadata"]["annotations"]:
            self._patch(job, {"metadata": {"annotations": {PAUSED: f"{time.time():.3f}"}}})
        self._hold(job, held=True)

    @readable()
    def resume(self, job_id: str) -> None:
        """See the port."""
        job = self._cluster.get(JOBS, self._settings.namespace, job_id)
        if job is None or PAUSED not in job["metadata"].get("annotations", {}):
            return
        self._hold(job, held=False)
        self._patch(job, {"metadata": {"annotations": {PAUSED: None}}})

    def exec(self, job_id: str, argv: Sequence[str], stdin: bytes = b"") -> Execution:
        """See the port. In the first worker's pod; the number of programs is that of this process."""
        pod = self._running_pod(job_id)
        self._count(job_id, 1)
        try:
            namespace, line = self._settings.namespace, command_line(argv, stdin)
            program = self._cluster.start_program(namespace, pod, CONTAINER, line)
        except BaseException as error:
            self._count(job_id, -1)
            if isinstance(error, NoSuchObject):
                raise not_running(job_id) from error
            raise
        return PodExecution(program, stdin, lambda: self._count(job_id, -1))

    def remove(self, job_id: str) -> None:
        """See the port."""
        self._delete(job_id)

    @readable()
    def log(self, job_id: str, start: int = 0) -> LogPart:
        """See the port. The output of the first worker's last pod: an earlier pod's goes with it."""
        gone = self._cluster.get(JOBS, self._settings.namespace, job_id) is None
        for pod in () if gone else newest_first(self._pods(job_id)):
            if pod["metadata"].get("labels", {}).get(_WORKER_LABEL, "0") != "0":
                continue
            name = pod["metadata"]["name"]
            data = self._cluster.pod_log(self._settings.namespace, name, CONTAINER, skip=start, limit=_LOG_BYTES)
            return LogPart(data, start, start + len(data))
        return LogPart(b"", start, start)

    def results(self, job_id: str) -> Results:
        """See the port. None: a pod uploads its files before it ends."""
        return Results()

    def read_result(self, job_id: str, name: str) -> Iterator[bytes]:
        """See the port."""
        raise FileNotFoundError(name)

    def delete_results(self, job_id: str) -> None:
        """See the port. There are none."""

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """See the port. Nobody is called: the cluster sends changes of Jobs as CloudEvents."""

    def _create(self, job: Job, image: str, links: Sequence[DataLink]) -> None:
        try:
            made = self._cluster.create(job_object(job, image, self._settings))
        except AlreadyExists:  # who created it was killed before it submitted it
            found = self._cluster.get(JOBS, self._settings.namespace, job.id)
            if found is None or ended_status(found) is not None:
                return
            made = found
        settings = self._settings
        output = upload_program(job, settings, self._token(job.id)) if keeps_output(job, settings) else None
        for each in owned_objects(job, made, links, output):
            with contextlib.suppress(AlreadyExists):
                self._cluster.create(each)
        queue = self._queues.ensure(job.project_id, job.organization_id)
        patch = submission(made, queue, self._settings, time.time())
        self._cluster.merge_patch(JOBS, self._settings.namespace, job.id, patch)

    @readable()
    def _running_pod(self, job_id: str) -> str:
        """The name of the first worker's pod, of this very Job, whose command runs. Raises Conflict without one."""
        job = self._cluster.get(JOBS, self._settings.namespace, job_id)
        for pod in () if job is None else newest_first(self._pods(job_id)):
            metadata = pod["metadata"]
            owners = [each["uid"] for each in metadata.get("ownerReferences", ())]
            first = metadata.get("labels", {}).get(_WORKER_LABEL, "0") == "0"
            if first and job is not None and job["metadata"]["uid"] in owners and is_running(pod):
                return str(metadata["name"])
        raise not_running(job_id)

    def _count(self, job_id: str, change: int) -> None:
        """Note that a program begins (1) or has ended (-1). Raises RateLimited for too many."""
        with self._lock:
            number = self._programs.get(job_id, 0) + change
            if number > MAX_EXECUTIONS:
                raise too_many_programs(job_id)
            if number:
                self._programs[job_id] = number
            else:
                self._programs.pop(job_id, None)

    def _hold(self, job: dict[str, Any], *, held: bool) -> None:
        """Let Kueue admit a Job or not; one that it has admitted ends its pods. Without Kueue, suspend it."""
        if QUEUE_LABEL not in job["metadata"].get("labels", {}):
            self._patch(job, {"spec": {"suspend": held}})
            return
        for _ in range(_ATTEMPTS):
            if (workload := self._workload(job)) is not None:
                name = workload["metadata"]["name"]
                self._cluster.merge_patch(WORKLOADS, self._settings.namespace, name, {"spec": {"active": not held}})
                return
            time.sleep(_PAUSE_SECONDS)
        raise Unavailable("The queue has not taken up the job yet. Try again shortly.", headers={"retry-after": "2"})

    def _patch(self, job: dict[str, Any], patch: dict[str, Any]) -> None:
        """Change this very Job."""
        metadata = {**patch.get("metadata", {}), "uid": job["metadata"]["uid"]}
        with contextlib.suppress(Conflict, NoSuchObject):
            name = job["metadata"]["name"]
            self._cluster.merge_patch(JOBS, self._settings.namespace, name, {**patch, "metadata": metadata})

    def _end(self, job: Job, code: str, reason: str) -> JobStatus:
        """Note that a job failed before it ran."""
        failed = JobStatus(Phase.FAILED, time.time(), code=code, reason=reason)
        try:
            self._cluster.create(ended_job(job.id, job.project_id, failed, self._settings))
        except AlreadyExists:
            return self.status(job.id) or failed
        return failed

    def _delete_with_workload(self, job: dict[str, Any]) -> None:
        """Delete this very Job, and let go of its Workload.

        Kueue lets go of it where there is no Job of the name: it would hold its quota as long as one that is created here
        before Kueue has looked. Also before the deletion: who is killed after it does not know the Workload any more.
        """
        self._let_go(job)
        with contextlib.suppress(Conflict):
            self._cluster.delete(JOBS, self._settings.namespace, job["metadata"]["name"], uid=job["metadata"]["uid"])
        self._let_go(job)

    def _let_go(self, job: dict[str, Any]) -> None:
        if QUEUE_LABEL not in job["metadata"].get("labels", {}):
            return
        workload = self._workload(job)
        finalizers = [] if workload is None else workload["metadata"].get("finalizers", [])
        if workload is not None and _IN_USE in finalizers:
            kept = [each for each in finalizers if each != _IN_USE]
            metadata = {"uid": workload["metadata"]["uid"], "finalizers": kept}
            with contextlib.suppress(Conflict, NoSuchObject):
                name = workload["metadata"]["name"]
                self._cluster.merge_patch(WORKLOADS, self._settings.namespace, name, {"metadata": metadata})

    def _delete(self, job_id: str) -> None:
        self._cluster.delete(JOBS, self._settings.namespace, job_id)

    def _status_by_pods(self, job: dict[str, Any]) -> JobStatus | None:
        settings = self._settings
        # A Job in its queue has none; a list of jobs asks for each that is queued.
        waits = job["spec"].get("suspend") and not is_finished(job)
        pods = [] if waits else self._pods(job["metadata"]["name"])
        return job_status(job, pods, memory_bytes=settings.memory_bytes, disk_bytes=settings.disk_bytes)

    def _pods(self, job_id: str) -> list[dict[str, Any]]:
        return self._cluster.list(PODS, self._settings.namespace, labels={JOB_LABEL: job_id}).items

    def _workload(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The Workload of a Job; None where Kueue has made none yet, or there is no Kueue."""
        labels = {_JOB_UID_LABEL: job["metadata"]["uid"]}
        try:
            found = self._cluster.list(WORKLOADS, self._settings.namespace, labels=labels).items
        except NoSuchObject:
            return None
        return found[0] if found else None

    def _place(self, job: dict[str, Any], workload: dict[str, Any] | None) -> int | None:
        """The place in the line of the pool, which models and other projects share; None where Kueue doesn't say."""
        queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        if queue is None or workload is None:
            return None
        return self._places(queue).get(workload["metadata"]["name"])

    def _places(self, queue: str) -> Mapping[str, int]:
        """The places of a queue's workloads by their names: as Kueue says, or said a moment ago."""
        known, at, places = self._line
        if known == queue and time.monotonic() - at < _LINE_SECONDS:
            return places
        path = f"{_VISIBILITY}/namespaces/{self._settings.namespace}/localqueues/{path_part(queue)}/pendingworkloads"
        try:
            waiting = self._cluster.get_raw(f"{path}?limit={_LISTED}").get("items") or ()
        except ClusterError:
            return {}
        places = {each["metadata"]["name"]: int(each["positionInClusterQueue"]) + 1 for each in waiting}
        self._line = (queue, time.monotonic(), places)
        return places
