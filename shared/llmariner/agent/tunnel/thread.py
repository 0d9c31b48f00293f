"""The tunnel beside the agent's heartbeats: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping

from llmariner.agent.tunnel.api_server import ApiServer
from llmariner.agent.tunnel.connections import TunnelConnections
from llmariner.agent.tunnel.kubernetes_relay import KubernetesRelay
from llmariner.agent_settings import AgentSettings

__all__ = ["start_tunnel"]

_log = logging.getLogger(__name__)


def start_tunnel(settings: AgentSettings, env: Mapping[str, str]) -> threading.Thread | None:
    """Keep connections to the control plane open until the process ends. None outside of a cluster."""
    try:
        server = ApiServer.in_cluster(env)
    except (ValueError, OSError) as error:
        _log.warning("people can't reach this cluster through the platform: %s", error)
        return None
    thread = threading.Thread(target=lambda: asyncio.run(_run(settings, server)), name="tunnel", daemon=True)
    thread.start()
    return thread


async def _run(settings: AgentSettings, server: ApiServer) -> None:
    tls = settings.tls() if settings.control_plane.startswith("https:") else None
    relay = KubernetesRelay(server)
    await TunnelConnections(settings.control_plane, settings.registration_key, relay, tls=tls).run()
