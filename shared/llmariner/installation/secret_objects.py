"""Kubernetes Secrets of one namespace, as plain strings; those made here bear a label that says so."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists
from llmariner.platform.kube.resources import SECRETS

__all__ = ["Found", "SecretObjects"]

_MANAGED = "app.kubernetes.io/managed-by"
_MANAGER = "llmariner-secrets"


@dataclass(frozen=True)
class Found:
    """A Secret as it is; `ours`: made here, and not by an administrator."""

    values: Mapping[str, str]
    ours: bool


class SecretObjects:
    """The Secrets of `namespace`."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def get(self, name: str) -> Found | None:
        """The Secret, or None where there is none."""
        body = self._cluster.get(SECRETS, self._namespace, name)
        if body is None:
            return None
        values = {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}
        return Found(values, ours=body["metadata"].get("labels", {}).get(_MANAGED) == _MANAGER)

    def create(self, name: str, values: Mapping[str, str]) -> bool:
        """Make it; False when somebody else was quicker, and then theirs counts."""
        labels = {"app.kubernetes.io/part-of": "llmariner", _MANAGED: _MANAGER}
        metadata = {"name": name, "namespace": self._namespace, "labels": labels}
        kind = {"apiVersion": SECRETS.api_version, "kind": SECRETS.kind}
        try:
            self._cluster.create({**kind, "metadata": metadata, "type": "Opaque", "data": _encoded(values)})
        except AlreadyExists:
            return False
        return True

    def replace(self, name: str, values: Mapping[str, str]) -> None:
        """Give one of ours other values."""
        self._cluster.merge_patch(SECRETS, self._namespace, name, {"data": _encoded(values)})


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
