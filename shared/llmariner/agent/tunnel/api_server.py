"""Where the API server of a cluster is, and how the agent identifies itself there."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ApiServer"]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The kubelet replaces the token's file long before the token expires.
_TOKEN_SECONDS = 60.0


@dataclass
class ApiServer:
    """`tls` None: plain HTTP, for tests. `token_file`: read again every minute, since the kubelet replaces it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    token_file: Path
    _token: str = field(default="", repr=False)
    _read_at: float = -_TOKEN_SECONDS

    @classmethod
    def in_cluster(cls, env: Mapping[str, str], folder: Path = _SERVICE_ACCOUNT) -> ApiServer:
        """The API server of the cluster that this pod runs in. ValueError outside of one."""
        try:
            host, port = env["KUBERNETES_SERVICE_HOST"], int(env["KUBERNETES_SERVICE_PORT"])
        except KeyError as error:
            raise ValueError(f"The agent runs in a pod of the worker cluster: {error} is not set.") from error
        return cls(host, port, ssl.create_default_context(cafile=str(folder / "ca.crt")), folder / "token")

    def token(self) -> str:
        """The token of the agent's service account."""
        if time.monotonic() - self._read_at > _TOKEN_SECONDS:
            self._token, self._read_at = self.token_file.read_text().strip(), time.monotonic()
        return self._token
