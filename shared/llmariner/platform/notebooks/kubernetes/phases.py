"""What a notebook's server does, from its Job, pods and Workload. A pure function of the objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.jobs.kubernetes.phases import (
    condition,
    ended_status,
    is_finished,
    job_status,
    newest_first,
    seconds_of,
    waiting_reason,
)
from llmariner.platform.notebooks import ENDED_BY_ITSELF, ServerPhase, ServerStatus
from llmariner.platform.notebooks.kubernetes.objects import STOPPED

__all__ = ["server_status"]

Body = Mapping[str, Any]

_MIB = 1 << 20


def server_status(
    job: Body, pods: Sequence[Body], workload: Callable[[], Body | None], run: int
) -> ServerStatus | None:
    """The status of a start by its Job; None for one that is not submitted yet. `workload` is called for one that waits."""
    found = ended_status(job) or _job_status(job, pods)
    if found is None:
        return None
    if STOPPED in job["metadata"].get("annotations", {}) and is_finished(job):
        return ServerStatus(run, ServerPhase.STOPPED, found.since)
    if found.phase is Phase.QUEUED and job["spec"].get("suspend"):
        return ServerStatus(run, ServerPhase.QUEUED, found.since, reason=waiting_reason(workload()))
    if found.phase is Phase.QUEUED:
        return ServerStatus(run, ServerPhase.INITIALIZING, found.since, found.code, found.reason)
    if found.phase is Phase.RUNNING:
        since = _ready_since(pods)
        if since is None:
            return ServerStatus(run, ServerPhase.INITIALIZING, found.since, reason="JupyterLab starts.")
        return ServerStatus(run, ServerPhase.RUNNING, since)
    if found.phase is Phase.SUCCEEDED:
        return ServerStatus(run, ServerPhase.STOPPED, found.since, "ended", ENDED_BY_ITSELF)
    reason = found.reason
    if found.code == "out_of_memory":
        reason = f"It used more than the {_limits(job)[0] // _MIB} MiB of memory that it may, and was ended."
    return ServerStatus(run, ServerPhase.FAILED, found.since, found.code, f"{reason} Its files are kept.")


def _job_status(job: Body, pods: Sequence[Body]) -> JobStatus | None:
    memory, disk = _limits(job)
    return job_status(job, pods, memory_bytes=memory, disk_bytes=disk)


def _limits(job: Body) -> tuple[int, int]:
    """Bytes of memory, and of files beside the notebook's own."""
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(limits["memory"]), int(limits["ephemeral-storage"])


def _ready_since(pods: Sequence[Body]) -> float | None:
    """Since when the newest pod takes requests; None for one that does not."""
    for pod in newest_first(pods)[:1]:
        ready = condition(pod, "Ready")
        if ready is not None and "deletionTimestamp" not in pod["metadata"]:
            return seconds_of(ready.get("lastTransitionTime"))
    return None
