"""The loop of the agent: report, do what the answer says, wait as long as it says.

A control plane that is away, or refuses the key, is asked again: sooner at first, then every minute. The waits are measured
by a clock that does not jump, and no time of the control plane's is compared with the machine's.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from llmariner import __version__
from llmariner.agent.changed_jobs import ChangedJobs
from llmariner.agent.components import component_statuses, kubernetes_version
from llmariner.agent.control_plane import NotReached, Refused
from llmariner.agent.gpu_config import GpuSharing
from llmariner.agent.nodes import read_inventory
from llmariner.clusters.inventory import Inventory
from llmariner.errors import PlatformError
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError

__all__ = ["PROTOCOL_VERSION", "HeartbeatLoop", "Reporter"]

PROTOCOL_VERSION = 1
"""See `clusters.heartbeats`, which this module does not import: it needs no database."""
_log = logging.getLogger(__name__)
# What an answer may ask for, in seconds: neither a flood nor silence.
_SHORTEST, _LONGEST = 1.0, 3600.0
_DEFAULT_INTERVAL, _DEFAULT_INVENTORY = 15.0, 60.0
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0


class Reporter(Protocol):
    """What sends a heartbeat: `control_plane.ControlPlane`. `url`: of the control plane."""

    url: str

    def report(self, heartbeat: dict[str, Any]) -> dict[str, Any]:
        """Send it; returns the answer. Raises NotReached, Refused."""


class HeartbeatLoop:
    """One cluster's heartbeats, in one thread. `is_reachable`: whether the control plane's requests reach the cluster now.

    Without that it could not read the Jobs that a heartbeat names: they are named later.
    """

    def __init__(
        self, cluster: Cluster, control_plane: Reporter, sharing: GpuSharing, is_reachable: Callable[[], bool]
    ) -> None:
        self._cluster = cluster
        self._control_plane = control_plane
        self._sharing = sharing
        self._is_reachable = is_reachable
        self._changed_jobs = ChangedJobs(cluster)
        self._inventory_seconds = _DEFAULT_INVENTORY
        self._inventory_due = 0.0
        self._last_inventory: Inventory | None = None
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Report until `stop` is set."""
        while not stop.wait(self.beat()):
            pass

    def beat(self) -> float:
        """Report once; returns how many seconds to wait."""
        try:
            heartbeat = self._heartbeat()
            answer = self._control_plane.report(heartbeat)
        except (NotReached, Refused) as error:
            return self._retry(error)
        if self._failures:
            _log.info("the control plane answers again")
        self._failures = 0
        if "inventory" in heartbeat:
            self._inventory_due = time.monotonic() + self._inventory_seconds
        self._changed_jobs.answered(heartbeat.get("changed_jobs", ()), answer)
        self._sharing.apply(answer.get("device_plugin_config"))
        self._inventory_seconds = _seconds(answer, "inventory_interval_seconds", _DEFAULT_INVENTORY)
        return _seconds(answer, "heartbeat_interval_seconds", _DEFAULT_INTERVAL)

    def _heartbeat(self) -> dict[str, Any]:
        inventory: Inventory | None = None
        problem = version = ""
        try:
            version = kubernetes_version(self._cluster)
            if time.monotonic() >= self._inventory_due:
                inventory = self._last_inventory = read_inventory(self._cluster)
        except (ClusterError, PlatformError) as error:
            problem = f"The cluster's API server can't be read: {error}"
        heartbeat: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "agent_version": __version__,
            "kubernetes_version": version,
            "sent_at": time.time(),
            "control_plane_url": self._control_plane.url,
            "components": component_statuses(self._cluster, self._last_inventory, problem),
        }
        heartbeat |= {} if inventory is None else {"inventory": inventory.to_json()}
        changed = self._changed_jobs.names() if self._is_reachable() and not problem else []
        heartbeat |= {"changed_jobs": changed} if changed else {}
        return heartbeat | ({} if self._sharing.result is None else {"config": self._sharing.result})

    def _retry(self, error: NotReached | Refused) -> float:
        self._failures += 1
        _log.warning("heartbeat %d in vain: %s", self._failures, error)
        wait = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(self._failures - 1, 10))
        # Agents that lost the same control plane do not come back at once.
        return wait * random.uniform(0.5, 1.0)


def _seconds(answer: dict[str, Any], name: str, default: float) -> float:
    value = answer.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _SHORTEST <= value <= _LONGEST:
        return default
    return float(value)
