"""The parts of sessions, from the settings of a process."""

from __future__ import annotations

import socket

from llmariner.clusters.registration_keys import RegistrationKeys
from llmariner.context import Context
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.platform.tunnel import TunnelLimits
from llmariner.sessions.connection_leases import ConnectionLeases
from llmariner.sessions.peers import Peers
from llmariner.sessions.tunnels import Tunnels

__all__ = ["PEER_AUDIENCE", "build_tunnels"]

PEER_AUDIENCE = "sessions-peer"
"""The audience of tokens by which replicas call each other."""


def build_tunnels(context: Context) -> Tunnels:
    """The tunnels of this process. `LLMARINER_REPLICA_URL`: where other replicas reach it; the pod's address by default."""
    limits = TunnelLimits()
    tokens = ServiceTokens(context.secrets.service.reveal(), issuer="sessions", audience=PEER_AUDIENCE)
    url = context.env.get("LLMARINER_REPLICA_URL") or f"http://{_own_address()}:{context.env.get('PORT', '8080')}"
    keys = RegistrationKeys(context.database, context.secrets.pepper)
    leases = ConnectionLeases(context.database)
    return Tunnels(leases, keys, Peers(tokens.token, limits), url, limits)


def _own_address() -> str:
    """The address of this pod: what its own name resolves to."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"
