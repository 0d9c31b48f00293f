"""The same tests through the Gateway of a cluster: where its parts are that a test looks at beside the API.

Chosen by `LLMARINER_E2E_CLUSTER=1`; the test cluster is up and the platform installed on it (`make e2e-cluster`).
"""

from __future__ import annotations

import importlib
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .standalone_platform import CHAT_MODEL, Platform

if TYPE_CHECKING:
    from cluster.platform.installed import Installed

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_places = importlib.import_module("...cluster.lab.places", __package__)
_installed = importlib.import_module("...cluster.platform.installed", __package__)
_platform_client = importlib.import_module("...cluster.scenarios.platform_client", __package__)

__all__ = ["ClusterPlatform"]


class ClusterPlatform(Platform):
    """An installed platform: the API by the Gateway, engines and functions by their pods' addresses."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.installed: Installed = _installed.Installed(_places.Lab())
        self.host, self.port = self.installed.address, 80
        self.base_url = self.installed.base_url
        self._key: str = self.installed.api_key
        self.environment |= {"LLMARINER_BASE_URL": self.base_url, "LLMARINER_API_KEY": self._key}

    @property
    def api_key(self) -> str:
        return self._key

    @property
    def database_url(self) -> str:
        return self.installed.database_url

    def up(self) -> float:
        """It is up; models that this suite asks for are registered."""
        self.installed.register_models()
        return 0.0

    def down(self) -> None:
        """Others may use it on."""

    def engine_metric(self, name: str, model: str = CHAT_MODEL) -> int:
        """Without what the platform itself asked the engine at its start."""
        own: int = _platform_client.first_usage(self.installed.engine_url(model)).get(name, 0)
        return super().engine_metric(name, model) - own

    def engine_metrics(self, model: str) -> str:
        with urllib.request.urlopen(f"{self.installed.engine_url(model)}/metrics", timeout=20) as answer:
            counted: str = answer.read().decode()
        return counted

    def gateway_metrics(self) -> str:
        """Of all copies of all functions of the token path."""
        return "\n".join(_metrics(pod) for pod in self.installed.token_path_pods())


def _metrics(pod: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text
