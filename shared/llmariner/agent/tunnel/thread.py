"""The tunnel beside the agent's heartbeats: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping

from llmariner.agent.tunnel.api_server import ApiServer
from llmariner.agent.tunnel.connections import TunnelConnections
from llmariner.agent.tunnel.engine_relay import EngineRelay
from llmariner.agent.tunnel.kubernetes_relay import KubernetesRelay
from llmariner.agent_settings import AgentSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.tunnel.engine_paths import PREFIX
from llmariner.platform.tunnel.http2 import Handler
from llmariner.platform.tunnel.stream import Stream

__all__ = ["relay_by_path", "start_tunnel"]

_log = logging.getLogger(__name__)


def relay_by_path(kubernetes: Handler, engines: Handler) -> Handler:
    """The handler of a connection: requests for engines have paths of their own."""

    async def handle(stream: Stream) -> None:
        relay = engines if stream.field(b":path").startswith(PREFIX) else kubernetes
        await relay(stream)

    return handle


def start_tunnel(settings: AgentSettings, env: Mapping[str, str], cluster: Cluster) -> TunnelConnections | None:
    """Keep connections to the control plane open until the process ends. None outside of a cluster."""
    try:
        server = ApiServer.in_cluster(env)
    except (ValueError, OSError) as error:
        _log.warning("people can't reach this cluster through the platform: %s", error)
        return None
    tls = settings.tls() if settings.control_plane.startswith("https:") else None
    relay = relay_by_path(KubernetesRelay(server), EngineRelay(cluster))
    connections = TunnelConnections(settings.control_plane, settings.registration_key, relay, tls=tls)
    threading.Thread(target=lambda: asyncio.run(connections.run()), name="tunnel", daemon=True).start()
    return connections
