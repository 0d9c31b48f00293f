"""A Knative Service for every function and consumer, and the account under which it runs."""

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

__all__ = ["SECURITY", "account", "image", "image_of", "service"]

# The user of the image. Named here too: Kubernetes cannot tell that a user without a number is not root.
USER = 65532

PORT = 8080

# A new revision is not ready before the Secrets are there and the schema is, and what Knative gives up meanwhile stays so
# (unsaid: after 600 s). So it waits as long as the Jobs may, and for what follows their end.
_PROGRESS_SECONDS = INSTALLATION_SECONDS + 600

SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def account(workload: Workload) -> Object:
    """An account per function, so that rights are given to one alone. Without rights there is no token to try."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(workload),
        "automountServiceAccountToken": workload.rights is not None,
    }


def service(workload: Workload) -> Object:
    """The Knative Service, reachable inside the cluster only: the Gateway is the only door."""
    metadata = _metadata(workload)
    metadata["labels"] = {**metadata["labels"], "networking.knative.dev/visibility": "cluster-local"}
    template = {
        "metadata": {"labels": _pod_labels(workload), "annotations": _revision(workload.scale)},
        "spec": {
            "serviceAccountName": workload.name,
            # Knative takes this field to deny a token only; with rights, the account's own word counts.
            **({} if workload.rights else {"automountServiceAccountToken": False}),
            "enableServiceLinks": False,
            "containerConcurrency": workload.concurrency,
            **_timeouts(workload.timeout_seconds),
            "containers": [_container(workload)],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
        },
    }
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"template": template},
    }


def image(workload: Workload) -> str:
    """One image per set of extras and not per function: nodes hold few images, and a cold start rarely pulls one."""
    return image_of(*workload.extras)


def image_of(*extras: str) -> str:
    """The image that holds these extras, given in their order."""
    return f"llmariner/{'-'.join(('function', *extras))}:{__version__}"


def _metadata(workload: Workload) -> Object:
    return {
        "name": workload.name,
        "namespace": NAMESPACE,
        "labels": {**LABELS, "app.kubernetes.io/name": workload.name},
    }


def _pod_labels(workload: Workload) -> dict[str, str]:
    """Network policies know by the second label who may speak to the API server."""
    return {**LABELS, **({"llmariner.ai/kubernetes": workload.rights} if workload.rights else {})}


def _revision(scale: Scale) -> dict[str, str]:
    """What Knative reads of a revision beside its pod."""
    return {**_autoscaling(scale), "serving.knative.dev/progress-deadline": f"{_PROGRESS_SECONDS}s"}


def _autoscaling(scale: Scale) -> dict[str, str]:
    chosen = {
        "min-scale": scale.min,
        "max-scale": scale.max,
        "metric": scale.metric,
        "target": scale.target,
        "target-utilization-percentage": scale.utilization,
        "target-burst-capacity": scale.burst,
    }
    return {f"autoscaling.knative.dev/{key}": str(value) for key, value in chosen.items() if value is not None}


def _timeouts(seconds: int) -> dict[str, int]:
    """One bound, said three times: unsaid, the other two are a cluster's defaults, and the first byte's is 300 s.

    All three count from the request's start until the first byte is written, silence included, so a request that
    waits for a sleeping model without a stream would be cut by the smallest of them.
    """
    return {
        "timeoutSeconds": seconds,
        "responseStartTimeoutSeconds": seconds,
        "idleTimeoutSeconds": seconds,
    }


def _container(workload: Workload) -> Object:
    return {
        "name": "function",
        "image": image(workload),
        "command": ["python", "-m", "llmariner.boot", workload.folder],
        "envFrom": [{"configMapRef": {"name": SETTINGS}}, *_whole_objects(workload)],
        "env": list(_environment(workload)),
        "ports": [{"name": "http1", "containerPort": PORT}],
        **_probes(workload),
        "resources": {"requests": dict(workload.requests), "limits": dict(workload.limits)},
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _probes(workload: Workload) -> Object:
    """Readiness has no period on purpose: Knative then asks every 50 ms, and a cold start ends when it ends.

    Starting is judged by liveness, so that a database that is away delays a copy and does not kill it.
    """
    live, ready = ({"path": path, "port": PORT} for path in (workload.liveness, workload.readiness))
    return {
        "startupProbe": {"httpGet": live, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {"httpGet": live, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3},
        "readinessProbe": {"httpGet": ready},
    }


def _whole_objects(workload: Workload) -> Iterator[Object]:
    for each in workload.variables:
        if each.name is None:
            yield {f"{each.kind}Ref": {"name": each.of}}


def _environment(workload: Workload) -> Iterator[Object]:
    """The secrets that a function of these extras needs, and no other, so that none leaks far; then what it declares."""
    declared = [each for each in workload.variables if each.name is not None]
    names = {each.name for each in declared}
    needed = {"LLMARINER_PEPPER": SECRETS, "LLMARINER_SERVICE_SECRET": SECRETS}
    if "database" in workload.extras:
        needed["LLMARINER_DATABASE_URL"] = DATABASE
    secrets = [Variable(key, kind="secret", of=of, key=key) for key, of in needed.items() if key not in names]
    yield from (_entry(each) for each in (*secrets, *declared))


def _entry(variable: Variable) -> Object:
    if variable.kind is None:
        return {"name": variable.name, "value": variable.value}
    source: dict[str, Any] = {f"{variable.kind}KeyRef": {"name": variable.of, "key": variable.key}}
    return {"name": variable.name, "valueFrom": source}
