"""The agent's side of the tunnel: connections to the control plane, and requests on them to the cluster's API server."""

from llmariner.agent.tunnel.api_server import ApiServer
from llmariner.agent.tunnel.connections import TunnelConnections
from llmariner.agent.tunnel.engine_relay import EngineRelay
from llmariner.agent.tunnel.kubernetes_relay import KubernetesRelay

__all__ = ["ApiServer", "EngineRelay", "KubernetesRelay", "TunnelConnections"]
