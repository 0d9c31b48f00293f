"""Settings of worker clusters: how often their agents report, and how long telemetry is kept."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_number

__all__ = ["WorkerClusterSettings"]

_MISSED = 4


@dataclass(frozen=True)
class WorkerClusterSettings:
    """The intervals that agents follow, and when a cluster counts as disconnected. Times are in seconds."""

    heartbeat_seconds: float = 15.0
    """`LLMARINER_CLUSTER_HEARTBEAT_SECONDS`: time between two heartbeats of an agent."""

    inventory_seconds: float = 60.0
    """`LLMARINER_CLUSTER_INVENTORY_SECONDS`: time between two inventories of a cluster."""

    placement_policy: str = "spread"
    """`LLMARINER_PLACEMENT_POLICY`: which cluster with room a model is woken on: `spread`, `pack` or `cheapest`."""

    spill_seconds: float = 60.0
    """`LLMARINER_SPILL_SECONDS`: how long a model may wait for room on its cluster before another one is tried, too."""

    telemetry_days: float = 400.0
    """`LLMARINER_CLUSTER_TELEMETRY_DAYS`: days for which the hourly telemetry of clusters is kept."""

    lost_seconds: float = 600.0
    """`LLMARINER_CLUSTER_LOST_SECONDS`: after so long without a heartbeat, jobs of a cluster begin again on another one."""

    full_seconds: float = 300.0
    """`LLMARINER_CLUSTER_FULL_SECONDS`: after so long in the line of a cluster, a job goes to another one that has room."""

    reconnect_seconds: float = 1800.0
    """`LLMARINER_TUNNEL_RECONNECT_SECONDS`: after so long an agent replaces a connection; its streams end there.

    At most half of the time that every proxy on the way, Knative among them, gives one request (an hour): then a stream
    lives at least as long as the other half.
    """

    @property
    def stale_seconds(self) -> float:
        """After this long without a heartbeat a cluster is disconnected: four were missed."""
        return _MISSED * self.heartbeat_seconds

    @property
    def least_seconds(self) -> float:
        """A heartbeat that follows the one before sooner is answered and not recorded."""
        return self.heartbeat_seconds / 30

    @property
    def least_report_seconds(self) -> float:
        """Changed jobs of a heartbeat that follows the one before sooner are not taken: each is an event that is kept."""
        return self.heartbeat_seconds / 3

    @classmethod
    def load(cls, env: Environment) -> WorkerClusterSettings:
        """Read from a mapping. Raises ValueError for numbers that are too small."""
        heartbeat = read_number(env, "LLMARINER_CLUSTER_HEARTBEAT_SECONDS", cls.heartbeat_seconds, minimum=1)
        inventory = read_number(env, "LLMARINER_CLUSTER_INVENTORY_SECONDS", cls.inventory_seconds, minimum=1)
        days = read_number(env, "LLMARINER_CLUSTER_TELEMETRY_DAYS", cls.telemetry_days, minimum=1)
        policy = env.get("LLMARINER_PLACEMENT_POLICY") or cls.placement_policy
        if policy not in ("spread", "pack", "cheapest"):
            raise ValueError(f"LLMARINER_PLACEMENT_POLICY must be spread, pack or cheapest, not {policy!r}.")
        spill = read_number(env, "LLMARINER_SPILL_SECONDS", cls.spill_seconds, minimum=1)
        lost = read_number(env, "LLMARINER_CLUSTER_LOST_SECONDS", cls.lost_seconds, minimum=1)
        full = read_number(env, "LLMARINER_CLUSTER_FULL_SECONDS", cls.full_seconds, minimum=1)
        reconnect = read_number(env, "LLMARINER_TUNNEL_RECONNECT_SECONDS", cls.reconnect_seconds, minimum=10)
        return cls(
            heartbeat_seconds=heartbeat,
            inventory_seconds=inventory,
            placement_policy=policy,
            spill_seconds=spill,
            telemetry_days=days,
            lost_seconds=lost,
            full_seconds=full,
            reconnect_seconds=reconnect,
        )
