"""Kubernetes Secrets of one namespace over the API server's REST interface, with the standard library alone.

The client of Kubernetes would be the largest part of the image of a Job that makes four calls.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmariner.settings import environment

__all__ = ["Found", "SecretObjects", "in_cluster"]

MANAGED = "app.kubernetes.io/managed-by"
MANAGER = "llmariner-secrets"

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 30


@dataclass(frozen=True)
class Found:
    """A Secret as it is; `ours`: made here, and not by an administrator."""

    values: Mapping[str, str]
    ours: bool


class SecretObjects:
    """Secrets of `namespace` at the API server `url`. OSError when it refuses or does not answer."""

    def __init__(self, url: str, namespace: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._path = f"{url}/api/v1/namespaces/{namespace}/secrets"
        self._token = token
        self._tls = tls

    def get(self, name: str) -> Found | None:
        """The Secret, or None where there is none."""
        try:
            body = self._call("GET", f"/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        values = {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}
        return Found(values, ours=body["metadata"].get("labels", {}).get(MANAGED) == MANAGER)

    def create(self, name: str, values: Mapping[str, str]) -> bool:
        """Make it; False when somebody else was quicker, and then theirs counts."""
        try:
            self._call("POST", "", _body(name, values))
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return False
            raise
        return True

    def replace(self, name: str, values: Mapping[str, str]) -> None:
        """Give one of ours other values."""
        self._call("PATCH", f"/{name}", {"data": _encoded(values)})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._path + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS, context=self._tls) as answer:
            return json.load(answer)


def in_cluster() -> SecretObjects:
    """With the account of the pod. OSError outside of a pod."""
    env = environment()
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise OSError("This step runs in a pod: KUBERNETES_SERVICE_HOST is not set.")
    token = (_ACCOUNT / "token").read_text()
    namespace = (_ACCOUNT / "namespace").read_text()
    tls = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    address = f"[{host}]" if ":" in host else host
    return SecretObjects(f"https://{address}:{port}", namespace, token, tls)


def _body(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "llmariner", MANAGED: MANAGER}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": _encoded(values)}


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
