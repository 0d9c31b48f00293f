"""The parts of notebooks, put together."""

from __future__ import annotations

import ipaddress
from functools import cached_property
from urllib.parse import urlsplit

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.inference_settings import InferenceSettings
from llmariner.notebook_settings import NotebookSettings
from llmariner.notebooks.access import NotebookAccess
from llmariner.notebooks.credentials import Credentials
from llmariner.notebooks.notebooks import Notebooks
from llmariner.notebooks.reconciler import NotebookReconciler
from llmariner.platform.database import Database
from llmariner.platform.notebooks import NotebookServers
from llmariner.settings import SecretSettings
from llmariner.tenancy.keys.store import Keys

__all__ = ["NotebookInstallation"]

_LOOPBACK = ("127.0.0.0/8", "::1/128")


class NotebookInstallation:
    """The store of notebooks, what makes them run, and who may use them. `servers`: what runs them, None: nothing does."""

    def __init__(self, database: Database, keys: Keys, secrets: SecretSettings, env: Environment) -> None:
        self._database = database
        self._secrets = secrets
        self._settings = NotebookSettings.load(env)
        self._credentials = Credentials(
            keys,
            secrets.of_links,
            seconds=self._settings.seconds,
            sources=_own_networks(InferenceSettings.load(env).url),
        )
        self.servers: NotebookServers | None = None

    @property
    def settings(self) -> NotebookSettings:
        """The settings."""
        return self._settings

    def required_servers(self) -> NotebookServers:
        """What runs notebooks. Raises Unavailable in an installation without it."""
        if self.servers is None:
            raise Unavailable(
                "This installation runs no notebooks: only a platform on one machine does, which `llma up` starts.",
                code="no_notebooks",
                headers={"x-should-retry": "false"},
            )
        return self.servers

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


def _own_networks(url: str) -> tuple[str, ...]:
    """The networks from which programs of this machine reach the platform at its own URL."""
    host = urlsplit(url).hostname or ""
    try:
        return (*_LOOPBACK, str(ipaddress.ip_network(host)))
    except ValueError:
        return _LOOPBACK
