"""Jobs whose platform or supervisor is killed: nothing outlives its job, and nothing is lost or runs twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmariner.platform.jobs import Job, Phase
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.control_group import make_control_group
from llmariner.platform.jobs.local_processes.job_folder import JobFolder
from llmariner.platform.jobs.local_processes.output_log import read_log
from llmariner.platform.jobs.local_processes.supervisor import Supervisor

from .conftest import Memory, process_jobs, wait_for_end, wait_for_output

_ROOT = Path(__file__).parents[4]
_PLATFORM = "tests.contract.platform.jobs.running_platform"
DETACHED = "(setsid sh -c 'while :; do sleep {mark}; done' >/dev/null 2>&1 &); echo began; sleep {mark}"


def processes_of(mark: str) -> list[int]:
    """Processes with this argument, of the whole machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_gone(mark: str) -> None:
    deadline = time.monotonic() + 30
    while found := processes_of(mark):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_no_process_outlives_a_killed_supervisor(processes: ProcessJobs, tmp_path: Path) -> None:
    mark = f"1000.{os.getpid()}1"
    processes.submit(Job("bj-1", "proj_1", DETACHED.format(mark=mark)))
    wait_for_output(processes, "bj-1", "began")
    assert len(processes_of(mark)) >= 1
    folder = tmp_path / "jobs" / "bj-1"
    [supervisor] = [pid for pid in processes_of(Supervisor.__module__) if is_child_in(folder, pid)]
    note = folder / "control_group.json"
    groups = [Path(each) for each in json.loads(note.read_text())] if note.exists() else []
    os.kill(supervisor, signal.SIGKILL)
    wait_until_gone(mark)
    ended = wait_for_end(processes, "bj-1")
    assert (ended.phase, ended.code) == (Phase.FAILED, "interrupted")
    assert [each for each in groups if each.exists()] == []


def is_child_in(folder: Path, pid: int) -> bool:
    """Whether a process is a child of this one and works in a folder. Processes of other tests may end meanwhile."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and Path(f"/proc/{pid}/cwd").resolve() == folder
    except OSError:
        return False


def test_a_platform_killed_again_and_again_loses_no_job_and_leaves_no_process(tmp_path: Path) -> None:
    memory = Memory()
    queued = process_jobs(tmp_path, memory)
    names = [f"bj-{number}" for number in range(3)]
    mark = f"1000.{os.getpid()}2"
    for name in names:
        JobFolder(tmp_path / name).save(Job(name, "proj_1", DETACHED.format(mark=mark)))
    for round_ in range(len(names)):
        platform = subprocess.Popen([sys.executable, "-m", _PLATFORM, str(tmp_path), "1"], cwd=_ROOT)
        try:
            began = names[round_]
            deadline = time.monotonic() + 60
            while b"began" not in read_log(tmp_path / began / "log", 0).data:
                assert platform.poll() is None, "it ended by itself"
                assert time.monotonic() < deadline, began
                time.sleep(0.05)
        finally:
            platform.kill()
            platform.wait()
        wait_until_gone(mark)
    # One whose supervisor was killed, too, before it removed the group of its job.
    left = make_control_group(JobFolder(tmp_path / names[0]), 1 << 30, 1)
    JobFolder(tmp_path / names[0]).work.mkdir(exist_ok=True)
    queued.start()
    assert left is None or not any(Path(each).exists() for each in left.folders)
    for name in names:
        ended = queued.status(name)
        assert ended is not None
        assert (ended.phase, ended.code) == (Phase.FAILED, "interrupted")
        assert read_log(tmp_path / name / "log", 0).data.count(b"began") == 1, "it ran once"
        assert not (tmp_path / name / "work").exists()
    queued.close()


def test_a_folder_that_is_not_whole_keeps_no_platform_from_starting(tmp_path: Path) -> None:
    for name, job in (("bj-1", None), ("bj-2", "{}"), ("bj-3", "[")):  # the first was killed while it was deleted
        (tmp_path / name).mkdir()
        JobFolder(tmp_path / name).mark_started()
        if job is not None:
            (tmp_path / name / "job.json").write_text(job)
    jobs = process_jobs(tmp_path, Memory())
    jobs.start()
    try:
        found = [jobs.status(name) for name in ("bj-1", "bj-2", "bj-3")]
        assert [each and each.code for each in found] == [None, "interrupted", "interrupted"]
        if jobs.problem:
            pytest.skip(jobs.problem)
        jobs.submit(Job("bj-4", "proj_1", "true"))
        assert wait_for_end(jobs, "bj-4").phase is Phase.SUCCEEDED
    finally:
        jobs.close()
