"""How many cores a process may use, by its control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmariner.platform.processors import cpu_quota, usable_cores

V1 = Path("/sys/fs/cgroup/cpu")


def prepared(folder: Path, *, groups: str, root: str, options: str, limits: dict[str, str]) -> Path:
    """A folder as of /proc, with groups that are mounted in `folder / "a b"`."""
    mounted = folder / "a b"
    for path, content in limits.items():
        (mounted / path).parent.mkdir(parents=True, exist_ok=True)
        (mounted / path).write_text(content)
    at = str(mounted).replace(" ", "\\040")
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(
        f"21 1 8:1 / / rw - ext4 /dev/a rw\n42 21 0:39 {root} {at} rw,nosuid - {options}\n"
    )
    return folder


@pytest.mark.parametrize(
    ("groups", "root", "limits", "quota"),
    [
        ("0::/user/job\n", "/", {"user/job/cpu.max": "150000 100000\n", "user/cpu.max": "max 100000\n"}, 1.5),
        ("0::/user/job\n", "/", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/user/job\n", "/", {"user/job/cpu.max": "max 100000\n"}, None),
        ("0::/user\n", "/", {}, None),
        ("0::/\n", "/", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/docker/1\n", "/docker/1", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../other\n", "/", {"cpu.max": "100000 100000\n"}, 1.0),
        ("0::/user\n", "/", {"user/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_quota_of_a_group_is_read_where_version_2_is_mounted(
    tmp_path: Path, groups: str, root: str, limits: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(prepared(tmp_path, groups=groups, root=root, options="cgroup2 c rw", limits=limits)) == quota


def test_names_of_other_mounts_may_have_any_bytes(tmp_path: Path) -> None:
    limits = {"cpu.max": "200000 100000\n"}
    process = prepared(tmp_path, groups="0::/\n", root="/", options="cgroup2 c rw", limits=limits)
    found = (process / "mountinfo").read_bytes()
    (process / "mountinfo").write_bytes(b"30 21 0:9 / /mnt/\xff\x0b\xc2\x85 rw - ext4 /dev/b rw\n" + found)
    assert cpu_quota(process) == 2.0


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_the_quota_of_a_group_of_version_1_is_that_of_the_kernel() -> None:
    if os.geteuid() or not (V1 / "cpu.cfs_quota_us").exists():
        pytest.skip("no control groups of version 1 that this user may make")
    group = V1 / f"llmariner-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("40000")
        (group / "cpu.cfs_period_us").write_text("100000")
        script = "from llmariner.platform.processors import cpu_quota, usable_cores; print(cpu_quota(), usable_cores())"
        command = f'echo $$ > {group}/cgroup.procs; exec "$0" -c "{script}"'
        done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=True)
    finally:
        group.rmdir()
    assert done.stdout.split() == ["0.4", "1"]
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
