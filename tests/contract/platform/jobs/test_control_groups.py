"""Jobs as processes of one machine, counted together: on a machine with control groups, and on one without."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llmariner.platform.jobs import Job, Phase
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs

from .conftest import output, run, wait_for_end, wait_for_output

TWO = "import time; x = bytearray(130 << 20); time.sleep(1000)"


def test_processes_of_a_job_may_not_need_more_memory_together_than_it(processes: ProcessJobs, tmp_path: Path) -> None:
    """Each of them alone would fit. Also where what the kernel ended is not what the job waits for."""
    for job_id, command in (("bj-1", f'python3 -c "{TWO}" & python3 -c "{TWO}"'), ("bj-2", f'python3 -c "{TWO}" & ')):
        processes.submit(Job(job_id, "proj_1", f'{command} python3 -c "{TWO}"; true'))
        ended = wait_for_end(processes, job_id)
        assert (ended.phase, ended.code) == (Phase.FAILED, "out_of_memory"), (ended, output(processes, job_id))
        assert "a job may use 200 MiB" in ended.reason
    assert control_groups(tmp_path) == []


def test_a_job_says_how_its_memory_is_counted_and_leaves_no_control_group(
    processes: ProcessJobs, tmp_path: Path
) -> None:
    processes.submit(Job("bj-1", "proj_1", "cat /proc/self/cgroup; sleep 1000"))
    wait_for_output(processes, "bj-1", "0::")
    noted = control_groups(tmp_path)
    assert ("in a control group of its own" in processes.environment) is bool(noted)
    for folder in noted:
        assert Path(folder).name in output(processes, "bj-1")
        assert Path(folder, "cgroup.procs").read_text().split()
    assert run(processes, "bj-1", ["cat", "/proc/self/cgroup"]).stdout == output(processes, "bj-1")
    processes.cancel("bj-1")
    wait_for_end(processes, "bj-1")
    assert not [folder for folder in noted if Path(folder).exists()]
    if os.geteuid() == 0 and Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        assert noted


def control_groups(tmp_path: Path) -> list[str]:
    """The folders of the groups that jobs have."""
    notes = (tmp_path / "jobs").glob("*/control_group.json")
    return [folder for note in notes for folder in json.loads(note.read_text())]
