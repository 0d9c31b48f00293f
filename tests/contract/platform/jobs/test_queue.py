"""The queue of jobs of one machine: turns of projects in each line, and what a wait of one of them means for the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmariner.platform.jobs import Job, Phase
from llmariner.platform.jobs.local_processes.queue import JobQueue, Waiting

from .conftest import Memory, process_jobs, wait_for_end


@pytest.mark.parametrize("brief", [False, True])
def test_projects_take_turns_in_each_line(brief: bool) -> None:
    queue = JobQueue()
    for number in range(4):
        queue.add(f"bj-{number}", Waiting("proj_1", brief=brief))
    queue.add("bj-other", Waiting("proj_1", brief=not brief))
    queue.add("bj-9", Waiting("proj_2", brief=brief))
    order = []
    while (job_id := queue.first(brief=brief)) is not None:
        order.append(job_id)
        queue.note_start(job_id)
    assert order == ["bj-0", "bj-9", "bj-1", "bj-2", "bj-3"]


def test_a_job_that_waits_holds_back_only_those_of_its_project_and_line() -> None:
    queue = JobQueue()
    later = time.monotonic() + 1000
    queue.add("bj-1", Waiting("proj_1"))
    queue.add("bj-2", Waiting("proj_1", reason="It failed.", not_before=later))
    queue.add("bj-3", Waiting("proj_1"))
    queue.add("bj-4", Waiting("proj_1", brief=True))
    queue.add("bj-5", Waiting("proj_2"))
    queue.hold_back("bj-1", "Models are busy.", seconds=500)
    assert (queue.first(brief=False), queue.first(brief=True)) == ("bj-5", "bj-4")
    found = {each: queue.get(f"bj-{each}") for each in (1, 2, 3, 5)}
    assert [each and each.reason for each in found.values()] == [
        "Models are busy.",
        "It failed.",
        "Models are busy.",
        "",
    ]
    assert found[2] is not None
    assert found[2].not_before == later


def test_a_failure_to_give_memory_back_holds_up_no_other_job(tmp_path: Path) -> None:
    class Failing(Memory):
        def release(self, owner: str) -> None:
            super().release(owner)
            raise TimeoutError

    jobs = process_jobs(tmp_path / "jobs", Failing())
    jobs.start()
    try:
        if jobs.problem:
            pytest.skip(jobs.problem)
        for job_id in ("bj-1", "bj-2"):
            jobs.submit(Job(job_id, "proj_1", "true"))
            assert wait_for_end(jobs, job_id).phase is Phase.SUCCEEDED
    finally:
        jobs.close()
