"""Batch jobs through the API: run by a pod, in line for the pool that models use, canceled, and gone with all they had."""

from __future__ import annotations

import base64
import contextlib
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE, MODELS_NAMESPACE

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..platform_client import PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SCRIPT = b"import os, time\nprint('LR', os.environ['LR'], flush=True)\ntime.sleep(float(os.environ.get('REST', '0')))\n"
LEFT = "jobs,pods,secrets,services,workloads"


def create(installed: Installed, **variables: str) -> str:
    """The id of a new job."""
    body = {
        "image": "python",
        "command": "python3 scripts/run.py",
        "scripts": {"run.py": base64.b64encode(SCRIPT).decode()},
        "envs": {"LR": "0.1", **variables},
    }
    status, answer = installed.call("POST", "/batch/jobs", body)
    assert status == 200, answer
    return str(answer["id"])


def job(installed: Installed, job_id: str) -> dict[str, Any]:
    status, answer = installed.call("GET", f"/batch/jobs/{job_id}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def output(installed: Installed, job_id: str) -> str:
    head = {"authorization": f"Bearer {installed.api_key}"}
    request = urllib.request.Request(f"{installed.base_url}/batch/jobs/{job_id}/logs", headers=head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def wait_for(installed: Installed, job_id: str, status: str) -> dict[str, Any]:
    def not_yet() -> str | None:
        found = job(installed, job_id)
        return None if found["status"] == status else f"{found['status']}: {found['queue']} {found['error']}"

    until(f"{job_id} is {status}", not_yet, seconds=180)
    return job(installed, job_id)


def left(installed: Installed, job_id: str) -> str | None:
    """The objects of a job that are there."""
    items = get(installed.lab, LEFT, "-n", JOBS_NAMESPACE)["items"]
    names = [each["metadata"]["name"] for each in items if job_id in each["metadata"]["name"]]
    return ", ".join(names) or None


@contextlib.contextmanager
def deleted_at_end(installed: Installed, jobs: Sequence[str]) -> Iterator[None]:
    """Delete jobs at last, and wait until nothing is left of them: what failed must not keep the pool full."""
    try:
        yield
    finally:
        for each in jobs:
            status, answer = installed.call("DELETE", f"/batch/jobs/{each}")
            assert status in (200, 404), answer
        for each in jobs:
            until(f"nothing is left of {each}", lambda each=each: left(installed, each), seconds=90)  # type: ignore[misc]


def admitted(installed: Installed) -> str | None:
    """What holds the pool's quota; None: nothing."""
    items = get(installed.lab, "workloads", "-n", MODELS_NAMESPACE)["items"]
    return ", ".join(each["metadata"]["name"] for each in items) or None


def not_in_line(installed: Installed, job_id: str) -> str | None:
    """What is shown of a job that waits in place of its turn, the first in line, and the reason; None: that is shown."""
    line = job(installed, job_id)["queue"]
    return None if line and line["place"] == 1 and "quota" in line["reason"] else str(line)


def test_jobs_run_wait_in_line_and_leave_nothing(installed: Installed) -> None:
    client = PlatformClient(installed)
    client.ticking("an empty pool", lambda: admitted(installed))
    client.close()
    first = create(installed)
    with deleted_at_end(installed, [first]):
        ended = wait_for(installed, first, "succeeded")
        assert ended["started_at"] <= ended["finished_at"]
        assert ended["environment"] == "In a container of its image, on the cluster."
        assert output(installed, first) == "LR 0.1\n"

    # The overlay's pool has room for two jobs.
    running = [create(installed, REST="600") for _ in range(2)]
    with deleted_at_end(installed, running):
        for each in running:
            wait_for(installed, each, "running")
        waiting = create(installed)
        with deleted_at_end(installed, [waiting]):
            until("its place and the reason are shown", lambda: not_in_line(installed, waiting), seconds=60)
            installed.call("POST", f"/batch/jobs/{running[0]}/cancel")
            wait_for(installed, running[0], "canceled")
            wait_for(installed, waiting, "succeeded")
    assert installed.call("GET", f"/batch/jobs/bj-{uuid.uuid4().hex}")[0] == 404
