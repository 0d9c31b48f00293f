"""The clusters of one installation, put together of their parts: a function imports those alone that it uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmariner.cached_once import cached_once
from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.environment import Environment
from llmariner.platform.database import Database
from llmariner.settings import SecretSettings

if TYPE_CHECKING:
    from llmariner.clusters.clusters import Clusters
    from llmariner.clusters.configs import ClusterConfigs
    from llmariner.clusters.heartbeats import Heartbeats, RequestReportedJobs
    from llmariner.clusters.inventory import Inventory
    from llmariner.clusters.registration_keys import RegistrationKeys
    from llmariner.clusters.snapshots import Snapshots
    from llmariner.clusters.status import ClusterStatuses
    from llmariner.sessions.control_plane import RemoteClusters
    from llmariner.sessions.machine.engines import MachineEngine

__all__ = ["ClusterInstallation"]


class ClusterInstallation:
    """`machine`, `engines`: what the machine of the control plane has, and its engines; standalone mode sets them.

    On a cluster an agent reports what it has. `request_reported_jobs`: as of `Heartbeats`.

    Raises ValueError for wrong settings.
    """

    def __init__(
        self,
        database: Database,
        secrets: SecretSettings,
        env: Environment,
        request_reported_jobs: RequestReportedJobs,
    ) -> None:
        self._database = database
        self._request_reported_jobs = request_reported_jobs
        self._pepper = secrets.pepper
        self._service = secrets.service
        self._env = env
        self.settings = WorkerClusterSettings.load(env)
        self.machine: Callable[[], Inventory] | None = None
        self.engines: Callable[[], Sequence[MachineEngine]] | None = None

    @property
    def store(self) -> Clusters:
        """The registered clusters."""
        from llmariner.clusters.clusters import Clusters

        return Clusters(self._database, self._pepper)

    @cached_once
    def remote(self) -> RemoteClusters:
        """Clients of the API servers of clusters, through their agents: `remote.connection_to(cluster_id)`."""
        from llmariner.sessions.control_plane import RemoteClusters

        return RemoteClusters(self._env, self._service)

    @property
    def registration_keys(self) -> RegistrationKeys:
        """Looks up clusters by the keys of their agents."""
        from llmariner.clusters.registration_keys import RegistrationKeys

        return RegistrationKeys(self._database, self._pepper)

    @property
    def configs(self) -> ClusterConfigs:
        """How the GPUs of clusters are shared."""
        from llmariner.clusters.configs import ClusterConfigs

        return ClusterConfigs(self._database)

    @property
    def statuses(self) -> ClusterStatuses:
        """What the agents of clusters reported last."""
        from llmariner.clusters.status import ClusterStatuses

        return ClusterStatuses(self._database, self.settings, self.machine)

    @property
    def heartbeats(self) -> Heartbeats:
        """Records the heartbeats of agents."""
        from llmariner.clusters.heartbeats import Heartbeats

        return Heartbeats(self._database, self.settings, self._request_reported_jobs)

    @property
    def snapshots(self) -> Snapshots:
        """The telemetry of clusters."""
        from llmariner.clusters.snapshots import Snapshots

        return Snapshots(self._database)
