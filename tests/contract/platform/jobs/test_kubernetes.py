"""Jobs on the test cluster: what ends them, what begins them again, their line, several workers, and what they leave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmariner.errors import Conflict, RateLimited
from llmariner.platform.jobs import Job, JobStatus, Phase
from llmariner.platform.jobs.kubernetes.objects import JOB_LABEL
from llmariner.platform.kube.resources import PODS, SECRETS, SERVICES, WORKLOADS

from .cluster_jobs import ClusterJobs, host_address, jobs_on_cluster
from .conftest import FILES, Done, output, run, wait_for_end, wait_for_output
from .upload_server import Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SLEEP = "echo began; sleep 1000"
MEETING = """\
import os, socket
rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
if rank == 0:
    server = socket.create_server(("", port))
    peer, _ = server.accept()
    print("met", peer.recv(10).decode(), "of", os.environ["WORLD_SIZE"])
else:
    for _ in range(200):
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], port), 5).sendall(b"worker %d" % rank)
            break
        except OSError:
            __import__("time").sleep(0.2)
"""


@pytest.fixture(scope="module")
def jobs() -> Iterator[ClusterJobs]:
    """For jobs of different ids."""
    with jobs_on_cluster(FILES) as made:
        yield made


@contextlib.contextmanager
def changed(jobs: ClusterJobs, **settings: Any) -> Iterator[None]:
    """Other settings for a while."""
    before = jobs._settings
    jobs._settings = replace(before, **settings)
    try:
        yield
    finally:
        jobs._settings = before


def until(jobs: ClusterJobs, job_id: str, wanted: Callable[[JobStatus], bool], *, seconds: float = 90) -> JobStatus:
    deadline = time.monotonic() + seconds
    while True:
        status = jobs.status(job_id)
        if status is not None and wanted(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def left(jobs: ClusterJobs, job_id: str) -> list[str]:
    """The objects of a job that are there."""
    namespace = jobs._settings.namespace
    found = [
        (kind, each) for kind in (SECRETS, SERVICES, WORKLOADS) for each in jobs._cluster.list(kind, namespace).items
    ]
    names = [f"{kind.kind} {each['metadata']['name']}" for kind, each in found if job_id in each["metadata"]["name"]]
    pods = jobs._cluster.list(PODS, namespace, labels={JOB_LABEL: job_id}).items
    return names + [f"Pod {each['metadata']['name']}" for each in pods]


def wait_until_gone(jobs: ClusterJobs, job_id: str) -> None:
    deadline = time.monotonic() + 90
    while found := left(jobs, job_id):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (Job("bj-memory", "proj_1", "python3 -c 'a = bytearray(400 << 20)'"), "out_of_memory"),
        (Job("bj-deadline", "proj_1", "sleep 1000"), "deadline_exceeded"),
        (Job("bj-variables", "proj_1", "true", {"LARGE": "x" * 2_000_000}), "start_failed"),
    ],
    ids=["memory", "deadline", "variables"],
)
def test_a_limit_ends_a_job_with_its_cause(jobs: ClusterJobs, job: Job, code: str) -> None:
    with changed(jobs, seconds=15 if code == "deadline_exceeded" else 300):
        jobs.submit(job)
    ended = wait_for_end(jobs, job.id, seconds=120)
    assert (ended.phase, ended.code) == (Phase.FAILED, code), ended
    jobs.remove(job.id)


def test_the_end_of_a_job_that_can_not_start_is_kept_and_its_pods_go(jobs: ClusterJobs) -> None:
    job_id = "bj-no-start"
    jobs.submit(Job(job_id, "proj_1", "true", {"LARGE": "x" * 2_000_000}))
    assert wait_for_end(jobs, job_id, seconds=120).code == "start_failed"
    jobs.cancel(job_id)
    deadline = time.monotonic() + 90
    while jobs._cluster.list(PODS, jobs._settings.namespace, labels={JOB_LABEL: job_id}).items:
        assert time.monotonic() < deadline, left(jobs, job_id)
        time.sleep(0.2)
    assert wait_for_end(jobs, job_id, seconds=5).code == "start_failed"
    jobs.remove(job_id)
    wait_until_gone(jobs, job_id)


def test_a_full_quota_shows_the_place_and_cancel_and_remove_leave_nothing(jobs: ClusterJobs) -> None:
    names = [f"bj-line-{number}" for number in range(4)]
    for name in names:
        jobs.submit(Job(name, f"proj_{name[-1]}", "sleep 15" if name == names[0] else "sleep 20"))
        time.sleep(1.1)  # Kueue's order has whole seconds
    first = until(jobs, names[2], lambda status: status.place is not None and "quota" in status.reason)
    assert (first.phase, first.place) == (Phase.QUEUED, 1), first
    assert "memory" in first.reason
    assert until(jobs, names[3], lambda status: status.place == 2).phase is Phase.QUEUED
    jobs.cancel(names[2])
    ended = jobs.status(names[2])
    assert ended is not None
    assert ended.phase is Phase.CANCELED
    until(jobs, names[3], lambda status: status.place == 1 or status.phase is not Phase.QUEUED)
    assert wait_for_end(jobs, names[3], seconds=120).phase is Phase.SUCCEEDED
    wait_until_gone(jobs, names[2])
    for name in names:
        jobs.remove(name)
    for name in names:
        wait_until_gone(jobs, name)


def test_two_workers_begin_together_and_meet(jobs: ClusterJobs) -> None:
    job = Job("bj-workers", "proj_1", "python3 scripts/meet.py", scripts={"meet.py": MEETING.encode()}, worker_count=2)
    jobs.submit(job)
    assert wait_for_end(jobs, job.id, seconds=120).phase is Phase.SUCCEEDED
    assert output(jobs, job.id) == "met worker 1 of 2\n"
    assert any(each.startswith("Service") for each in left(jobs, job.id))
    jobs.remove(job.id)
    wait_until_gone(jobs, job.id)


def test_a_preempted_job_says_so_and_begins_again(jobs: ClusterJobs) -> None:
    low = [Job(f"bj-low-{number}", "proj_1", SLEEP) for number in range(2)]
    for each in low:
        jobs.submit(each)
    for each in low:
        wait_for_output(jobs, each.id, "began")
    with changed(jobs, priority=f"{jobs._settings.namespace}-high"):
        jobs.submit(Job("bj-high", "proj_2", "sleep 4"))
    deadline, preempted = time.monotonic() + 90, None
    while preempted is None:
        found = [(each.id, jobs.status(each.id)) for each in low]
        preempted = next(((name, status) for name, status in found if status and "preempted" in status.reason), None)
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    name, status = preempted
    assert status.phase is Phase.QUEUED
    assert wait_for_end(jobs, "bj-high", seconds=120).phase is Phase.SUCCEEDED
    until(jobs, name, lambda found: found.phase is Phase.RUNNING)
    for job_id in (*(each.id for each in low), "bj-high"):
        jobs.remove(job_id)


def test_no_job_is_lost_while_pods_are_deleted(jobs: ClusterJobs) -> None:
    names = [f"bj-pods-{number}" for number in range(3)]
    for name in names:
        jobs.submit(Job(name, "proj_1", "sleep 4; echo done"))
    ended = threading.Event()
    deleted: list[str] = []

    def delete_pods() -> None:
        while not ended.wait(3) and len(deleted) < 4:
            for name in names:
                for pod in jobs._cluster.list(PODS, jobs._settings.namespace, labels={JOB_LABEL: name}).items:
                    if pod["status"].get("phase") == "Running":
                        jobs._cluster.delete(PODS, jobs._settings.namespace, pod["metadata"]["name"])
                        deleted.append(pod["metadata"]["name"])

    thread = threading.Thread(target=delete_pods)
    thread.start()
    try:
        found = {name: wait_for_end(jobs, name, seconds=200) for name in names}
    finally:
        ended.set()
        thread.join()
    assert {status.phase for status in found.values()} == {Phase.SUCCEEDED}, found
    assert [output(jobs, name) for name in names] == ["done\n"] * 3
    assert len(deleted) >= 2, deleted


def test_the_pod_uploads_what_a_job_left(jobs: ClusterJobs) -> None:
    leave = "python3 -c 'import os; os.mkdir(\"output\")'; echo weights > output/model.bin; exit 3"
    platform = Platform(host_address())
    try:
        with changed(jobs, output_url=platform.url):
            jobs.submit(Job("bj-leaves", "proj_1", leave))
            ended = wait_for_end(jobs, "bj-leaves", seconds=120)
    finally:
        platform.shutdown()
        platform.server_close()
    assert (ended.phase, ended.code) == (Phase.FAILED, "exit_code")
    assert [(path, content) for path, _, content in platform.asked[1:]] == [("/up/0", b"weights\n")]
    assert platform.asked[0][0] == "/v1/batch/jobs/bj-leaves/results"


RUNNING = """\
import os, time
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        print(open(f"/proc/{each}/cmdline").read())
    except OSError:
        pass
"""


def test_a_program_is_started_beside_the_command_of_a_running_job(jobs: ClusterJobs) -> None:
    with pytest.raises(Conflict):
        jobs.exec("bj-exec", ["true"])
    jobs.submit(Job("bj-exec", "proj_1", f"echo hi > note; {SLEEP}", {"LR": "0.1"}))
    wait_for_output(jobs, "bj-exec", "began")
    look = 'read note < note; echo $note; pwd; python3 -c "print(len(input()))"; echo "$LR $0" >&2; exit 7'
    done = run(jobs, "bj-exec", ["/bin/sh", "-c", look, "$(HOME) a&b"], b"x" * 900_000 + b"\n")
    assert done == Done("hi\n/job\n900000\n", "0.1 $(HOME) a&b\n", 7)
    assert len(run(jobs, "bj-exec", ["python3", "-c", "print('y' * 3_000_000)"]).stdout) == 3_000_001
    assert run(jobs, "bj-exec", ["nosuchprogram"]).exit_code == 127
    assert run(jobs, "bj-exec", ["/bin/sh", "-c", "kill -9 $$"]).exit_code == 137
    held = "python3 -c 'import time; time.sleep(1000)' & echo left"
    assert run(jobs, "bj-exec", ["/bin/sh", "-c", held]).stdout == "left\n"
    marker = "time.sleep(2000)"
    ended = jobs.exec("bj-exec", ["python3", "-c", f"import time; print('here', flush=True); {marker}"])
    while (part := ended.read(60)) is not None and not part.data:
        pass
    assert part is not None
    assert part.data == b"here\n"
    assert marker in run(jobs, "bj-exec", ["python3", "-c", RUNNING]).stdout
    ended.close()
    deadline = time.monotonic() + 60
    while marker in run(jobs, "bj-exec", ["python3", "-c", RUNNING]).stdout:
        assert time.monotonic() < deadline, "a closed one ends"
    begun = [jobs.exec("bj-exec", ["python3", "-c", f"import time; {marker}"]) for _ in range(8)]
    with pytest.raises(RateLimited):
        jobs.exec("bj-exec", ["true"])
    jobs.cancel("bj-exec")
    for each in begun:
        while each.read(60) is not None:
            pass
        assert each.exit_code in (None, 137), "it ended with its job"
        each.close()


def test_a_running_job_is_paused_and_a_failed_one_started_again(jobs: ClusterJobs) -> None:
    jobs.submit(Job("bj-pause", "proj_1", SLEEP, backoff_limit=1))
    wait_for_output(jobs, "bj-pause", "began")
    jobs.pause("bj-pause")
    paused = until(jobs, "bj-pause", lambda status: status.phase is Phase.PAUSED)
    assert (paused.restarts, paused.started_at) == (0, None)
    with pytest.raises(Conflict) as raised:
        jobs.exec("bj-pause", ["true"])
    assert raised.value.code == "job_not_running"
    jobs.submit(Job("bj-fails", "proj_1", "echo ran; exit 3", backoff_limit=1))
    waits = until(jobs, "bj-fails", lambda status: status.restarts == 1)
    assert waits.phase in (Phase.QUEUED, Phase.RUNNING), waits
    ended = wait_for_end(jobs, "bj-fails", seconds=120)
    assert (ended.phase, ended.code, ended.restarts) == (Phase.FAILED, "exit_code", 1)
    assert until(jobs, "bj-pause", lambda status: True).phase is Phase.PAUSED, "nothing resumes it"
    jobs.resume("bj-pause")
    until(jobs, "bj-pause", lambda status: status.phase is Phase.RUNNING)
    jobs.cancel("bj-pause")
    wait_until_gone(jobs, "bj-pause")
    for job_id in ("bj-pause", "bj-fails"):
        jobs.remove(job_id)
