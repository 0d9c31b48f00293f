"""The Kubernetes Secrets of one namespace as plain strings; those created here carry a managed-by label."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists
from llmariner.platform.kube.resources import SECRETS

__all__ = ["SecretObjects", "StoredSecret"]

_MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
_MANAGED_BY = "llmariner-secrets"


@dataclass(frozen=True)
class StoredSecret:
    """The values of a Secret; `is_managed`: this program created it, not an administrator."""

    values: Mapping[str, str]
    is_managed: bool


class SecretObjects:
    """The Secrets of `namespace`."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def get(self, name: str) -> StoredSecret | None:
        """The Secret, or None where there is none."""
        body = self._cluster.get(SECRETS, self._namespace, name)
        if body is None:
            return None
        values = {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}
        return StoredSecret(values, is_managed=body["metadata"].get("labels", {}).get(_MANAGED_BY_LABEL) == _MANAGED_BY)

    def create(self, name: str, values: Mapping[str, str]) -> bool:
        """Create the Secret; False when it already exists, which leaves it unchanged."""
        labels = {"app.kubernetes.io/part-of": "llmariner", _MANAGED_BY_LABEL: _MANAGED_BY}
        metadata = {"name": name, "namespace": self._namespace, "labels": labels}
        kind = {"apiVersion": SECRETS.api_version, "kind": SECRETS.kind}
        try:
            self._cluster.create({**kind, "metadata": metadata, "type": "Opaque", "data": _encoded(values)})
        except AlreadyExists:
            return False
        return True

    def replace(self, name: str, values: Mapping[str, str]) -> None:
        """Overwrite the values of a managed Secret."""
        self._cluster.merge_patch(SECRETS, self._namespace, name, {"data": _encoded(values)})


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
