"""The parts of notebooks, put together."""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmariner.environment import Environment, read_http_url
from llmariner.errors import Unavailable
from llmariner.inference_settings import InferenceSettings
from llmariner.job_settings import JobSettings
from llmariner.notebook_settings import NotebookSettings
from llmariner.notebooks.access import NotebookAccess
from llmariner.notebooks.credentials import Credentials
from llmariner.notebooks.hosts import NotebookHosts
from llmariner.notebooks.notebooks import Notebooks
from llmariner.notebooks.reconciler import NotebookReconciler
from llmariner.platform.database import Database
from llmariner.platform.notebooks import NotebookServers
from llmariner.settings import ClusterSettings, KServeSettings, SecretSettings
from llmariner.tenancy.keys.store import Keys

if TYPE_CHECKING:
    from llmariner.platform.kube import Cluster

__all__ = ["NotebookInstallation"]

_LOOPBACK = ("127.0.0.0/8", "::1/128")


class NotebookInstallation:
    """The store of notebooks, what makes them run, and who may use them.

    `servers`: what runs them, which the standalone mode sets; None: nothing does.
    """

    def __init__(self, database: Database, keys: Keys, secrets: SecretSettings, env: Environment) -> None:
        self._database = database
        self._secrets = secrets
        self._on_cluster = JobSettings.load(env).adapter == "kubernetes"
        self._settings = NotebookSettings.load(env)
        self._credentials = Credentials(
            keys,
            secrets.of_links,
            seconds=self._settings.seconds,
            sources=None if self._on_cluster else _own_networks(InferenceSettings.load(env).url),
        )
        runs_pods = self._on_cluster and self._settings.images
        self.servers: NotebookServers | None = _cluster_servers(env, self._settings) if runs_pods else None

    @property
    def settings(self) -> NotebookSettings:
        """The settings."""
        return self._settings

    def required_servers(self) -> NotebookServers:
        """What runs notebooks. Raises Unavailable in an installation without it."""
        if self.servers is None:
            raise Unavailable(
                "This installation has no image of notebooks: an operator names one with LLMARINER_NOTEBOOK_IMAGES."
                if self._on_cluster
                else "This installation runs no notebooks: `llma up` does on one machine, and a cluster with "
                "LLMARINER_JOBS=kubernetes.",
                code="no_notebooks",
                headers={"x-should-retry": "false"},
            )
        return self.servers

    @cached_property
    def hosts(self) -> NotebookHosts:
        """Where browsers open notebooks."""
        return NotebookHosts(self._settings.url, rewritten=self._on_cluster)

    @cached_property
    def store(self) -> Notebooks:
        """Notebooks."""
        return Notebooks(self._database, self._settings, self._credentials, self.required_servers)

    @cached_property
    def reconciler(self) -> NotebookReconciler:
        """Makes notebooks run."""
        return NotebookReconciler(self._database, self._credentials, self.required_servers)

    @cached_property
    def access(self) -> NotebookAccess:
        """Who may use a notebook."""
        return NotebookAccess(self._database, self._credentials, self._secrets.service)


def _cluster_servers(env: Environment, settings: NotebookSettings) -> NotebookServers:
    """Notebooks as pods, in the pool and with the hardware of models. Who only connects to them needs no API server."""
    from llmariner.platform.notebooks.kubernetes.adapter import KubernetesNotebooks
    from llmariner.platform.notebooks.kubernetes.objects import ClusterNotebookSettings
    from llmariner.platform.serving.kserve.objects import GPU_RESOURCES

    def cluster() -> Cluster:
        from llmariner.platform.kube import Cluster

        return Cluster(ClusterSettings.load(env))

    models = KServeSettings.load(env)
    made = ClusterNotebookSettings(
        namespace=JobSettings.load(env).namespace,
        queue=models.queue,
        images=settings.images,
        gpu_resource=GPU_RESOURCES.get(models.accelerator, ""),
        storage_class=settings.storage_class,
        priority_class=settings.priority_class,
        platform_url=read_http_url(env, "LLMARINER_PUBLIC_URL"),
        idle_seconds=settings.idle_seconds,
        seconds=settings.seconds,
    )
    return KubernetesNotebooks(made, cluster)


def _own_networks(url: str) -> tuple[str, ...]:
    """The networks from which programs of this machine reach the platform at its own URL."""
    host = urlsplit(url).hostname or ""
    try:
        return (*_LOOPBACK, str(ipaddress.ip_network(host)))
    except ValueError:
        return _LOOPBACK
