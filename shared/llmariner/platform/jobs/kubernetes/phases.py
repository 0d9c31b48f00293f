"""The status of a job, from its Job, pods and Workload. Pure functions of the objects."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.jobs.kubernetes.container_scripts import FETCH_FAILED, TERMINATED
from llmariner.platform.jobs.kubernetes.objects import CONTAINER, ENDED, FETCH_CONTAINER, PAUSED, SUBMITTED
from llmariner.platform.jobs.kubernetes.weights import WEIGHTS_CONTAINER
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.queue_messages import public_message

__all__ = [
    "checked_status",
    "condition",
    "ended_status",
    "is_finished",
    "is_running",
    "job_status",
    "newest_first",
    "readable",
    "seconds_of",
    "waiting_reason",
]

Body = Mapping[str, Any]

_IMAGE_PROBLEMS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_START_PROBLEMS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_START_SECONDS = 300.0
"""How long a problem with an image or a container may last: some pass by themselves."""
_EXIT_CODE = re.compile(r"Container (\S+) for pod \S+ failed with exit code (\d+)")
_MIB = 1 << 20
_MAX_TIME = 253_402_300_800
"""The year 10000, in Unix seconds."""
_MAX_CODE, _MAX_NUMBER = 64, 2**31 - 1
_FIRST = "initContainerStatuses"


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """ClusterError for what fails at objects that say nonsense: a worker cluster is its organization's."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ClusterError("The cluster says of this job what is no status of one. Ask its administrator.") from error


def checked_status(status: JobStatus) -> JobStatus:
    """A status that can be stored and shown. Raises ValueError for another: annotations of a Job may say anything."""
    times = (status.since, status.started_at or 0.0)
    texts = (status.code, status.reason)
    fits = (
        all(isinstance(each, int | float) and 0 <= each < _MAX_TIME for each in times)
        and all(isinstance(each, str) for each in texts)
        and len(status.code) <= _MAX_CODE
        and (not status.code or status.code.isprintable())
        and 0 <= status.restarts <= _MAX_NUMBER
    )
    if not fits:
        raise ValueError("it has a number or a text that is out of range")
    return status


def ended_status(job: Body) -> JobStatus | None:
    """The status of a job that ended before it ran, as the adapter noted it; None for another one."""
    text = job["metadata"].get("annotations", {}).get(ENDED)
    if text is None:
        return None
    said = json.loads(text)
    return JobStatus(Phase(said["phase"]), said["since"], code=said["code"], reason=said["reason"])


def job_status(job: Body, pods: Sequence[Body], *, memory_bytes: int, disk_bytes: int) -> JobStatus | None:
    """The status of a Job; None for one that is not submitted yet. `place` and `reason` of one in its queue are left.

    `pods`: its pods. The limits are named in reasons.
    """
    status, spec = job.get("status", {}), job["spec"]
    annotations = job["metadata"].get("annotations", {})
    submitted = annotations.get(SUBMITTED)
    if submitted is None:
        return None
    restarts = min(int(status.get("failed") or 0), int(spec.get("backoffLimit") or 0))
    last = next(filter(None, map(_began, newest_first(pods))), None)
    if (complete := condition(job, "Complete")) is not None:
        end = seconds_of(status.get("completionTime")) or seconds_of(complete["lastTransitionTime"])
        started_at = last or seconds_of(status.get("startTime"))
        return JobStatus(Phase.SUCCEEDED, end or 0.0, started_at, restarts=restarts)
    if (failed := condition(job, "Failed")) is not None:
        code, reason = _failure(job, failed, pods, memory_bytes, disk_bytes)
        since = seconds_of(failed["lastTransitionTime"]) or 0.0
        return JobStatus(Phase.FAILED, since, last, code=code, reason=reason, restarts=restarts)
    if spec.get("suspend"):
        if (paused := annotations.get(PAUSED)) is not None:
            return JobStatus(Phase.PAUSED, float(paused), restarts=restarts)
        suspended = condition(job, "Suspended")
        stopped = seconds_of(suspended["lastTransitionTime"]) if suspended else None
        return JobStatus(Phase.QUEUED, max(float(submitted), stopped or 0.0), restarts=restarts)
    began = next(filter(None, (_began(pod) for pod in newest_first(pods) if not _begins_again(job, pod))), None)
    if began is not None:
        return JobStatus(Phase.RUNNING, began, began, restarts=restarts)
    return _starting(job, pods, float(submitted), restarts, (memory_bytes, disk_bytes))


def is_finished(job: Body) -> bool:
    """Whether a Job has come to its end, as Kubernetes says."""
    return any(condition(job, kind) is not None for kind in ("Complete", "Failed"))


def is_running(pod: Body) -> bool:
    """Whether a pod's command runs, and nothing has asked for its end."""
    return "running" in _container(pod) and "deletionTimestamp" not in pod["metadata"]


def waiting_reason(workload: Body | None) -> str:
    """Why a job waits in its queue, by its Workload; None: it has none yet."""
    if workload is None:
        return "It is about to enter its queue."
    quota = condition(workload, "QuotaReserved", status="False")
    message = public_message(str(quota["message"])) if quota else ""
    evicted = condition(workload, "Evicted")
    if evicted is None:
        return message or "It waits for room in its pool."
    cause = "It was preempted" if evicted.get("reason") == "Preempted" else "It was evicted"
    said = public_message(str(evicted.get("message") or evicted.get("reason")))
    return f"{cause}, and begins again: {said} {'' if message == said else message}".strip()


def condition(body: Body, kind: str, *, status: str = "True") -> Body | None:
    """The condition of that type and status; None where there is none."""
    found = body.get("status", {}).get("conditions") or ()
    return next((each for each in found if (each["type"], each["status"]) == (kind, status)), None)


def newest_first(pods: Sequence[Body]) -> list[Body]:
    """Pods by the time of their creation."""
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)


def seconds_of(text: str | None) -> float | None:
    """A time of Kubernetes in Unix seconds."""
    return datetime.datetime.fromisoformat(text).timestamp() if text else None


def _container(pod: Body, name: str = CONTAINER, kind: str = "containerStatuses") -> Body:
    """The state of a container; empty where it has none."""
    found = pod.get("status", {}).get(kind) or ()
    state: Body = next((each.get("state", {}) for each in found if each["name"] == name), {})
    return state


def _began(pod: Body) -> float | None:
    """When a pod's command began."""
    state = _container(pod)
    return seconds_of((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _begins_again(job: Body, pod: Body) -> bool:
    """Whether a pod ended in a way after which another takes its place."""
    code = (_container(pod).get("terminated") or {}).get("exitCode", 0)
    return bool(code) and (code == TERMINATED or bool(job["spec"].get("backoffLimit")))


def _starting(job: Body, pods: Sequence[Body], submitted: float, restarts: int, limits: tuple[int, int]) -> JobStatus:
    """The status of a Job that is admitted, and whose command does not run."""
    since = seconds_of(job.get("status", {}).get("startTime")) or submitted
    code, reason = _start_problem(pods)
    if code:
        return JobStatus(Phase.FAILED, time.time(), code=code, reason=reason, restarts=restarts)
    for pod in newest_first(pods)[:1]:
        if not reason and (failure := _pod_failure(pod, *limits)) is not None:
            code, reason = failure[0], f"{failure[1]} It is started again."
    return JobStatus(Phase.QUEUED, since, place=1, code=code, reason=reason or "Its pod is started.", restarts=restarts)


def _failure(job: Body, failed: Body, pods: Sequence[Body], memory_bytes: int, disk_bytes: int) -> tuple[str, str]:
    """The code and the reason of a Job that failed."""
    if failed.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds", 0)
        return "deadline_exceeded", f"It ran longer than {seconds:g} s, and was ended."
    for pod in newest_first(pods):
        if (found := _pod_failure(pod, memory_bytes, disk_bytes)) is not None:
            return found
    message = str(failed.get("message", ""))
    if (said := _EXIT_CODE.search(message)) is not None and said[1] == CONTAINER:
        return _exit(int(said[2]))
    return "interrupted", f"Its pods were ended: {message}"


def _pod_failure(pod: Body, memory_bytes: int, disk_bytes: int) -> tuple[str, str] | None:
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        message = str(status.get("message", ""))
        if not message.startswith("The node was low"):
            return "disk_limit_exceeded", f"Its files took more than the {disk_bytes // _MIB} MiB of a job: {message}"
        return "evicted", f"Its node ended it: {message}"
    fetched = _container(pod, FETCH_CONTAINER, _FIRST).get("terminated") or {}
    if code := fetched.get("exitCode"):
        said = str(fetched.get("message") or "").strip()
        if code == FETCH_FAILED:
            return "data_file_unavailable", f"A data file could not be fetched. {said}".strip()
        return "start_failed", f"Its data files were not fetched: {said or f'exit code {code}'}"
    fetched = _container(pod, WEIGHTS_CONTAINER, _FIRST).get("terminated") or {}
    if fetched.get("exitCode"):
        return "weights_unavailable", f"The model's weights were not fetched. {fetched.get('message') or ''}".strip()
    ended = _container(pod).get("terminated") or {}
    if ended.get("reason") == "OOMKilled":
        limit = f"a job may use {memory_bytes // _MIB} MiB."
        return "out_of_memory", f"It used more memory than it may and was ended: {limit}"
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        return "start_failed", f"It could not be started: {ended.get('message', '')}"
    if ended.get("exitCode") == TERMINATED:
        return "interrupted", "Its pod was ended from outside."
    return _exit(int(ended["exitCode"])) if ended.get("exitCode") else None


def _exit(code: int) -> tuple[str, str]:
    """The cause of an exit code of the shell, which adds 128 to the number of a signal."""
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return "exit_code", f"The command ended with exit code {code}."
    perhaps = ", perhaps because the machine had no memory left" if name == "SIGKILL" else ""
    return "killed", f"The command was ended by {name}{perhaps}."


def _start_problem(pods: Sequence[Body]) -> tuple[str, str]:
    """Why a pod does not start, and the code of a failure where that will not pass."""
    for pod in newest_first(pods):
        states = [_container(pod), *(_container(pod, each, _FIRST) for each in (FETCH_CONTAINER, WEIGHTS_CONTAINER))]
        for waiting in (state.get("waiting") or {} for state in states):
            reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
            if reason not in (*_IMAGE_PROBLEMS, *_START_PROBLEMS):
                continue
            began = seconds_of(pod.get("status", {}).get("startTime")) or time.time()
            code = "image_unavailable" if reason in _IMAGE_PROBLEMS else "start_failed"
            lasting = reason in ("InvalidImageName", "ErrImageNeverPull") or time.time() - began > _START_SECONDS
            what = "Its image can't be had" if reason in _IMAGE_PROBLEMS else "Its container can't be started"
            return (code if lasting else ""), f"{what}: {message or reason}"
        unscheduled = condition(pod, "PodScheduled", status="False")
        if unscheduled is not None:
            return "", f"It waits for a node: {unscheduled.get('message', '')}"
    return "", ""
