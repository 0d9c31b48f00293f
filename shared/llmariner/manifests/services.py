"""The Knative Service and the service account of each function and consumer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmariner import __version__
from llmariner.manifests.declarations import Scale, Workload
from llmariner.manifests.environment import Variable
from llmariner.manifests.installation import (
    DATABASE,
    INSTALLATION_SECONDS,
    LABELS,
    NAMESPACE,
    SECRETS,
    SETTINGS,
    Object,
)

__all__ = ["SECURITY", "image_name", "knative_service", "service_account", "workload_image"]

# The user of the image, by number because Kubernetes cannot verify that a named user is not root.
USER = 65532

PORT = 8080

# A new revision becomes ready only after the Secrets and the database schema exist, and Knative never retries a revision
# whose deadline passed (default 600 s). So the deadline is that of the Jobs plus the default.
_PROGRESS_DEADLINE_SECONDS = INSTALLATION_SECONDS + 600

SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def service_account(workload: Workload) -> Object:
    """One service account per function, so that a role applies to one function. Without a role no token is mounted."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(workload),
        "automountServiceAccountToken": workload.kubernetes_role is not None,
    }


def knative_service(workload: Workload) -> Object:
    """The Knative Service, visible inside the cluster only: external requests pass the Gateway."""
    metadata = _metadata(workload)
    metadata["labels"] = {**metadata["labels"], "networking.knative.dev/visibility": "cluster-local"}
    template = {
        "metadata": {"labels": _pod_labels(workload), "annotations": _revision_annotations(workload.scale)},
        "spec": {
            "serviceAccountName": workload.name,
            # Knative accepts only `false` in this field; otherwise the service account's setting applies.
            **({} if workload.kubernetes_role else {"automountServiceAccountToken": False}),
            "enableServiceLinks": False,
            "containerConcurrency": workload.concurrency,
            **_timeouts(workload.timeout_seconds),
            "containers": [_container(workload)],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": _scratch_size(workload)}}],
        },
    }
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"template": template},
    }


def _scratch_size(workload: Workload) -> str:
    """The limit of /tmp, beyond which the kubelet evicts the pod. A workload that parses documents copies each there."""
    return "1Gi" if "documents" in workload.extras else "64Mi"


def workload_image(workload: Workload) -> str:
    """The image of a workload: one per set of extras, so that nodes hold few images and cold starts rarely pull one."""
    return image_name(*workload.extras)


def image_name(*extras: str) -> str:
    """The image with these extras, which must be sorted."""
    return f"llmariner/{'-'.join(('function', *extras))}:{__version__}"


def _metadata(workload: Workload) -> Object:
    return {
        "name": workload.name,
        "namespace": NAMESPACE,
        "labels": {**LABELS, "app.kubernetes.io/name": workload.name},
    }


def _pod_labels(workload: Workload) -> dict[str, str]:
    """The pod's labels; network policies select pods with access to the API server by the second one."""
    return {**LABELS, **({"llmariner.ai/kubernetes": workload.kubernetes_role} if workload.kubernetes_role else {})}


def _revision_annotations(scale: Scale) -> dict[str, str]:
    """The annotations of the revision template."""
    return {
        **_autoscaling_annotations(scale),
        "serving.knative.dev/progress-deadline": f"{_PROGRESS_DEADLINE_SECONDS}s",
    }


def _autoscaling_annotations(scale: Scale) -> dict[str, str]:
    values = {
        "min-scale": scale.min,
        "max-scale": scale.max,
        "metric": scale.metric,
        "target": scale.target,
        "target-utilization-percentage": scale.utilization,
        "target-burst-capacity": scale.burst,
        "scale-to-zero-pod-retention-period": None if scale.kept_seconds is None else f"{scale.kept_seconds}s",
    }
    return {f"autoscaling.knative.dev/{key}": str(value) for key, value in values.items() if value is not None}


def _timeouts(seconds: int) -> dict[str, int]:
    """The same limit for all three timeouts: the cluster's defaults of the other two are lower (300 s to the first byte).

    All three run until the first byte is written, so the smallest would cut a request that waits for a sleeping model
    without a stream.
    """
    return {
        "timeoutSeconds": seconds,
        "responseStartTimeoutSeconds": seconds,
        "idleTimeoutSeconds": seconds,
    }


def _container(workload: Workload) -> Object:
    return {
        "name": "function",
        "image": workload_image(workload),
        "command": ["python", "-m", "llmariner.boot", workload.folder],
        "envFrom": [{"configMapRef": {"name": SETTINGS}}, *_env_from(workload)],
        "env": list(_env(workload)),
        "ports": [{"name": "http1", "containerPort": PORT}],
        **_probes(workload),
        "resources": {"requests": dict(workload.requests), "limits": dict(workload.limits)},
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _probes(workload: Workload) -> Object:
    """The probes. Readiness has no period, so that Knative probes every 50 ms and a cold start has no added delay.

    The startup probe checks liveness, so that an unreachable database delays a pod and does not restart it.
    """
    live, ready = ({"path": path, "port": PORT} for path in (workload.liveness, workload.readiness))
    return {
        "startupProbe": {"httpGet": live, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3},
        "readinessProbe": {"httpGet": ready},
    }


def _env_from(workload: Workload) -> Iterator[Object]:
    for each in workload.variables:
        if each.name is None:
            yield {f"{each.object_kind}Ref": {"name": each.object_name}}


def _env(workload: Workload) -> Iterator[Object]:
    """The environment: only the Secret keys that the workload's extras need, then its declared variables."""
    declared = [each for each in workload.variables if each.name is not None]
    names = {each.name for each in declared}
    needed = {"LLMARINER_PEPPER": SECRETS, "LLMARINER_SERVICE_SECRET": SECRETS}
    if "database" in workload.extras:
        needed["LLMARINER_DATABASE_URL"] = DATABASE
    secrets = [
        Variable(key, object_kind="secret", object_name=secret, key=key)
        for key, secret in needed.items()
        if key not in names
    ]
    yield from (_env_entry(each) for each in (*secrets, *declared))


def _env_entry(variable: Variable) -> Object:
    if variable.object_kind is None:
        return {"name": variable.name, "value": variable.value}
    source: dict[str, Any] = {f"{variable.object_kind}KeyRef": {"name": variable.object_name, "key": variable.key}}
    return {"name": variable.name, "valueFrom": source}
