"""The Jobs of an installation: one makes its secrets, one brings its database up to this version, one makes the token of
its standby engines, where it has such.

All may be run again at any time, by two installers at once. A Job cannot be changed, so its name bears our version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner import __version__
from llmariner.manifests.installation import (
    ADMIN_KEY,
    DATABASE,
    FOUNDATION,
    INSTALLATION_SECONDS,
    LABELS,
    MODELS_NAMESPACE,
    NAMESPACE,
    SECRETS,
    STANDBY,
    Object,
)
from llmariner.manifests.services import SECURITY, image_of

__all__ = ["MIGRATIONS_IMAGE", "SECRETS_IMAGE", "migrations", "secrets", "standby_token"]

# Images of functions that are there anyway: a Job costs no image more.
SECRETS_IMAGE = image_of("api", "cluster", "database")
MIGRATIONS_IMAGE = image_of("api", "database")

# What the secrets Job may touch beside making new ones: a name cannot be part of the right to create.
MADE = (ADMIN_KEY, DATABASE, "llmariner-pgbouncer", "llmariner-postgres", SECRETS)

GROUP = "rbac.authorization.k8s.io"
_KEPT_SECONDS = 3600


def secrets() -> list[Object]:
    """The Job that makes what is missing of the secrets, and the account that may do that and no more."""
    return [
        _account("secrets"),
        *_may_make("secrets", MADE),
        _job("secrets", SECRETS_IMAGE, "128Mi", env=[], token=True),
    ]


def standby_token() -> list[Object]:
    """The Job that makes the word by which standby engines know who may give them a model: one for both namespaces."""
    name = "standby-token"
    models = {"name": "LLMARINER_MODELS_NAMESPACE", "value": MODELS_NAMESPACE}
    return [
        _account(name),
        *_may_make(name, (STANDBY,)),
        *_may_make(name, (STANDBY,), MODELS_NAMESPACE),
        _job(name, SECRETS_IMAGE, "128Mi", env=[models], token=True),
    ]


def _account(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(name),
        "automountServiceAccountToken": True,
    }


def _may_make(account: str, names: Sequence[str], namespace: str = NAMESPACE) -> list[Object]:
    """The right to make secrets, and to read and change those of these names."""
    metadata = {**_metadata(account), "namespace": namespace}
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(names), "verbs": ["get", "patch"]},
    ]
    return [
        {"apiVersion": f"{GROUP}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        },
    ]


def migrations() -> list[Object]:
    """The Job that applies the migrations of this version and registers the first key; it has no right in the cluster."""
    env = [
        _from_secret("LLMARINER_DATABASE_URL", DATABASE),
        _from_secret("LLMARINER_PEPPER", SECRETS),
        _from_secret("LLMARINER_SERVICE_SECRET", SECRETS),
    ]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("migrations")}
    return [
        {**account, "automountServiceAccountToken": False},
        _with_first_key(_job("migrations", MIGRATIONS_IMAGE, "256Mi", env=env, token=False)),
    ]


def _with_first_key(job: Object) -> Object:
    """Mounts the administrator's key where there is one: it is deleted once it is noted."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container["command"].append("--first-key=/run/admin-key/key")
    container["volumeMounts"].append({"name": "admin-key", "mountPath": "/run/admin-key", "readOnly": True})
    pod["volumes"].append({"name": "admin-key", "secret": {"secretName": ADMIN_KEY, "optional": True}})
    return job


def _job(name: str, image: str, memory: str, *, env: list[Object], token: bool) -> Object:
    container = {
        "name": "job",
        "image": image,
        "command": ["python", "-m", "llmariner.installation", name],
        **({"env": env} if env else {}),
        "resources": {"requests": {"cpu": "50m", "memory": memory}, "limits": {"cpu": "1", "memory": memory}},
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    metadata = _metadata(name)
    pod = {
        "serviceAccountName": name,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "priorityClassName": FOUNDATION,
        "restartPolicy": "OnFailure",
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, "name": f"{name}-{__version__.replace('.', '-')}"},
        "spec": {
            "backoffLimit": 20,
            "activeDeadlineSeconds": INSTALLATION_SECONDS,
            # Long enough to be read, gone before the next installation.
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": pod},
        },
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "labels": {**LABELS, "app.kubernetes.io/name": name}}


def _from_secret(variable: str, secret: str) -> Object:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}
