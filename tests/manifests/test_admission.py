"""A real API server with its webhooks admits every object of every overlay.

The tests need `LLMARINER_TEST_KUBECONFIG` (tests/cluster builds a cluster). Only Knative's two settings remain changed.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .kustomize import KUBECTL, Object, Rendered

CHECKOUT = Path(__file__).parents[2]
REAL = "LLMARINER_TEST_KUBECONFIG"
# Knative asks Kubernetes for a dry run of the pod, which wants its account to be there.
BEFORE = ("Namespace", "ServiceAccount", "ConfigMap")


@pytest.fixture(scope="module")
def kubeconfig() -> str:
    if REAL not in os.environ:
        pytest.skip(f"no cluster is named: set {REAL}")
    return os.environ[REAL]


@pytest.fixture
def places(kubeconfig: str) -> Iterator[dict[str, str]]:
    """Namespaces of the test in place of the platform's."""
    unique = uuid.uuid4().hex[:8]
    ours = ("llmariner", "llmariner-models", "llmariner-jobs", "llmariner-gateway")
    made = {name: name.replace("llmariner", f"admission-{unique}") for name in ours}
    yield made
    kubectl(kubeconfig, "delete", "namespace", "--ignore-not-found", "--wait=false", *made.values())


def kubectl(kubeconfig: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(KUBECTL), "--kubeconfig", kubeconfig, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)


def moved(body: Object, places: dict[str, str]) -> Object:
    metadata = body["metadata"]
    if body["kind"] == "Namespace":
        metadata["name"] = places[metadata["name"]]
    elif "namespace" in metadata:
        # A grant belongs to the installer of the local gateway, in a namespace that this cluster may not have.
        metadata["namespace"] = places.get(metadata["namespace"], "default")
    for subject in body.get("subjects", []):
        subject["namespace"] = places[subject["namespace"]]
    return body


@pytest.mark.parametrize("overlay", ["playground", "production", "test"])
def test_every_object_of_a_served_kind_is_admitted(overlay: str, kubeconfig: str, places: dict[str, str]) -> None:
    # An API server that runs alone lacks the namespace of Knative's settings; elsewhere this is refused.
    kubectl(kubeconfig, "create", "namespace", "knative-serving")
    prerequisites = str(CHECKOUT / "manifests/prerequisites")
    applied = kubectl(kubeconfig, "apply", "--server-side", "-f", prerequisites)
    assert applied.returncode == 0, applied.stderr
    served = set(kubectl(kubeconfig, "api-versions").stdout.split())
    rendered = Rendered(CHECKOUT / "manifests/overlays" / overlay).objects
    objects = [moved(body, places) for body in rendered if body["apiVersion"] in served]
    assert len(objects) > 70
    before = [body for body in objects if body["kind"] in BEFORE]
    applied = kubectl(kubeconfig, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(before))
    assert applied.returncode == 0, applied.stderr
    rest = [body for body in objects if body["kind"] not in BEFORE]
    words = ("apply", "--server-side", "--dry-run=server", "-f", "-")
    tried = kubectl(kubeconfig, *words, stdin=yaml.safe_dump_all(rest))
    assert (tried.returncode, tried.stderr) == (0, "")
    assert tried.stdout.count("serverside-applied") == len(rest)
