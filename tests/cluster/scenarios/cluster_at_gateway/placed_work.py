"""What the tests of this scenario know of the platform's settings, and of its model and its jobs on the worker cluster."""

from __future__ import annotations

import base64

from ...platform.installed import Installed
from ..jobs.test_jobs import job

__all__ = ["LONGEST_SECONDS", "MODEL", "PACKAGED", "RECONNECT_SECONDS", "SETTINGS", "create_job", "not_succeeded"]

PACKAGED, MODEL = "smollm2-135m-instruct", "gateway-smollm2"
# Short for a test: half of what a request may take, as the default is of an hour.
RECONNECT_SECONDS, LONGEST_SECONDS = 40, 80
# Jobs whose program needs volumes of the platform's own cluster are not placed elsewhere.
# Memory and disk: those of a job that trains all weights of the packaged model.
SETTINGS = {
    "LLMARINER_TRAINING_VOLUMES": "",
    "LLMARINER_JOB_MEMORY_GIB": "3.2",
    "LLMARINER_JOB_DISK_GIB": "8",
    "LLMARINER_JOB_CPU": "900m",
}


def create_job(installed: Installed, cluster_id: str, script: bytes, **variables: str) -> str:
    """The id of a new job that runs on the worker cluster."""
    body = {
        "image": "python",
        "command": "python3 scripts/run.py",
        "scripts": {"run.py": base64.b64encode(script).decode()},
        "envs": variables,
        "cluster_id": cluster_id,
    }
    status, made = installed.call("POST", "/batch/jobs", body)
    assert status == 200, made
    return str(made["id"])


def not_succeeded(installed: Installed, job_id: str) -> str | None:
    """None: it has succeeded. A failed one fails the test."""
    found = job(installed, job_id)
    assert found["status"] != "failed", found["error"]
    return None if found["status"] == "succeeded" else f"{found['status']}: {found['queue']}"
