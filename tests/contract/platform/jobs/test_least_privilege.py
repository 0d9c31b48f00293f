"""The service accounts of functions that run and show jobs have exactly the permissions that the adapter uses."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmariner.manifests.rbac import roles
from llmariner.platform.jobs import Job
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.objects import JOB_LABEL
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import JOBS, LOCAL_QUEUES, WORKLOADS
from llmariner.platform.notebooks import NotebookServer
from llmariner.platform.notebooks.kubernetes.adapter import KubernetesNotebooks
from llmariner.platform.notebooks.kubernetes.objects import ClusterNotebookSettings
from llmariner.settings import ClusterSettings

from .test_kubernetes_objects import JOB, NAMESPACE, found, jobs_on

if TYPE_CHECKING:
    from kubernetes_api import schemas as _schemas
    from kubernetes_api import server as _server
else:
    _schemas, _server = (
        importlib.import_module(f"....kubernetes_api.{name}", __package__) for name in ("schemas", "server")
    )

Rights = set[tuple[str, str]]
_PATH = re.compile(r"/(?:api|apis/([^/]+))/v[^/]+/namespaces/[^/]+/([^/]+)(?:/([^/]+))?(?:/([^/]+))?")
_VERBS = {"POST": {"create"}, "DELETE": {"delete"}, "PATCH": {"patch"}}


def granted(role: str) -> Rights:
    return {
        (f"{group}/{kind}", verb)
        for each in roles()
        if each["metadata"]["name"] == role
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }


def used(answered: list[tuple[str, str, str]]) -> Rights:
    rights: Rights = set()
    for _, method, path in answered:
        matched = _PATH.fullmatch(path)
        assert matched, path
        group, kind, name, part = matched.groups("")
        # Server-side apply of what is not there needs both.
        verbs = {"patch", "create"} if (method, kind) == ("PATCH", "localqueues") else _VERBS.get(method)
        verbs = verbs or {"get" if name else "list"}
        rights |= {(f"{group}/{kind}{'/' if part else ''}{part}", verb) for verb in verbs}
    return rights


def live(cluster: Cluster, jobs: KubernetesJobs, looked: Callable[[], None]) -> None:
    """All that happens to a job."""
    jobs.submit(JOB)
    uid = found(cluster)["metadata"]["uid"]
    metadata: dict[str, Any] = {"namespace": NAMESPACE, "name": "job-bj-1", "labels": {"kueue.x-k8s.io/job-uid": uid}}
    cluster.create(
        {
            "apiVersion": WORKLOADS.api_version,
            "kind": WORKLOADS.kind,
            "metadata": metadata,
            "spec": {"podSets": [{"name": "main", "count": 1, "template": {"spec": {"containers": []}}}]},
        }
    )
    pod = {"namespace": NAMESPACE, "name": "bj-1-x", "labels": {JOB_LABEL: "bj-1"}}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": {"containers": []}})
    looked()
    jobs.pause("bj-1")
    jobs.resume("bj-1")
    jobs.cancel("bj-1")
    jobs.submit(Job("bj-2", "proj_1", "true", image="gone"))
    jobs.remove("bj-1")


def live_notebook(cluster: Cluster, notebooks: KubernetesNotebooks, admitted: Callable[[], object]) -> None:
    """All that happens to a notebook."""
    server = NotebookServer("nb-1", 1, "proj_1", "t", millicores=100, memory_bytes=1, storage_bytes=1, image="lab")
    notebooks.start(server)
    notebooks.status("nb-1")
    admitted()
    notebooks.stop("nb-1")
    notebooks.remove("nb-1")


def test_each_permission_is_used_and_each_use_permitted(tmp_path: Path) -> None:
    crds = _schemas.folder()
    with _server.ApiServer(_schemas.Schemas(crds), crds) as server:
        cluster, other = (Cluster(ClusterSettings(server.kubeconfig(tmp_path / "kubeconfig"))) for _ in range(2))
        other.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        queue = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
        pool = {"name": "cpu", "namespace": NAMESPACE}
        other.create({**queue, "metadata": pool, "spec": {"clusterQueue": "llmariner-cpu"}})
        jobs, reading, looking = jobs_on(cluster), [], []

        def look() -> None:
            for suspended in (True, False):  # one that waits has no pods
                other.merge_patch(JOBS, NAMESPACE, "bj-1", {"spec": {"suspend": suspended}})
                before = len(server.answered)
                jobs.status("bj-1")
                looking.extend(server.answered[before:])
                jobs.log("bj-1")
                reading.extend(server.answered[before:])
            other.merge_patch(JOBS, NAMESPACE, "bj-1", {"spec": {"suspend": True}})

        server.answered.clear()
        live(cluster, jobs, look)
        settings = ClusterNotebookSettings(namespace=NAMESPACE, queue="cpu", images={"lab": "lab:1"})
        admission = {"spec": {"suspend": False}}
        live_notebook(
            cluster,
            KubernetesNotebooks(settings, lambda: cluster),
            lambda: other.merge_patch(JOBS, NAMESPACE, "nb-1", admission),
        )
        asked = [each for each in server.answered if not each[2].endswith("/log")]
        made_by_the_test = {("/pods", "create"), ("kueue.x-k8s.io/workloads", "create")}
        assert used(asked) - made_by_the_test == granted("jobs")
        assert used(reading) == granted("jobs-reader")
        assert used(looking) == granted("jobs-status")
        cluster.close()
        other.close()
