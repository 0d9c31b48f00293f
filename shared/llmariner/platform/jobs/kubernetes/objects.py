"""A job as Kubernetes objects: a Job, the Secrets with what it gets, a Service and a policy by which several workers meet.

All are plain dicts. The Job owns the others, so that they go with it.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.platform.jobs import Job, JobStatus
from llmariner.platform.jobs.kubernetes.authority import (
    AUTHORITY_FILE,
    AUTHORITY_VARIABLE,
    authority_mount,
    authority_volume,
)
from llmariner.platform.jobs.kubernetes.container_scripts import FETCH, GRACE_SECONDS, RUN, TERMINATED
from llmariner.platform.jobs.kubernetes.output import keeps_output, output_mount, output_volume
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.jobs.kubernetes.weights import weights_disk_bytes, weights_mount, weights_parts
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS, QUEUE_LABEL
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION

__all__ = [
    "CONTAINER",
    "ENDED",
    "FETCH_CONTAINER",
    "JOB_LABEL",
    "PAUSED",
    "POD_SECURITY",
    "SECURITY",
    "SUBMITTED",
    "DataLink",
    "ended_job",
    "ending_patch",
    "job_object",
    "owned_objects",
    "submission",
]

Body = dict[str, Any]

SUBMITTED = "llmariner.ai/submitted"
"""Annotation of a Job whose Secrets and Service exist: before it, nothing starts the Job. Unix seconds."""
ENDED = "llmariner.ai/ended"
"""Annotation of a Job that is to have no pods: the end of a job that never ran. JSON of a `JobStatus`."""
PAUSED = "llmariner.ai/paused"
"""Annotation of a Job that is to wait until it is resumed. Unix seconds."""
JOB_LABEL = "batch.kubernetes.io/job-name"
"""Kubernetes' label of a Job's pods."""
CONTAINER, FETCH_CONTAINER = "job", "data-files"

_BRIEF_SECONDS, _BRIEF_MEMORY_BYTES = 3600, 1 << 30
"""Of a brief job: with less memory it finds room where a longer one does not."""
_USER = 65532
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_RENDEZVOUS_PORT = 29_500
"""As torchrun's default."""


@dataclass(frozen=True)
class DataLink:
    """A URL by which a data file may be fetched without other credentials."""

    name: str
    url: str


def job_object(job: Job, image: str, settings: ClusterJobSettings) -> Body:
    """The Job, suspended and in no queue: `submission` releases it."""
    several = job.worker_count > 1
    spec: Body = {
        "suspend": True,
        "completions": job.worker_count,
        "parallelism": job.worker_count,
        "completionMode": "Indexed" if several else "NonIndexed",
        "backoffLimit": job.backoff_limit,
        "activeDeadlineSeconds": max(1, int(min(settings.seconds, _BRIEF_SECONDS if job.brief else settings.seconds))),
        "ttlSecondsAfterFinished": settings.kept_seconds,
        # The pod of a job is not replaced while another may still run.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules(job)},
        "template": {
            "metadata": {"labels": MANAGED_BY_LABELS},
            "spec": _pod(job, image, settings),
        },
    }
    return {**_job(job.id, job.project_id, settings), "spec": spec}


def ended_job(job_id: str, project_id: str, status: JobStatus, settings: ClusterJobSettings) -> Body:
    """A Job that runs nothing, so that a job of this id never starts. Kubernetes deletes it as one that has finished."""
    made = _job(job_id, project_id, settings)
    made["metadata"]["annotations"][ENDED] = _ended(status)
    container = {"name": CONTAINER, "image": "none", "securityContext": SECURITY}
    made["spec"] = {
        "completions": 0,
        "parallelism": 0,
        "ttlSecondsAfterFinished": settings.kept_seconds,
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": POD_SECURITY,
                "containers": [container],
            }
        },
    }
    return made


def ending_patch(status: JobStatus) -> Body:
    """A merge patch of a Job that is admitted and can't start: it keeps that status, and Kubernetes ends its pods."""
    return {"metadata": {"annotations": {ENDED: _ended(status)}}, "spec": {"activeDeadlineSeconds": 1}}


def _ended(status: JobStatus) -> str:
    return json.dumps({"phase": status.phase, "since": status.since, "code": status.code, "reason": status.reason})


def owned_objects(
    job: Job, made: Body, links: Sequence[DataLink], output: Mapping[str, bytes] | None = None
) -> list[Body]:
    """What the Job `made` needs, owned by it. `output`: see `upload_program`; None for a job that keeps none."""
    owner = {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": made["metadata"]["name"],
        "uid": made["metadata"]["uid"],
    }
    metadata = {"namespace": made["metadata"]["namespace"], "labels": MANAGED_BY_LABELS, "ownerReferences": [owner]}
    environment = {name: value.encode() for name, value in job.environment.items()}
    objects = [
        _secret(f"{job.id}-environment", metadata, environment),
        _secret(f"{job.id}-scripts", metadata, job.scripts),
    ]
    if links:
        calls = "".join(f"fetch {shlex.quote(link.url)} {shlex.quote(link.name)}\n" for link in links)
        objects.append(_secret(f"{job.id}-data", metadata, {"fetch": (FETCH + calls).encode()}))
    if output is not None:
        objects.append(_secret(f"{job.id}-output", metadata, output))
    if job.worker_count > 1:
        # Workers look each other up before they are ready.
        workers = {JOB_LABEL: job.id}
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": workers}
        kind = {"apiVersion": "v1", "kind": "Service"}
        objects.append({**kind, "metadata": {**metadata, "name": job.id}, "spec": spec})
        objects.append(_policy(workers, {**metadata, "name": job.id}))
    return objects


def submission(made: Body, queue: str, settings: ClusterJobSettings, now: float) -> Body:
    """The merge patch that gives the Job `made` to its queue, or starts it where there is none."""
    labels = {QUEUE_LABEL: queue, "kueue.x-k8s.io/priority-class": settings.priority}
    return {
        "metadata": {
            "uid": made["metadata"]["uid"],
            "annotations": {SUBMITTED: f"{now:.3f}"},
            **({"labels": labels} if queue else {}),
        },
        **({} if queue else {"spec": {"suspend": False}}),
    }


def _failure_rules(job: Job) -> list[Body]:
    def exits(action: str, operator: str) -> Body:
        codes = {"containerName": CONTAINER, "operator": operator, "values": [TERMINATED]}
        return {"action": action, "onExitCodes": codes}

    return [
        # What the cluster ended begins again: a preempted pod, one of a lost node, one that was deleted.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        exits("Ignore", "In"),
        *([] if job.backoff_limit else [exits("FailJob", "NotIn")]),
    ]


SECURITY: Body = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
# Pod Security's level "restricted". An image may have root as its user, hence the number.
POD_SECURITY: Body = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _job(job_id: str, project_id: str, settings: ClusterJobSettings) -> Body:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_id,
            "namespace": settings.namespace,
            "labels": dict(MANAGED_BY_LABELS),
            "annotations": {PROJECT_ANNOTATION: project_id},
        },
    }


def _resources(job: Job, settings: ClusterJobSettings) -> Body:
    memory = min(settings.memory_bytes, _BRIEF_MEMORY_BYTES) if job.brief else settings.memory_bytes
    resources = {"cpu": settings.cpu, "memory": str(memory)}
    if job.gpu_count:
        resources[settings.gpu_resource] = str(job.gpu_count)
    disk = settings.disk_bytes + weights_disk_bytes(job)
    # Not requested: Kueue admits no workload with a resource that its queue does not cover.
    return {
        "requests": {**resources, "ephemeral-storage": "0"},
        "limits": {**resources, "ephemeral-storage": str(disk)},
    }


def _pod(job: Job, image: str, settings: ClusterJobSettings) -> Body:
    common: Body = {
        "image": image,
        "workingDir": "/job",
        "securityContext": SECURITY,
        "resources": _resources(job, settings),
    }
    fixed = {"HOME": "/job", "TMPDIR": "/tmp", "LLMARINER_JOB_ID": job.id}
    claims = {} if job.image else settings.program_volumes
    weights = weights_parts(job, settings.hub)
    kept = [output_mount()] if keeps_output(job, settings) else []
    trusted = [authority_mount()] if settings.on_worker_cluster else []
    fixed |= {AUTHORITY_VARIABLE: AUTHORITY_FILE} if trusted else {}
    container = {
        **common,
        "name": CONTAINER,
        "command": [
            *("/bin/sh", "-c", _escaped(RUN), "sh", _escaped(job.command)),
            *("" if job.image else "own", "$(RANK)" if job.worker_count > 1 else "0"),
        ],
        "env": [*_named(fixed), *_threads(job), *_rendezvous(job, settings)],
        "envFrom": [{"secretRef": {"name": f"{job.id}-environment"}}],
        "volumeMounts": [*_mounts(job), *kept, *trusted, *weights_mount(job), *_claim_mounts(claims)],
    }
    fetching = [_data_container(common, trusted)] if job.data_files else []
    fetching += [_fetching({**common, **each}, trusted, claims) for each in weights.containers]
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": POD_SECURITY,
        **({"priorityClassName": settings.priority_class} if settings.priority_class else {}),
        **({"subdomain": job.id} if job.worker_count > 1 else {}),
        **({"initContainers": fetching} if fetching else {}),
        "containers": [container],
        "volumes": [*_volumes(job, settings), *weights.volumes, *_claim_volumes(claims)],
    }


def _data_container(common: Body, trusted: Sequence[Body]) -> Body:
    """The container that fetches the job's data files."""
    return {
        **common,
        "name": FETCH_CONTAINER,
        "command": ["/bin/sh", "/run/llmariner/fetch"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "work", "mountPath": "/data", "subPath": "data"},
            {"name": "links", "mountPath": "/run/llmariner", "readOnly": True},
            *trusted,
        ],
    }


def _fetching(container: Body, trusted: Sequence[Body], claims: Mapping[str, str]) -> Body:
    """A container that fetches weights, with the authority of the control plane and what the image lacks."""
    variables = _named({AUTHORITY_VARIABLE: AUTHORITY_FILE}) if trusted else []
    mounts = [*container["volumeMounts"], *trusted, *_claim_mounts(claims)]
    return {**container, "env": [*container["env"], *variables], "volumeMounts": mounts}


def _mounts(job: Job) -> list[Body]:
    mounts: list[Body] = [{"name": "work", "mountPath": path, "subPath": path[1:]} for path in ("/job", "/tmp")]
    mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    if job.scripts:
        mounts += [{"name": "scripts", "mountPath": path, "readOnly": True} for path in ("/job/scripts", "/scripts")]
    if job.data_files:
        mounts += [{"name": "work", "mountPath": path, "subPath": "data"} for path in ("/job/data", "/data")]
    return mounts


def _volumes(job: Job, settings: ClusterJobSettings) -> list[Body]:
    volumes: list[Body] = [
        {"name": "work", "emptyDir": {"sizeLimit": str(settings.disk_bytes)}},
        {"name": "scripts", "secret": {"secretName": f"{job.id}-scripts"}},
        # A container has 64 MiB by default: too few for the loaders of data and the collective operations of PyTorch.
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.memory_bytes // 2)}},
    ]
    if job.data_files:
        volumes.append({"name": "links", "secret": {"secretName": f"{job.id}-data"}})
    if keeps_output(job, settings):
        volumes.append(output_volume(job))
    if settings.on_worker_cluster:
        volumes.append(authority_volume())
    return volumes


def _claim_volumes(claims: Iterable[str]) -> list[Body]:
    return [
        {"name": f"claim-{name}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}} for name in claims
    ]


def _claim_mounts(claims: Mapping[str, str]) -> list[Body]:
    return [{"name": f"claim-{name}", "mountPath": path, "readOnly": True} for name, path in claims.items()]


def _threads(job: Job) -> list[Body]:
    """As many threads as the container has cores: the platform's own program would take as many as the node has."""
    limit = {"valueFrom": {"resourceFieldRef": {"containerName": CONTAINER, "resource": "limits.cpu"}}}
    return [] if job.image else [{"name": "OMP_NUM_THREADS", **limit}]


def _rendezvous(job: Job, settings: ClusterJobSettings) -> list[Body]:
    """The variables by which PyTorch's workers and torchrun (`PET_…`) find each other; none for one worker."""
    if job.worker_count == 1:
        return []
    master = f"{job.id}-0.{job.id}.{settings.namespace}.svc"
    values = {"MASTER_ADDR": master, "MASTER_PORT": str(_RENDEZVOUS_PORT), "WORLD_SIZE": str(job.worker_count)}
    torchrun = {
        "PET_NNODES": str(job.worker_count),
        "PET_NPROC_PER_NODE": str(max(1, job.gpu_count)),
        "PET_MASTER_ADDR": master,
        "PET_MASTER_PORT": str(_RENDEZVOUS_PORT),
    }
    index = {"valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}
    named = _named(values | torchrun)
    return [*named, {"name": "RANK", **index}, {"name": "PET_NODE_RANK", **index}]


def _policy(workers: Body, metadata: Body) -> Body:
    """Workers of one job reach each other, and nobody else them.

    It says nothing of what they reach: where no other policy does, that would take names and data files from them.
    """
    selector = {"podSelector": {"matchLabels": workers}}
    spec = {**selector, "policyTypes": ["Ingress"], "ingress": [{"from": [selector]}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _named(values: Mapping[str, str]) -> list[Body]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _secret(name: str, metadata: Body, content: Mapping[str, bytes]) -> Body:
    data = {key: base64.b64encode(value).decode() for key, value in content.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata, "name": name},
        "immutable": True,
        "data": data,
    }


def _escaped(text: str) -> str:
    """A text for `command`, in which the kubelet expands `$(NAME)`."""
    return text.replace("$", "$$")
