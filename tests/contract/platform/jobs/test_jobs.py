"""What every adapter of the jobs port does."""

from __future__ import annotations

import threading
import time

import pytest

from llmariner.platform.jobs import DataFile, Job, Jobs, Phase

from .conftest import output, wait_for_end, wait_for_output


def test_a_job_runs_its_command_with_scripts_files_and_variables(jobs: Jobs) -> None:
    seen: list[str] = []
    jobs.subscribe(seen.append)
    script = (
        b"import os, sys\nprint(os.environ['LR'], open('data/pumps.txt').read())\nprint('warned', file=sys.stderr)\n"
    )
    job = Job(
        "bj-1",
        "proj_1",
        "python3 scripts/train.py && cat /data/pumps.txt /scripts/note >/dev/stdout",
        {"LR": "0.1"},
        {"train.py": script, "note": b"\xffbinary"},
        (DataFile("file-1", "pumps.txt", 6),),
    )
    assert jobs.status("bj-1") is None
    before = time.time()
    assert jobs.submit(job).phase in (Phase.QUEUED, Phase.RUNNING)
    ended = wait_for_end(jobs, "bj-1")
    assert (ended.phase, ended.code, ended.reason) == (Phase.SUCCEEDED, "", ""), ended
    assert ended.started_at is not None
    assert before - 1 <= ended.started_at <= ended.since
    part = jobs.log("bj-1")
    assert part.data == b"0.1 pumps\n\nwarned\npumps\n\xffbinary"
    assert (part.start, part.end) == (0, len(part.data))
    assert jobs.log("bj-1", 4).data == part.data[4:]
    assert jobs.log("bj-1", 10_000).data == b""
    assert set(seen) == {"bj-1"}
    assert jobs.submit(job) == ended, "a job runs once"


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        ("exit 3", "exit_code", "The command ended with exit code 3."),
        ("exit 255", "exit_code", "The command ended with exit code 255."),
        ("nosuchcommand", "exit_code", "The command ended with exit code 127."),
        ("kill -SEGV $$", "killed", "The command was ended by SIGSEGV."),
        (
            "kill -KILL $$",
            "killed",
            "The command was ended by SIGKILL, perhaps because the machine had no memory left.",
        ),
    ],
)
def test_a_failure_has_its_cause(jobs: Jobs, command: str, code: str, reason: str) -> None:
    jobs.submit(Job("bj-1", "proj_1", command))
    ended = wait_for_end(jobs, "bj-1")
    assert (ended.phase, ended.code, ended.reason) == (Phase.FAILED, code, reason)


def test_a_missing_data_file_fails_the_job(jobs: Jobs) -> None:
    jobs.submit(Job("bj-1", "proj_2", "true", data_files=(DataFile("file-1", "pumps.txt", 6),)))
    assert wait_for_end(jobs, "bj-1").code == "data_file_unavailable"


def test_a_running_job_is_canceled_with_what_it_began(jobs: Jobs) -> None:
    jobs.submit(Job("bj-1", "proj_1", "(setsid sleep 1000 &); echo began; trap '' TERM; sleep 1000"))
    wait_for_output(jobs, "bj-1", "began")
    for _ in range(2):
        jobs.cancel("bj-1")
    assert wait_for_end(jobs, "bj-1").phase is Phase.CANCELED
    jobs.cancel("bj-1")
    assert wait_for_end(jobs, "bj-1").phase is Phase.CANCELED


def test_a_job_that_was_canceled_before_it_was_submitted_never_starts(jobs: Jobs) -> None:
    jobs.cancel("bj-1")
    assert jobs.submit(Job("bj-1", "proj_1", "echo ran")).phase is Phase.CANCELED
    assert output(jobs, "bj-1") == ""


def test_a_cancellation_after_the_end_changes_nothing(jobs: Jobs) -> None:
    jobs.submit(Job("bj-1", "proj_1", "true"))
    ended = wait_for_end(jobs, "bj-1")
    jobs.cancel("bj-1")
    assert jobs.status("bj-1") == ended


def test_a_removed_job_leaves_nothing(jobs: Jobs) -> None:
    jobs.submit(Job("bj-1", "proj_1", "echo began; sleep 1000"))
    wait_for_output(jobs, "bj-1", "began")
    for _ in range(2):
        jobs.remove("bj-1")
    assert jobs.status("bj-1") is None
    assert jobs.log("bj-1").data == b""


def test_an_observer_may_remove_the_job(jobs: Jobs) -> None:
    removed = threading.Event()

    def remove(job_id: str) -> None:
        jobs.remove(job_id)
        removed.set()

    jobs.subscribe(remove)
    jobs.submit(Job("bj-1", "proj_1", "sleep 1000"))
    assert removed.wait(60)
    deadline = time.monotonic() + 60
    while jobs.status("bj-1") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
