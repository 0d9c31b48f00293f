"""A notebook as Kubernetes objects: a volume claim with its files, a Service in front, and a Job that runs JupyterLab.

The claim owns the Service, and a Job the Secret of its start, so that they go with them. All are plain dicts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmariner.platform.jobs.kubernetes.container_scripts import TERMINATED
from llmariner.platform.jobs.kubernetes.objects import CONTAINER, POD_SECURITY, SECURITY
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.notebooks import NotebookServer
from llmariner.platform.notebooks.jupyter import PORT, jupyter_options, jupyter_words
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION

__all__ = [
    "NOTEBOOK_LABEL",
    "RUN",
    "STOPPED",
    "ClusterNotebookSettings",
    "claim_object",
    "job_object",
    "secret_object",
    "service_object",
]

Body = dict[str, Any]

NOTEBOOK_LABEL = "llmariner.ai/notebook"
"""Label of a notebook's pods: its id."""
RUN = "llmariner.ai/notebook-run"
"""Annotation of a Job: which start of its notebook it is."""
STOPPED = "llmariner.ai/stopped"
"""Annotation of a Job that was asked to end. Unix seconds."""

_GRACE_SECONDS = 20
_TEMPORARY_BYTES = 1 << 30
_FILES = "/job"
_RUN = f"""\
ended() {{
  trap '' TERM
  kill -TERM "$child" 2>/dev/null
  wait "$child"
  exit {TERMINATED}
}}
trap ended TERM
"$@" &
child=$!
wait "$child"
code=$?
[ $code -ne {TERMINATED} ] || code=1
exit $code
"""
"""Runs JupyterLab. One that the cluster ends would else have ended well, and its Job would not begin again elsewhere."""


@dataclass(frozen=True)
class ClusterNotebookSettings:
    """Where and with what notebooks run.

    `queue`: Kueue's LocalQueue of the pool, "" without Kueue. `images`: types to references. `gpu_resource`: the resource of
    an accelerator, "" where there is none. `storage_class`: of volumes, "" for the cluster's default. `platform_url`: where
    pods reach the platform, "" where that is not known. `priority`: in the queue; `priority_class`: of pods, "" for none.
    """

    namespace: str = "llmariner-jobs"
    queue: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    gpu_resource: str = ""
    storage_class: str = ""
    platform_url: str = ""
    idle_seconds: int = 3600
    seconds: int = 7 * 86_400
    priority: str = "llmariner-notebooks"
    priority_class: str = ""

    @property
    def jobs(self) -> ClusterJobSettings:
        """As the functions of jobs take them."""
        return ClusterJobSettings(namespace=self.namespace, queue=self.queue, priority=self.priority)


def claim_object(server: NotebookServer, settings: ClusterNotebookSettings) -> Body:
    """The claim on a volume with the notebook's files."""
    spec: Body = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(server.storage_bytes)}},
    }
    if settings.storage_class:
        spec["storageClassName"] = settings.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _metadata(server, settings), "spec": spec}


def service_object(server: NotebookServer, claim: Body, settings: ClusterNotebookSettings) -> Body:
    """The Service by whose name the platform reaches the notebook, owned by its claim."""
    spec = {
        "selector": {NOTEBOOK_LABEL: server.notebook_id},
        "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
    }
    metadata = {**_metadata(server, settings), "ownerReferences": [_owner(claim)]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def job_object(server: NotebookServer, image: str, settings: ClusterNotebookSettings) -> Body:
    """The Job of a start, suspended and in no queue."""
    metadata = _metadata(server, settings)
    metadata["annotations"][RUN] = str(server.run)
    spec: Body = {
        "suspend": True,
        "backoffLimit": 0,
        "activeDeadlineSeconds": settings.seconds,
        # Two JupyterLabs would write the same files.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {
            "metadata": {"labels": {**MANAGED_BY_LABELS, NOTEBOOK_LABEL: server.notebook_id}},
            "spec": _pod(server, image, settings),
        },
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def secret_object(server: NotebookServer, job: Body, settings: ClusterNotebookSettings) -> Body:
    """The variables of a start, its key and its token among them, owned by its Job."""
    own = {"JUPYTER_TOKEN": server.token}
    if settings.platform_url:
        url = f"{settings.platform_url}/v1"
        own |= {"OPENAI_BASE_URL": url, "LLMARINER_BASE_URL": url}
    values = {**server.environment, **own}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": _secret_name(server),
            "namespace": settings.namespace,
            "labels": dict(MANAGED_BY_LABELS),
            "ownerReferences": [_owner(job)],
        },
        "immutable": True,
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def _secret_name(server: NotebookServer) -> str:
    return f"{server.notebook_id}-{server.run}"


def _metadata(server: NotebookServer, settings: ClusterNotebookSettings) -> Body:
    return {
        "name": server.notebook_id,
        "namespace": settings.namespace,
        "labels": dict(MANAGED_BY_LABELS),
        "annotations": {PROJECT_ANNOTATION: server.project_id},
    }


def _owner(body: Body) -> Body:
    metadata = body["metadata"]
    kind = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
    return {**kind, "name": metadata["name"], "uid": metadata["uid"]}


def _failure_rules() -> list[Body]:
    """What the cluster ended begins again: a preempted pod, one of a lost node, one that was deleted."""
    codes = {"containerName": CONTAINER, "operator": "In", "values": [TERMINATED]}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": codes},
    ]


def _pod(server: NotebookServer, image: str, settings: ClusterNotebookSettings) -> Body:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": POD_SECURITY,
        **({"priorityClassName": settings.priority_class} if settings.priority_class else {}),
        "containers": [_container(server, image, settings)],
        "volumes": [
            {"name": "files", "persistentVolumeClaim": {"claimName": server.notebook_id}},
            {"name": "temporary", "emptyDir": {"sizeLimit": str(_TEMPORARY_BYTES)}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": str(server.memory_bytes // 2)},
            },
        ],
    }


def _container(server: NotebookServer, image: str, settings: ClusterNotebookSettings) -> Body:
    options = jupyter_options(server, folder=_FILES, idle_seconds=settings.idle_seconds)
    options |= {"ServerApp.ip": "0.0.0.0", "ServerApp.port": str(PORT), "ServerApp.port_retries": "0"}  # noqa: S104 - the pod's
    words = jupyter_words(options)
    fixed = {
        "HOME": _FILES,
        "TMPDIR": "/tmp",
        "SHELL": "/bin/bash",
        "PIP_CACHE_DIR": "/tmp/pip",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    amounts = {"cpu": f"{server.millicores}m", "memory": str(server.memory_bytes)}
    if server.gpu_count:
        amounts[settings.gpu_resource] = str(server.gpu_count)
    return {
        "name": CONTAINER,
        "image": image,
        # The kubelet expands `$(NAME)`.
        "command": ["/bin/bash", "-c", *(each.replace("$", "$$") for each in (_RUN, "bash", *words))],
        "workingDir": _FILES,
        "env": [{"name": name, "value": value} for name, value in fixed.items()],
        "envFrom": [{"secretRef": {"name": _secret_name(server)}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 2, "timeoutSeconds": 2},
        "resources": {
            # Not requested: Kueue admits no workload with a resource that its queue does not cover.
            "requests": {**amounts, "ephemeral-storage": "0"},
            "limits": {**amounts, "ephemeral-storage": str(2 * _TEMPORARY_BYTES)},
        },
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "files", "mountPath": _FILES},
            {"name": "temporary", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
