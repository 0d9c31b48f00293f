"""Installs the platform on the test cluster by the manifests that operators use, and tells how to reach it."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmariner.local.progress import Step

from ..lab.images import load, present
from ..lab.kubectl import get, kubectl
from ..lab.places import Lab, cache
from ..lab.waiting import LabError, until
from .database_images import pgbouncer, postgres
from .overlay import CHECKOUT, write

__all__ = ["NAMESPACE", "Installed", "install", "uninstall"]

NAMESPACE = "llmariner"
_IMAGE_SECONDS = 1800
_READY_SECONDS = 600


@dataclass(frozen=True)
class Installed:
    """The platform as its users meet it."""

    lab: Lab

    @property
    def base_url(self) -> str:
        """By the Gateway, on the node's address."""
        return f"http://{self.lab.address}/v1"

    @property
    def api_key(self) -> str:
        """The administrator's first key, as the operator reads it."""
        secret = get(self.lab, "secret", "llmariner-admin-key", "-n", NAMESPACE)
        return base64.b64decode(secret["data"]["key"]).decode()

    def summary(self) -> str:
        """A few lines for people."""
        return f"  base URL  {self.base_url}\n  API key   {self.api_key}"


def install(lab: Lab) -> None:
    """Images, prerequisites, overlay; then wait until every function was ready once."""
    _load_images(lab)
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-f", CHECKOUT / "manifests" / "prerequisites")
    overlay = write(lab.folder / "overlay")
    with Step("the overlay"):
        kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    for job in ("secrets", "migrations"):
        until(f"job {job}", lambda job=job: _job_left(lab, job), seconds=_READY_SECONDS)  # type: ignore[misc]
    until("functions", lambda: _not_ready(lab, "services.serving.knative.dev"), seconds=_READY_SECONDS, pause=2)
    until("triggers", lambda: _not_ready(lab, "triggers.eventing.knative.dev"), seconds=_READY_SECONDS, pause=2)


def uninstall(lab: Lab) -> None:
    """Delete what the overlay brought."""
    kubectl(lab, "delete", "--ignore-not-found", "--wait", "-k", write(lab.folder / "overlay"), seconds=600)


def _load_images(lab: Lab) -> None:
    archives = cache() / "platform-images"
    archives.mkdir(parents=True, exist_ok=True)
    with Step("images of the platform"):
        command = ["nice", sys.executable, "-m", "images.build", "--archives", str(archives)]
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=_IMAGE_SECONDS, check=False
        )
        if done.returncode:
            raise LabError(f"make images failed:\n{(done.stderr or done.stdout)[-2000:]}")
    with Step("images into the node"):
        for archive in sorted(archives.glob("*.tar")):
            load(lab, archive)
        there = present(lab)
        for image in (postgres(), pgbouncer()):
            if image.name not in there:
                _load_one(lab, image, archives / "database.part")


def _load_one(lab: Lab, image: Any, scratch: Path) -> None:
    image.write(scratch)
    load(lab, scratch)
    scratch.unlink()


def _job_left(lab: Lab, name: str) -> str | None:
    jobs = get(lab, "jobs", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name={name}")["items"]
    if not jobs:
        return "the Job is not there"
    status = jobs[-1].get("status", {})
    return None if status.get("succeeded") else f"failed {status.get('failed', 0)} times so far"


def _not_ready(lab: Lab, kind: str) -> str | None:
    """The objects of a kind that are not ready, with their reasons."""
    left = []
    for each in get(lab, kind, "-n", NAMESPACE)["items"]:
        ready: dict[str, Any] = next(
            (c for c in each.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {}
        )
        if ready.get("status") != "True":
            left.append(f"{each['metadata']['name']} ({ready.get('reason', 'unknown')})")
    return ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "") if left else None
