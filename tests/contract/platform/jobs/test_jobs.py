"""What every adapter of the jobs port does."""

from __future__ import annotations

import re
import time

import pytest

from llmariner.errors import Conflict, RateLimited
from llmariner.platform.jobs import DataFile, ExecOutput, Job, Jobs, JobStatus, Phase

from .conftest import output, run, wait_for_end, wait_for_output, wait_for_phase


def test_a_job_runs_its_command_with_scripts_files_and_variables(jobs: Jobs) -> None:
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


def test_a_queued_job_is_paused_and_resumed(jobs: Jobs) -> None:
    for job_id in ("bj-1", "bj-2"):
        jobs.submit(Job(job_id, "proj_1", "echo began; sleep 1000"))
        wait_for_output(jobs, job_id, "began")
        jobs.pause(job_id)
    jobs.submit(Job("bj-3", "proj_1", "echo ran"))
    for _ in range(2):
        jobs.pause("bj-3")
    wait_for_phase(jobs, "bj-3", Phase.PAUSED)
    jobs.pause("bj-unknown")
    jobs.resume("bj-unknown")
    assert jobs.status("bj-unknown") is None
    for job_id in ("bj-1", "bj-2"):
        assert wait_for_phase(jobs, job_id, Phase.RUNNING), "one that may not be started again continues"
        jobs.cancel(job_id)
        jobs.pause(job_id)
        assert wait_for_end(jobs, job_id).phase is Phase.CANCELED
    wait_for_phase(jobs, "bj-3", Phase.PAUSED)
    assert output(jobs, "bj-3") == ""
    for _ in range(2):
        jobs.resume("bj-3")
    assert wait_for_end(jobs, "bj-3").phase is Phase.SUCCEEDED
    assert output(jobs, "bj-3") == "ran\n"


def test_a_running_job_is_paused_and_begins_from_its_start(processes: Jobs) -> None:
    processes.submit(Job("bj-1", "proj_1", "ls; touch kept; echo began; sleep 1000", backoff_limit=1))
    wait_for_output(processes, "bj-1", "began")
    processes.pause("bj-1")
    paused = wait_for_phase(processes, "bj-1", Phase.PAUSED)
    assert (paused.restarts, paused.started_at) == (0, None), "a pause is no failure"
    processes.resume("bj-1")
    wait_for_output(processes, "bj-1", "data\noutput\nscripts\ntmp\nbegan\ndata\noutput\nscripts\ntmp\nbegan\n")
    processes.pause("bj-1")
    processes.resume("bj-1")
    wait_for_phase(processes, "bj-1", Phase.RUNNING)
    processes.pause("bj-1")
    wait_for_phase(processes, "bj-1", Phase.PAUSED)
    processes.cancel("bj-1")
    assert wait_for_end(processes, "bj-1").phase is Phase.CANCELED
    processes.resume("bj-1")
    assert wait_for_end(processes, "bj-1").phase is Phase.CANCELED


def test_a_failed_job_is_started_again_as_often_as_its_author_allows(processes: Jobs) -> None:
    seen: list[JobStatus | None] = []
    processes.subscribe(lambda job_id: seen.append(processes.status(job_id)))
    processes.submit(Job("bj-1", "proj_1", "echo ran; exit 3", backoff_limit=2))
    ended = wait_for_end(processes, "bj-1")
    assert (ended.phase, ended.code, ended.restarts) == (Phase.FAILED, "exit_code", 2)
    assert output(processes, "bj-1") == "ran\n" * 3
    waits = [each for each in seen if each is not None and each.phase is Phase.QUEUED and "again" in each.reason]
    assert [(each.code, each.restarts) for each in waits] == [("exit_code", 1), ("exit_code", 2)]
    assert waits[0].reason.startswith("The command ended with exit code 3. It is started again after")


def test_a_program_is_started_in_a_running_job(processes: Jobs) -> None:
    with pytest.raises(Conflict):
        processes.exec("bj-1", ["true"])
    processes.submit(Job("bj-1", "proj_1", "echo hi > note; echo began; sleep 1000", {"LR": "0.1"}))
    wait_for_output(processes, "bj-1", "began")
    look = (
        'cat note -; echo "$LR $$" >&2; pwd; grep -c CapEff:.0000000000000000 /proc/self/status; touch /etc/x; exit 7'
    )
    done = run(processes, "bj-1", ["sh", "-c", look], b"asked\n" * 20_000)
    assert done.stdout == "hi\n" + "asked\n" * 20_000 + "/job\n1\n"
    assert re.fullmatch(r"0.1 \d+\ntouch: .*(Read-only|denied).*\n", done.stderr)
    assert done.exit_code == 7
    assert run(processes, "bj-1", ["nosuchprogram"]).exit_code == 127
    assert run(processes, "bj-1", ["sh", "-c", "kill -9 $$"]).exit_code == 137
    assert "sleep\x001000" in run(processes, "bj-1", ["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout
    assert run(processes, "bj-1", ["sh", "-c", "sleep 1000 & echo left"]).stdout == "left\n", "what it began may stay"
    ended = processes.exec("bj-1", ["sleep", "2000"])
    ended.close()
    deadline = time.monotonic() + 60
    while "sleep\x002000" in run(processes, "bj-1", ["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout:
        assert time.monotonic() < deadline, "a closed one ends"
    begun = [processes.exec("bj-1", ["sh", "-c", "echo here; sleep 1000"]) for _ in range(8)]
    with pytest.raises(RateLimited):
        processes.exec("bj-1", ["true"])
    assert begun[0].read(60) == ExecOutput("stdout", b"here\n")
    processes.cancel("bj-1")
    assert wait_for_end(processes, "bj-1").phase is Phase.CANCELED
    for each in begun:
        while each.read(60) is not None:
            pass
        assert each.exit_code in (None, 137), "it ended with its job"
        each.close()
    with pytest.raises(Conflict):
        processes.exec("bj-1", ["true"])


def test_a_removed_job_leaves_nothing(jobs: Jobs) -> None:
    jobs.submit(Job("bj-1", "proj_1", "echo began; sleep 1000"))
    wait_for_output(jobs, "bj-1", "began")
    for _ in range(2):
        jobs.remove("bj-1")
    assert jobs.status("bj-1") is None
    assert jobs.log("bj-1").data == b""
