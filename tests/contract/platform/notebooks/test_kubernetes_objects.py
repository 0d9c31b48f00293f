"""Notebooks against an API server without controllers: what is asked of it, and what its objects mean."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import JOBS, LOCAL_QUEUES, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, SERVICES
from llmariner.platform.notebooks import NotebookServer, ServerPhase
from llmariner.platform.notebooks.kubernetes.adapter import KubernetesNotebooks
from llmariner.platform.notebooks.kubernetes.objects import ClusterNotebookSettings
from llmariner.settings import ClusterSettings

from ...killed_process import Killed

if TYPE_CHECKING:
    from kubernetes_api import schemas as _schemas
    from kubernetes_api import server as _server
else:
    _schemas, _server = (
        importlib.import_module(f"....kubernetes_api.{name}", __package__) for name in ("schemas", "server")
    )

NAMESPACE = "llmariner-jobs"
SETTINGS = ClusterNotebookSettings(
    namespace=NAMESPACE,
    queue="cpu",
    images={"jupyter-lab-base": "registry.example/notebook:1"},
    gpu_resource="nvidia.com/gpu",
    storage_class="fast",
    platform_url="https://api.example.org",
)
SERVER = NotebookServer(
    "nb-1",
    1,
    "proj_1",
    token="t0k3n",
    millicores=1500,
    memory_bytes=2 << 30,
    storage_bytes=4 << 30,
    environment={"LR": "0.1", "OPENAI_API_KEY": "sk-secret", "JUPYTER_TOKEN": "mine"},
    organization_id="org_1",
    image="jupyter-lab-base",
    gpu_count=2,
)
AT = "2026-11-01T10:00:00Z"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    crds = _schemas.folder()
    with _server.ApiServer(_schemas.Schemas(crds), crds) as running:
        made = Cluster(ClusterSettings(running.kubeconfig(tmp_path / "kubeconfig")))
        made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        queue = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
        made.create(
            {
                **queue,
                "metadata": {"name": "cpu", "namespace": NAMESPACE},
                "spec": {"clusterQueue": "llmariner-cpu"},
            }
        )
        yield made
        made.close()


@pytest.fixture
def notebooks(cluster: Cluster) -> KubernetesNotebooks:
    return KubernetesNotebooks(SETTINGS, lambda: cluster)


def job(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(JOBS, NAMESPACE, "nb-1")
    assert found is not None
    return found


def names(cluster: Cluster, *kinds: Any) -> list[str]:
    return [f"{kind.kind} {each['metadata']['name']}" for kind in kinds for each in cluster.list(kind, NAMESPACE).items]


def admit(cluster: Cluster) -> None:
    cluster.merge_patch(JOBS, NAMESPACE, "nb-1", {"spec": {"suspend": False}})


def set_status(cluster: Cluster, resource: Any, name: str, status: dict[str, Any]) -> None:
    path = resource.path(NAMESPACE, name, "status")
    cluster._connection.request("PATCH", path, None, {"status": status}, "application/merge-patch+json")


def finish(cluster: Cluster, kind: str, reason: str = "") -> None:
    """What the controller of Jobs writes when the last pod has ended."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": AT}
    set_status(cluster, JOBS, "nb-1", {"conditions": [condition], "startTime": AT})


def make_pod(cluster: Cluster, name: str, *, ready: bool, phase: str = "Running", **state: Any) -> None:
    pod = {"name": name, "namespace": NAMESPACE, "labels": {"batch.kubernetes.io/job-name": "nb-1"}}
    spec = {"containers": [{"name": "job", "image": "x"}]}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": spec})
    container = {"name": "job", "image": "x", "imageID": "", "ready": ready, "restartCount": 0}
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": AT}
    state = state or {"running": {"startedAt": AT}}
    status = {"phase": phase, "conditions": [condition], "containerStatuses": [{**container, "state": state}]}
    set_status(cluster, PODS, name, status)


def test_a_start_is_a_job_in_its_projects_queue_with_a_volume(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(SERVER)
    notebooks.start(SERVER)  # the same again
    made = job(cluster)
    assert names(cluster, SECRETS, SERVICES, PERSISTENT_VOLUME_CLAIMS, JOBS) == [
        *("Secret nb-1-1", "Service nb-1", "PersistentVolumeClaim nb-1", "Job nb-1")
    ]
    labels = made["metadata"]["labels"]
    (queue,) = [each for each in cluster.list(LOCAL_QUEUES, NAMESPACE).items if each["metadata"]["name"] != "cpu"]
    assert queue["metadata"]["annotations"] == {"llmariner.ai/project": "proj_1"}
    assert labels["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert labels["kueue.x-k8s.io/priority-class"] == "llmariner-notebooks"
    assert made["spec"]["suspend"] is True
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["automountServiceAccountToken"], pod["securityContext"]["runAsNonRoot"]) == (False, True)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"]["limits"] == {
        **container["resources"]["requests"],
        "ephemeral-storage": str(2 << 30),
    }
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"]["cpu"] == "1500m"
    assert "--ServerApp.base_url=/v1/services/notebooks/nb-1/" in container["command"]
    claim, service, secret = (
        cluster.get(kind, NAMESPACE, name)
        for kind, name in ((PERSISTENT_VOLUME_CLAIMS, "nb-1"), (SERVICES, "nb-1"), (SECRETS, "nb-1-1"))
    )
    assert claim is not None
    assert service is not None
    assert secret is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == str(4 << 30)
    assert claim["spec"]["storageClassName"] == "fast"
    assert service["metadata"]["ownerReferences"][0]["uid"] == claim["metadata"]["uid"]
    assert service["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert secret["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    variables = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    assert variables["JUPYTER_TOKEN"] == "t0k3n"
    assert variables["OPENAI_BASE_URL"] == "https://api.example.org/v1"
    assert not [word for word in ("t0k3n", "sk-secret") if word in json.dumps(made)]


def test_its_phases_are_those_of_its_job_and_pod(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    def phase() -> Any:
        status = notebooks.status("nb-1")
        return None if status is None else (status.run, status.phase, status.code)

    assert phase() is None
    notebooks.start(SERVER)
    assert phase() == (1, ServerPhase.QUEUED, "")
    admit(cluster)
    assert phase() == (1, ServerPhase.INITIALIZING, "")
    make_pod(cluster, "nb-1-a", ready=False)
    assert phase() == (1, ServerPhase.INITIALIZING, "")
    set_status(cluster, PODS, "nb-1-a", {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": AT}]})
    assert phase() == (1, ServerPhase.RUNNING, "")
    # Its node is lost: another pod takes its place, with the volume.
    cluster.delete(PODS, NAMESPACE, "nb-1-a")
    assert phase() == (1, ServerPhase.INITIALIZING, "")
    make_pod(cluster, "nb-1-b", ready=False, phase="Failed", terminated={"exitCode": 137, "reason": "OOMKilled"})
    finish(cluster, "Failed", "BackoffLimitExceeded")
    assert phase() == (1, ServerPhase.FAILED, "out_of_memory")
    status = notebooks.status("nb-1")
    assert status is not None
    assert status.reason == ("It used more than the 2048 MiB of memory that it may, and was ended. Its files are kept.")


def test_one_that_is_idle_has_stopped_by_itself(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(SERVER)
    admit(cluster)
    make_pod(cluster, "nb-1-a", ready=False, phase="Succeeded", terminated={"exitCode": 0, "startedAt": AT})
    finish(cluster, "Complete")
    status = notebooks.status("nb-1")
    assert status is not None
    assert (status.phase, status.code) == (ServerPhase.STOPPED, "ended")


def test_a_stop_ends_what_runs_and_counts_when_the_last_pod_has_ended(
    cluster: Cluster, notebooks: KubernetesNotebooks
) -> None:
    notebooks.start(SERVER)
    admit(cluster)
    make_pod(cluster, "nb-1-a", ready=True)
    notebooks.stop("nb-1")
    notebooks.stop("nb-1")
    assert job(cluster)["spec"]["activeDeadlineSeconds"] == 1
    status = notebooks.status("nb-1")
    assert status is not None
    assert not status.phase.is_final, "JupyterLab may still write"
    finish(cluster, "Failed", "DeadlineExceeded")
    status = notebooks.status("nb-1")
    assert status is not None
    assert (status.phase, status.code) == (ServerPhase.STOPPED, "")
    # The next start has the same volume, and no pod beside one that has not ended.
    claim = cluster.get(PERSISTENT_VOLUME_CLAIMS, NAMESPACE, "nb-1")
    again = replace(SERVER, run=2, token="other")
    notebooks.start(again)
    assert notebooks.status("nb-1") is None
    cluster.delete(PODS, NAMESPACE, "nb-1-a")
    notebooks.start(again)
    status = notebooks.status("nb-1")
    assert status is not None
    assert (status.run, status.phase) == (2, ServerPhase.QUEUED)
    assert cluster.get(PERSISTENT_VOLUME_CLAIMS, NAMESPACE, "nb-1") == claim


def test_one_that_waits_is_gone_when_it_is_stopped(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(SERVER)
    notebooks.stop("nb-1")
    assert notebooks.status("nb-1") is None
    assert names(cluster, JOBS, PERSISTENT_VOLUME_CLAIMS) == ["PersistentVolumeClaim nb-1"]


def test_a_start_does_not_replace_what_runs(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(SERVER)
    uid = job(cluster)["metadata"]["uid"]
    notebooks.start(replace(SERVER, run=2))
    assert job(cluster)["metadata"]["uid"] == uid


def test_a_killed_start_is_completed(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    create, left = cluster.create, 0

    def create_some(body: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return create(body, **options)

    for number in range(4):
        left = number
        cluster.create = create_some  # type: ignore[method-assign]
        with pytest.raises(Killed):
            notebooks.start(SERVER)
        assert notebooks.status("nb-1") is None
        cluster.create = create  # type: ignore[method-assign]
        notebooks.start(SERVER)
        status = notebooks.status("nb-1")
        assert status is not None
        assert status.phase is ServerPhase.QUEUED
        cluster.delete(JOBS, NAMESPACE, "nb-1")
        for kind, name in ((PERSISTENT_VOLUME_CLAIMS, "nb-1"), (SERVICES, "nb-1"), (SECRETS, "nb-1-1")):
            cluster.delete(kind, NAMESPACE, name)


def test_an_image_that_is_no_longer_there_is_named(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(replace(SERVER, image="gone"))
    status = notebooks.status("nb-1")
    assert status is not None
    assert (status.run, status.phase, status.code) == (1, ServerPhase.FAILED, "image_unavailable")
    assert "'gone'" in status.reason
    notebooks.start(replace(SERVER, run=2))
    status = notebooks.status("nb-1")
    assert status is not None
    assert (status.run, status.phase) == (2, ServerPhase.QUEUED)


def test_one_whose_image_does_not_arrive_ends_when_it_is_stopped(
    cluster: Cluster, notebooks: KubernetesNotebooks
) -> None:
    notebooks.start(SERVER)
    admit(cluster)
    make_pod(cluster, "nb-1-a", ready=False, phase="Pending", waiting={"reason": "ImagePullBackOff", "message": "no"})
    set_status(cluster, PODS, "nb-1-a", {"startTime": AT})
    for _ in range(2):
        status = notebooks.status("nb-1")
        assert status is not None
        assert (status.phase, status.code) == (ServerPhase.FAILED, "image_unavailable")
        notebooks.stop("nb-1")
    assert job(cluster)["spec"]["activeDeadlineSeconds"] == 1


def test_a_removed_notebook_leaves_nothing(cluster: Cluster, notebooks: KubernetesNotebooks) -> None:
    notebooks.start(SERVER)
    assert notebooks.remove("nb-1") is False, "Kubernetes may need a moment"
    assert notebooks.remove("nb-1") is True
    assert names(cluster, JOBS, PERSISTENT_VOLUME_CLAIMS, SERVICES, SECRETS) == []
