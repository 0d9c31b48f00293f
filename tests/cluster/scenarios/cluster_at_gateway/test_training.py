"""A fine-tuning job of the platform is trained on the worker cluster, from a copy of its model, and the result answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import apply, get, kubectl
from ...lab.places import Lab
from ...lab.wait import until
from ...platform import overlay
from ...platform.installed import Installed
from ..documents.stores import DocumentStores
from ..fine_tuning.trainings import QUESTION, Json, Trainings
from ..platform_client import PlatformClient
from ..two_clusters.worker import Worker
from ..worker_cluster.control_plane import ENGINE
from .placed_work import PACKAGED

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1200)]

BASE = "copied-smollm2"
_POLICY = "training-volumes"


@pytest.fixture
def trainings(installed: Installed, stores: DocumentStores | None) -> Iterator[Trainings]:
    """With a base model that is copied from a bucket into the platform's object store."""
    if stores is None:
        pytest.skip("this machine can't run the object store (Debian: ceph-mon ceph-osd radosgw)")
    folder = next((StandaloneSettings.load(environment()).cache / "models").glob(f"{PACKAGED}-*"))
    for each in sorted(folder.rglob("*")):
        if each.is_file():
            stores.put(f"weights/{each.relative_to(folder)}", each.read_bytes())
    body = {
        "id": BASE,
        "source_repository": "OBJECT_STORE",
        "model_file_location": stores.location("weights"),
        "task": "generate",
        "config": {"runtime_config": {"resources": {"gpu": 0}}},
    }
    with contextlib.closing(PlatformClient(installed)) as client:
        status, made = installed.call("POST", "/models", body)
        assert status == 200, made
        try:
            until("the model is copied", lambda: installed._not_loaded(BASE), seconds=300)
            yield Trainings(client)
        finally:
            installed.call("DELETE", f"/models/{BASE}")


@contextlib.contextmanager
def engine_environment(lab: Lab) -> Iterator[None]:
    """Pods of the engines' image among jobs get this machine's engine environment, which is too large for an image.

    By a policy of the cluster: jobs that need volumes of the platform's own cluster are not placed elsewhere.
    """
    folders = {name: path for name, path in overlay._folders().items() if name != overlay.MODELS}
    volumes = [each for name, path in folders.items() for each in overlay._volume(name, path, JOBS_NAMESPACE)]
    claims = ", ".join(
        f'Object.spec.volumes{{name: "{name}", persistentVolumeClaim: '
        f'Object.spec.volumes.persistentVolumeClaim{{claimName: "{name}", readOnly: true}}}}'
        for name in folders
    )
    mounts = ", ".join(
        f'Object.spec.containers.volumeMounts{{name: "{name}", mountPath: "{path}", readOnly: true}}'
        for name, path in folders.items()
    )
    containers = f"object.spec.containers.map(c, Object.spec.containers{{name: c.name, volumeMounts: [{mounts}]}})"
    expression = f"Object{{spec: Object.spec{{volumes: [{claims}], containers: {containers}}}}}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    version, metadata = "admissionregistration.k8s.io/v1beta1", {"name": _POLICY}
    policy = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [
                {"name": "jobs", "expression": f"object.metadata.namespace == '{JOBS_NAMESPACE}'"},
                {"name": "engines", "expression": f"object.spec.containers.exists(c, c.image == '{ENGINE}')"},
            ],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        },
    }
    binding = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": metadata,
        "spec": {"policyName": _POLICY},
    }
    try:
        apply(lab, [*volumes, policy, binding])
        yield
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            kubectl(lab, "delete", kind, _POLICY, "--ignore-not-found")
        names = [f"{each['kind']}/{each['metadata']['name']}" for each in volumes]
        kubectl(lab, "delete", "--ignore-not-found", "--wait=false", "-n", JOBS_NAMESPACE, *names)


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_a_model_is_trained_there_comes_back_and_answers(
    trainings: Trainings, worker: Worker, cluster_id: str, trained: str
) -> None:
    began = time.monotonic()
    with engine_environment(worker.lab):
        file = trainings.upload()
        numbers: Json = {"n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 2}
        job_id = trainings.create(BASE, file, cluster_id, trained=trained, **numbers)
        # By what the agent says: the platform's own clock ticks every five minutes.
        until("its process runs there", lambda: None if _began(worker.lab, job_id) else "not yet", seconds=300)
        trainings.wait_for(job_id, "running", seconds=60, ticks=False)
        job = trainings.wait_for(job_id, "succeeded", seconds=600, ticks=False)
        seconds = time.monotonic() - began
        until("nothing is left there", lambda: _left(worker.lab, job_id), seconds=90)
    losses = trainings.losses(job_id)
    print(f"\n{trained}: trained in {seconds:.0f} s, {len(losses)} steps, losses {losses}")
    assert job["cluster_id"] == cluster_id
    assert losses[max(losses)] < losses[min(losses)] / 2
    assert trainings.charged(job["fine_tuned_model"]) == job["trained_tokens"] == job["estimate"]["tokens"]
    answer = trainings.client.whole(job["fine_tuned_model"], QUESTION.format("Spain"), wait=300)
    print(f"answered {time.monotonic() - began:.0f} s after the beginning: {answer.text}")
    assert answer.status == 200, answer.error
    assert answer.text.startswith("Arrr!"), answer.text
    trainings.call("DELETE", f"/models/{job['fine_tuned_model']}")


def _began(lab: Lab, job_id: str) -> bool:
    """Whether a process of a job's training, which is checked before, has begun on a cluster."""
    pods = get(lab, "pods", "-n", JOBS_NAMESPACE)["items"]
    running = [each["metadata"]["name"] for each in pods if each["status"].get("phase") == "Running"]
    return any(each.startswith(f"{job_id}-1") for each in running)


def _left(lab: Lab, job_id: str) -> str | None:
    items = get(lab, "jobs,pods,secrets", "-n", JOBS_NAMESPACE)["items"]
    return ", ".join(each["metadata"]["name"] for each in items if job_id in each["metadata"]["name"]) or None
