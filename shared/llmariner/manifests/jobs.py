"""The Jobs of an installation: secrets, database migrations, and the token of standby engines.

All are idempotent and safe to run concurrently. A Job is immutable, so its name includes the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner import __version__
from llmariner.manifests.installation import (
    ADMIN_KEY,
    DATABASE,
    INSTALLATION_SECONDS,
    LABELS,
    MODELS_NAMESPACE,
    NAMESPACE,
    PRIORITY_CLASS,
    SECRETS,
    STANDBY,
    Object,
)
from llmariner.manifests.services import SECURITY, image_name

__all__ = ["MIGRATIONS_IMAGE", "SECRETS_IMAGE", "migrations", "secrets", "standby_token"]

# Images that functions use as well, so that Jobs need no additional image.
SECRETS_IMAGE = image_name("api", "cluster", "database")
MIGRATIONS_IMAGE = image_name("api", "database")

# The Secrets that the Job may read and change; RBAC cannot restrict `create` by name.
MANAGED_SECRETS = (ADMIN_KEY, DATABASE, "llmariner-pgbouncer", "llmariner-postgres", SECRETS)

RBAC_GROUP = "rbac.authorization.k8s.io"
_TTL_SECONDS = 3600


def secrets() -> list[Object]:
    """The Job that creates missing Secrets, with its account and the least role for that."""
    return [
        _service_account("secrets"),
        *_secret_writer("secrets", MANAGED_SECRETS),
        _job("secrets", SECRETS_IMAGE, "128Mi", env=[], token=True),
    ]


def standby_token() -> list[Object]:
    """The Job that creates the token of standby engines in both namespaces, with its account and roles."""
    name = "standby-token"
    models = {"name": "LLMARINER_MODELS_NAMESPACE", "value": MODELS_NAMESPACE}
    return [
        _service_account(name),
        *_secret_writer(name, (STANDBY,)),
        *_secret_writer(name, (STANDBY,), MODELS_NAMESPACE),
        _job(name, SECRETS_IMAGE, "128Mi", env=[models], token=True),
    ]


def _service_account(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(name),
        "automountServiceAccountToken": True,
    }


def _secret_writer(account: str, names: Sequence[str], namespace: str = NAMESPACE) -> list[Object]:
    """A role that may create Secrets, and read and change those of these names, with its binding."""
    metadata = {**_metadata(account), "namespace": namespace}
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(names), "verbs": ["get", "patch"]},
    ]
    return [
        {"apiVersion": f"{RBAC_GROUP}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{RBAC_GROUP}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        },
    ]


def migrations() -> list[Object]:
    """The Job that migrates the database and registers the first key; it has no access to the Kubernetes API."""
    env = [
        _env_from_secret("LLMARINER_DATABASE_URL", DATABASE),
        _env_from_secret("LLMARINER_PEPPER", SECRETS),
        _env_from_secret("LLMARINER_SERVICE_SECRET", SECRETS),
    ]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("migrations")}
    return [
        {**account, "automountServiceAccountToken": False},
        _with_first_key(_job("migrations", MIGRATIONS_IMAGE, "256Mi", env=env, token=False)),
    ]


def _with_first_key(job: Object) -> Object:
    """Mount the administrator's key; the Secret is optional because the administrator deletes it."""
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
        "priorityClassName": PRIORITY_CLASS,
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
            # Long enough for its logs to be read, short enough to be gone at the next installation.
            "ttlSecondsAfterFinished": _TTL_SECONDS,
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": pod},
        },
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "labels": {**LABELS, "app.kubernetes.io/name": name}}


def _env_from_secret(variable: str, secret: str) -> Object:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}
