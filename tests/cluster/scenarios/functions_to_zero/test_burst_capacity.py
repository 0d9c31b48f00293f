"""The cost of the activator on the token path under load: the reason for `target-burst-capacity` of 0."""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from llmariner.manifests.installation import NAMESPACE

from ...platform.installed import Installed
from ..fault_injection import processes_of
from ..functions import Call, Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_FUNCTION = "chat-completions"
_CALLERS = 20
_SECONDS = 10.0
# 0: only while there is no copy; 200: Knative's default; -1: always.
_CAPACITIES = ("0", "200", "-1")


def test_the_activator_is_not_on_the_path_of_tokens(installed: Installed) -> None:
    functions, costs = Functions(installed), dict[str, float]()
    print(f"\n{_CALLERS} callers, GET /health/live for {_SECONDS:.0f} s each\n")
    print("  target-burst-capacity   answers/s     median        p95   activator's CPU per answer")
    for capacity in _CAPACITIES:
        where = "/spec/template/metadata/annotations/autoscaling.knative.dev~1target-burst-capacity"
        with functions.changed(_FUNCTION, [{"op": "add", "path": where, "value": capacity}]):
            assert functions.ask(_FUNCTION, Call()).status == 200
            time.sleep(15)  # until the activator has left the way, where it may
            before = _cpu(functions)
            times = _load(functions)
            costs[capacity] = (_cpu(functions) - before) / len(times)
        median, late = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(
            f"  {capacity:>21} {len(times) / _SECONDS:11.0f} {median * 1e3:7.1f} ms {late * 1e3:7.1f} ms"
            f" {costs[capacity] * 1e6:10.0f} µs"
        )
    assert costs["0"] < costs["-1"] / 2


def _cpu(functions: Functions) -> float:
    """Seconds of CPU that the activator has taken."""
    ticks = 0
    for pid in processes_of(functions.lab, "knative-serving", "app=activator"):
        with contextlib.suppress(OSError):
            fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _load(functions: Functions) -> list[float]:
    """Seconds of each answer; callers ask again as soon as they are answered."""
    times, bad, limit = list[float](), list[int](), time.monotonic() + _SECONDS

    def ask() -> None:
        headers = {"Host": f"{_FUNCTION}.{NAMESPACE}.svc.cluster.local"}
        with contextlib.closing(http.client.HTTPConnection(functions.local_gateway, 80, timeout=30)) as connection:
            while (began := time.monotonic()) < limit:
                connection.request("GET", "/health/live", headers=headers)
                response = connection.getresponse()
                response.read()
                times.append(time.monotonic() - began)
                if response.status != 200:
                    bad.append(response.status)

    callers = [threading.Thread(target=ask) for _ in range(_CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not bad, bad[:5]
    return times
