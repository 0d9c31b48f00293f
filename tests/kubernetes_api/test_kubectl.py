"""A user with kubectl finds the same API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES

from .caller import Body, Caller
from .objects import deployment, inference_service

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(api: Caller, namespace: str, tmp_path: Path) -> Kubectl:
    """Runs it in the test's namespace; a body goes in as a file's content would."""

    def run(*words: str, body: Body | None = None) -> subprocess.CompletedProcess[str]:
        # Discovery is remembered under the server's address, and ports are used again.
        place = ["--kubeconfig", str(api.kubeconfig), "--cache-dir", str(tmp_path / "cache"), "-n", namespace]
        return subprocess.run(
            [str(Path(sys.executable).parent / "kubectl"), *place, *words],
            input=json.dumps(body),
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )

    return run


@pytest.mark.parametrize("way", [[], ["--server-side"]])
def test_objects_are_applied_repeatedly(kubectl: Kubectl, api: Caller, namespace: str, way: list[str]) -> None:
    for maximum in (1, 2, 2):
        done = kubectl("apply", *way, "-f", "-", body=inference_service(namespace, maxReplicas=maximum))
        assert done.returncode == 0, done.stderr
        assert api.get(INFERENCE_SERVICES, namespace, "tiny")["spec"]["predictor"]["maxReplicas"] == maximum
    assert kubectl("get", "isvc", "-o", "name").stdout == "inferenceservice.serving.kserve.io/tiny\n"
    assert kubectl("delete", "isvc", "tiny").returncode == 0
    assert kubectl("get", "isvc", "tiny").returncode == 1


def test_a_misspelled_field_is_rejected(kubectl: Kubectl, namespace: str) -> None:
    for way in ([], ["--server-side"]):
        refused = kubectl("apply", *way, "-f", "-", body=inference_service(namespace, minReplica=1))
        assert refused.returncode == 1
        assert "minReplica" in refused.stderr


def test_a_conflict_with_the_platform_is_shown_to_the_user(kubectl: Kubectl, api: Caller, namespace: str) -> None:
    api.apply(INFERENCE_SERVICES, inference_service(namespace), "llmariner")
    theirs = inference_service(namespace, minReplicas=1)
    refused = kubectl("apply", "--server-side", "-f", "-", body=theirs)
    assert refused.returncode == 1
    assert 'conflict with "llmariner": .spec.predictor.minReplicas' in refused.stderr
    assert kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", body=theirs).returncode == 0


def test_kubectl_waits_scales_and_labels(kubectl: Kubectl, api: Caller, namespace: str) -> None:
    api.make(INFERENCE_SERVICES, inference_service(namespace))
    api.make(DEPLOYMENTS, deployment(namespace))
    assert kubectl("wait", "--for=condition=Ready", "isvc/tiny", "--timeout=1s").returncode == 1
    api.set_status(INFERENCE_SERVICES, namespace, "tiny", {"conditions": [{"type": "Ready", "status": "True"}]})
    assert kubectl("wait", "--for=condition=Ready", "isvc/tiny", "--timeout=10s").returncode == 0
    assert kubectl("scale", "deployment", "engine", "--replicas=2").returncode == 0
    assert api.get(DEPLOYMENTS, namespace, "engine")["spec"]["replicas"] == 2
    assert kubectl("label", "deployment", "engine", "by=user").returncode == 0
    assert kubectl("get", "deployment", "-l", "by=user", "-o", "name").stdout == "deployment.apps/engine\n"
    assert kubectl("delete", "deployment", "--all").returncode == 0
