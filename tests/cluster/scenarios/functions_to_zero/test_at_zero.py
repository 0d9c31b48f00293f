"""Resource usage of the idle platform: CPU and memory of each namespace's pods, from the kernel."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from pathlib import Path

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE

from ...lab.kubectl import get
from ...platform.installed import Installed
from ..functions import Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_SECONDS = 30
_ZERO_SECONDS = 700
_OURS = (NAMESPACE, MODELS_NAMESPACE, "llmariner-gateway")


def test_resource_usage_of_the_idle_platform(installed: Installed) -> None:
    functions, limit = Functions(installed), time.monotonic() + _ZERO_SECONDS
    while functions.pods():
        assert time.monotonic() < limit, f"never at zero: {sorted(functions.pods())}"
        time.sleep(1)
    pods = {pod["metadata"]["uid"]: pod for pod in get(installed.lab, "pods", "-A")["items"]}
    before, began = _taken(set(pods)), time.monotonic()
    time.sleep(_SECONDS)
    after, seconds = _taken(set(pods)), time.monotonic() - began
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for uid, (cpu, memory) in after.items():
        row = sums[pods[uid]["metadata"]["namespace"]]
        row[0] += 1
        row[1] += (cpu - before.get(uid, (cpu, 0))[0]) / seconds
        row[2] += memory
    print(f"\nat zero, over {seconds:.0f} s\n\n  namespace              pods     CPU     memory")
    for name, (count, cpu, memory) in sorted(sums.items()):
        print(f"  {name:22} {count:4.0f} {cpu * 1e3:6.0f} m {memory / 2**20:6.0f} MiB")
    assert NAMESPACE in sums
    assert sum(row[1] for name, row in sums.items() if name in _OURS) < 0.2, "the platform keeps a core busy at zero"


def _taken(pods: set[str]) -> dict[str, tuple[float, float]]:
    """CPU seconds and proportional memory in bytes of each pod's processes, which are this machine's too."""
    found: dict[str, tuple[float, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            group = (folder / "cgroup").read_text().replace("_", "-")
            uid = next(each for each in pods if each in group)
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            pss = next(line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
            total = found.get(uid, (0.0, 0.0))
            found[uid] = (total[0] + cpu, total[1] + int(pss.split()[1]) * 1024)
    return found
