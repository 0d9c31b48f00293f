"""Control groups of jobs: the kernel's own of version 1, and prepared folders of version 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.platform.jobs.local_processes.control_group import make_control_group, remove_control_group
from llmariner.platform.jobs.local_processes.job_folder import JobFolder

FILES = ("memory.max", "memory.oom.group", "memory.swap.max", "cpu.max", "memory.events", "cgroup.procs")
BUSY = "import os, time\nos.fork()\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """The folder of a job."""
    made = JobFolder(tmp_path / "bj-1")
    made.path.mkdir()
    return made


def process_of(tmp_path: Path, *, group: str) -> Path:
    """A folder as of /proc, of a process in a group of version 2, below which are the folders that are there."""
    mounted = tmp_path / "groups"
    (mounted / group).mkdir(parents=True)
    (tmp_path / "cgroup").write_text(f"0::/{group}\n")
    (tmp_path / "mountinfo").write_text(f"42 21 0:39 / {mounted} rw,nosuid - cgroup2 c rw\n")
    return tmp_path


def make(path: Path) -> None:
    """Make a group as the kernel does."""
    path.mkdir()
    for name in FILES:
        (path / name).write_text("oom_kill 0\n" if name == "memory.events" else "")


def delegate(path: Path) -> None:
    """Mark a group as systemd does."""
    (path / "cgroup.subtree_control").write_text("")
    try:
        os.setxattr(path, "user.delegate", b"1")
    except OSError:
        pytest.skip("the file system of temporary files has no attributes")


def test_a_delegated_group_of_version_2_has_one_for_the_job(tmp_path: Path, folder: JobFolder) -> None:
    process, service = process_of(tmp_path, group="platform.service/main"), tmp_path / "groups" / "platform.service"
    delegate(service)
    group = make_control_group(folder, 7 << 20, 3, process=process, make=make)
    assert group is not None
    assert group.folders == (str(service / f"llmariner-bj-1-{os.getpid()}"),)
    assert (service / "cgroup.subtree_control").read_text() == "+memory +cpu"
    written = {name: (group.memory / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max")}
    assert written == {"memory.max": str(7 << 20), "memory.swap.max": "0", "cpu.max": "300000 100000"}
    assert not group.is_out_of_memory
    (group.memory / "memory.events").write_text("low 0\noom 0\noom_kill 2\n")
    assert not group.is_out_of_memory, "the machine was"
    (group.memory / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert group.is_out_of_memory
    for name in FILES:
        (group.memory / name).unlink()
    remove_control_group(folder)
    remove_control_group(folder)
    assert not group.memory.exists()


def test_what_nobody_gave_to_the_platform_stays_as_it_is(tmp_path: Path, folder: JobFolder) -> None:
    """Another group's children, and a group whose controllers are not to be had."""
    process, above = process_of(tmp_path, group="system.slice/platform.service"), tmp_path / "groups" / "system.slice"
    (above / "cgroup.subtree_control").write_text("")
    if os.geteuid() == 0:
        assert make_control_group(folder, 7 << 20, 3, process=process, make=make) is None
        assert (above / "cgroup.subtree_control").read_text() == ""
    delegate(above)
    assert make_control_group(folder, 7 << 20, 3, process=process, make=Path.mkdir) is None
    assert [each.name for each in above.iterdir() if each.is_dir()] == ["platform.service"]
    assert list(folder.path.iterdir()) == []
    assert make_control_group(folder, 7 << 20, 3, process=tmp_path / "none") is None


@pytest.mark.parametrize("note", ["", "[1]", '["/tmp"]', '["/sys/fs/cgroup/other"]', "{"])
def test_a_note_of_something_else_removes_nothing(folder: JobFolder, note: str) -> None:
    (folder.path / "control_group.json").write_text(note)
    remove_control_group(folder)
    assert Path("/tmp").exists()


VERSION_1 = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists(),
    reason="no control groups of version 1 that this user may make",
)


@VERSION_1
@pytest.mark.parametrize("where", ["in it", "above it"])
def test_a_group_is_at_fault_only_where_its_own_memory_was_full(folder: JobFolder, where: str) -> None:
    group = above = make_control_group(folder, 80 << 20, 1)
    assert group is not None
    assert above is not None
    if where == "above it":  # as in a container
        group = replace(above, memory=above.memory / "below")
        group.memory.mkdir()
        (group.memory / "memory.limit_in_bytes").write_text(str(1 << 30))
    enters = "; ".join(f"echo $$ > {each}/cgroup.procs" for each in group.folders)
    needs = f'{enters}; exec "$0" -c "bytearray(120 << 20)"'
    assert subprocess.run(["sh", "-c", needs, sys.executable], check=False, timeout=60).returncode == -signal.SIGKILL
    at_fault = group.is_out_of_memory
    if group is not above:
        group.memory.rmdir()
    remove_control_group(folder)
    assert not above.memory.exists()
    assert at_fault is (group is above)


@VERSION_1
def test_the_kernel_slows_processes_of_a_group_to_its_cores_together(folder: JobFolder) -> None:
    group = make_control_group(folder, 1 << 30, 1)
    assert group is not None
    # Less than what is left over on a busy machine.
    (group.cpu / "cpu.cfs_quota_us").write_text("10000")
    enters = "; ".join(f"echo $$ > {each}/cgroup.procs" for each in group.folders)
    began = time.monotonic()
    subprocess.run(["sh", "-c", f'{enters}; exec "$0" -c "{BUSY}"', sys.executable], check=True, timeout=60)
    took = time.monotonic() - began
    counted = dict(line.split() for line in (group.cpu / "cpu.stat").read_text().splitlines())
    remove_control_group(folder)
    assert int(counted["nr_throttled"]) > 0
    assert took >= 0.6
    assert not any(Path(each).exists() for each in group.folders)
