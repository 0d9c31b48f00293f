"""The status of a job on a cluster, from the objects as Kubernetes and Kueue write them."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from llmariner.platform.jobs import Phase
from llmariner.platform.jobs.kubernetes.objects import SUBMITTED
from llmariner.platform.jobs.kubernetes.phases import job_status, waiting_reason

Body = dict[str, Any]
EARLY, LATE = "2026-11-29T10:00:00Z", "2026-11-29T10:05:00Z"
START = 1795946400.0


def job(*conditions: Body, suspend: bool = False, **status: Any) -> Body:
    return {
        "metadata": {"annotations": {SUBMITTED: f"{START:.3f}"}},
        "spec": {"suspend": suspend, "activeDeadlineSeconds": 60},
        "status": {"conditions": list(conditions), **status},
    }


def condition(kind: str, **fields: Any) -> Body:
    return {"type": kind, "status": "True", "lastTransitionTime": LATE, **fields}


def pod(state: Body | None = None, fetch: Body | None = None, created: str = EARLY, **status: Any) -> Body:
    containers = [{"name": "job", "state": state}] if state else []
    inits = [{"name": "data-files", "state": fetch}] if fetch else []
    return {
        "metadata": {"creationTimestamp": created},
        "status": {"containerStatuses": containers, "initContainerStatuses": inits, "startTime": EARLY, **status},
    }


def terminated(code: int, reason: str = "Error", **fields: Any) -> Body:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": EARLY, **fields}}


def waiting(reason: str, message: str = "") -> Body:
    return {"waiting": {"reason": reason, "message": message}}


FAILED = condition("Failed", reason="PodFailurePolicy", message="Container job failed")


@pytest.mark.parametrize(
    ("pods", "failed", "code", "reason"),
    [
        ([pod(terminated(3))], FAILED, "exit_code", "The command ended with exit code 3."),
        ([pod(terminated(139))], FAILED, "killed", "The command was ended by SIGSEGV."),
        ([pod(terminated(137, "OOMKilled"))], FAILED, "out_of_memory", "a job may use 256 MiB"),
        ([pod(terminated(128, "StartError", message="no such file"))], FAILED, "start_failed", "no such file"),
        ([pod(fetch=terminated(96, message="HTTP 404"))], FAILED, "data_file_unavailable", "HTTP 404"),
        ([pod(fetch=terminated(1, message="needs curl"))], FAILED, "start_failed", "needs curl"),
        (
            [pod(reason="Evicted", message='Usage of EmptyDir volume "work" exceeds the limit "24Mi".')],
            FAILED,
            "disk_limit_exceeded",
            "more than the 24 MiB",
        ),
        (
            [pod(reason="Evicted", message="The node was low on resource: memory.")],
            FAILED,
            "evicted",
            "low on resource",
        ),
        ([], condition("Failed", reason="DeadlineExceeded"), "deadline_exceeded", "longer than 60 s"),
        (
            [],
            condition(
                "Failed", message="Container job for pod ns/bj-1-x failed with exit code 7 matching FailJob rule"
            ),
            "exit_code",
            "exit code 7",
        ),
        (
            [],
            condition("Failed", message="Job has reached the specified backoff limit"),
            "interrupted",
            "backoff limit",
        ),
        # The last pod tells why the job failed.
        ([pod(terminated(243)), pod(terminated(4), created=LATE)], FAILED, "exit_code", "exit code 4"),
    ],
)
def test_a_failure_has_its_cause(pods: list[Body], failed: Body, code: str, reason: str) -> None:
    found = job_status(job(failed), pods, memory_bytes=256 << 20, disk_bytes=24 << 20)
    assert found is not None
    assert (found.phase, found.code, found.since) == (Phase.FAILED, code, START + 300)
    assert reason in found.reason


def test_a_job_is_queued_until_its_command_runs() -> None:
    def phase(body: Body, *pods: Body) -> tuple[Phase, float | None, str]:
        found = job_status(body, pods, memory_bytes=1, disk_bytes=1)
        assert found is not None
        return found.phase, found.started_at, found.reason

    assert phase(job(suspend=True)) == (Phase.QUEUED, None, "")
    assert phase(job()) == (Phase.QUEUED, None, "Its pod is started.")
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert phase(job(), pod(conditions=[unscheduled])) == (
        Phase.QUEUED,
        None,
        "It waits for a node: 0/1 nodes are available",
    )
    assert phase(job(), pod({"running": {"startedAt": EARLY}})) == (Phase.RUNNING, START, "")
    done = job(condition("Complete"), completionTime=LATE)
    assert phase(done, pod(terminated(0))) == (Phase.SUCCEEDED, START, "")
    unsubmitted = {"metadata": {}, "spec": {"suspend": True}}
    assert job_status(unsubmitted, (), memory_bytes=1, disk_bytes=1) is None


def test_an_image_that_stays_missing_fails_the_job_and_one_that_may_come_does_not() -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for reason, since, code in (
        ("ImagePullBackOff", now, ""),
        ("ImagePullBackOff", "2020-01-01T00:00:00Z", "image_unavailable"),
        ("InvalidImageName", now, "image_unavailable"),
        ("CreateContainerConfigError", now, ""),
        ("CreateContainerConfigError", "2020-01-01T00:00:00Z", "start_failed"),
    ):
        found = job_status(job(), [pod(waiting(reason, "why"), startTime=since)], memory_bytes=1, disk_bytes=1)
        assert found is not None
        assert (found.code, "why" in found.reason) == (code, True), reason
        assert found.phase is (Phase.FAILED if code else Phase.QUEUED)


def test_a_workload_says_why_its_job_waits() -> None:
    full = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota for memory"}
    said = (
        "Preempted to accommodate a workload (UID: 1f, JobUID: 2e) due to prioritization in the ClusterQueue; "
        "preemptor path: /llmariner/project-other; preemptee path: /llmariner/project-own"
    )
    evicted = condition("Evicted", reason="Preempted", message=said)
    assert waiting_reason(None) == "It is about to enter its queue."
    assert waiting_reason({"status": {"conditions": [full]}}) == full["message"]
    again = waiting_reason({"status": {"conditions": [full, evicted]}})
    assert again == (
        "It was preempted, and begins again: Preempted for other work due to prioritization in the ClusterQueue. "
        "insufficient unused quota for memory"
    )
    previous = {**full, "message": f"Previously: {said}"}
    for each in ([previous], [previous, evicted], [condition("Evicted", reason="Preempted", message=said[:60])]):
        shown = waiting_reason({"status": {"conditions": each}})
        assert not re.search("path|UID|project", shown), "a tenant reads nothing of the work of others"
