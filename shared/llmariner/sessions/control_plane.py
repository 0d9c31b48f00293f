"""Requests of the control plane itself to the API servers of clusters: how functions send them, and what `sessions` takes.

The function `sessions` passes them on to the agent of a cluster as one user, whose rights the cluster's administrator gives
or does not give (`control_plane_roles`). A path outside of `/v1` is in no route of the Gateway.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import quote

from llmariner.environment import Environment
from llmariner.errors import InvalidRequest, Unavailable
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.inference_settings import InferenceSettings
from llmariner.sessions.roles import CONTROL_PLANE_USER
from llmariner.settings import Secret

if TYPE_CHECKING:
    from llmariner.platform.kube import Cluster

__all__ = ["CONTROL_PLANE_AUDIENCE", "MAX_BODY_BYTES", "METHODS", "RemoteClusters", "identity_fields", "target_of"]

CONTROL_PLANE_AUDIENCE = "sessions-control-plane"
"""The audience of tokens by which functions send requests to clusters."""
METHODS = ("GET", "POST", "PATCH", "DELETE")
MAX_BODY_BYTES = 3 * 1024 * 1024
"""As the API server's own limit."""
_TARGET = re.compile(
    rb"/internal/sessions/[A-Za-z0-9_-]{1,64}/kubernetes(/apis?(?:/[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?){1,9})"
)
_QUERY = re.compile(rb"[!-\"$-~]{0,16384}")
_CLIENTS = 100


def target_of(raw_path: bytes, query: bytes) -> bytes:
    """Path and query for the API server, of a request below `/internal/sessions/{cluster_id}/kubernetes`.

    Raises InvalidRequest for a path that is not plain.
    """
    match = _TARGET.fullmatch(raw_path)
    if match is None or not _QUERY.fullmatch(query):
        raise InvalidRequest("Name a path of Kubernetes' API, with nothing percent-encoded.", code="invalid_path")
    return match[1] + b"?" + query if query else match[1]


def identity_fields(function: str) -> list[tuple[bytes, bytes]]:
    """Who asks, in the fields of Kubernetes' impersonation. `function`: the caller, for the cluster's own audit log."""
    person = quote(f"function/{function}", safe="/-_.").encode()
    return [
        (b"impersonate-user", CONTROL_PLANE_USER.encode()),
        (b"impersonate-extra-llmariner.ai%2fuser", person),
    ]


class RemoteClusters:
    """Clients of the API servers of clusters, through the function `sessions`. Thread-safe."""

    def __init__(self, env: Environment, service_secret: Secret) -> None:
        self._url = InferenceSettings.load(env).url.replace("{function}", "sessions").rstrip("/")
        issuer = env.get("K_SERVICE") or "platform"
        self._tokens = ServiceTokens(service_secret.reveal(), issuer=issuer, audience=CONTROL_PLANE_AUDIENCE)
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, Cluster] = OrderedDict()

    def connection_to(self, cluster_id: str) -> Cluster:
        """A client of a cluster's API server; it is shared, and stays open. It opens no connection by itself.

        Its calls raise Unavailable while the cluster is away, Forbidden where its administrator lets only people in.
        """
        if not self._url:
            raise Unavailable(
                "This installation can't reach other clusters: an operator sets LLMARINER_INFERENCE_URL.",
                code="no_cluster_access",
                headers={"x-should-retry": "false"},
            )
        with self._lock:
            if (found := self._clients.get(cluster_id)) is None:
                found = self._clients[cluster_id] = self._client(cluster_id)
                if len(self._clients) > _CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(cluster_id)
            return found

    def _client(self, cluster_id: str) -> Cluster:
        from llmariner.platform.kube import Cluster
        from llmariner.platform.kube.remote_server import RemoteServer

        url = f"{self._url}/internal/sessions/{quote(cluster_id, safe='')}/kubernetes"
        return Cluster(RemoteServer(url, self._tokens.token))
