"""`python -m llmariner.agent`: the agent of a worker cluster, until it gets SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from llmariner.agent.control_plane import ControlPlane
from llmariner.agent.gpu_config import GpuSharing
from llmariner.agent.heartbeat_loop import HeartbeatLoop
from llmariner.agent.tunnel.thread import start_tunnel
from llmariner.agent_settings import AgentSettings
from llmariner.environment import environment
from llmariner.platform.kube import Cluster
from llmariner.settings import ClusterSettings


def main() -> int:
    """Run; 2 for settings that are wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    env, stop = environment(), threading.Event()
    try:
        settings = AgentSettings.load(env)
        cluster = Cluster(ClusterSettings.load(env))
        control_plane = ControlPlane(settings)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tunnel = start_tunnel(settings, env, cluster)
    sharing = GpuSharing(cluster, settings.gpu_namespace)
    HeartbeatLoop(cluster, control_plane, sharing, lambda: tunnel is not None and tunnel.is_open).run(stop)
    return 0


sys.exit(main())
