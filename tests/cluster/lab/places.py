"""Where the test cluster keeps things, and the addresses it uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Lab", "cache", "chosen"]


def cache() -> Path:
    """What is built once: below the platform's own cache folder."""
    home = os.environ.get("LLMARINER_CACHE") or Path.home() / ".cache" / "llmariner"
    return Path(home) / "cluster"


def chosen() -> Lab:
    """The cluster with the platform that scenarios use: LLMARINER_TEST_CLUSTER has its number, by default 0."""
    return Lab(int(os.environ.get("LLMARINER_TEST_CLUSTER", "0")))


@dataclass(frozen=True)
class Lab:
    """One cluster of this machine. `number` (0 or 1) keeps the networks of two clusters apart."""

    number: int = 0

    @property
    def name(self) -> str:
        """The name of its network namespace, control groups and host interface (at most 15 characters)."""
        return f"llmlab{self.number}"

    @property
    def folder(self) -> Path:
        """All that lives only while the cluster runs. A short path: sockets in it must stay below 108 characters."""
        return cache() / f"run{self.number}"

    @property
    def logs(self) -> Path:
        """One log per part."""
        return self.folder / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's configuration, for the host and for the cluster's own processes."""
        return self.folder / "kubeconfig"

    @property
    def certificates(self) -> Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def containerd(self) -> Path:
        """The container runtime's socket."""
        return self.folder / "containerd.sock"

    @property
    def namespace(self) -> Path:
        """The network namespace in which everything runs."""
        return Path("/run/netns") / self.name

    @property
    def host_address(self) -> str:
        """This machine's end of the link to the cluster."""
        return f"172.31.{240 + self.number}.1"

    @property
    def address(self) -> str:
        """The node's address: the API server listens here, and so do ports that pods ask of the node."""
        return f"172.31.{240 + self.number}.2"

    @property
    def server(self) -> str:
        """The API server."""
        return f"https://{self.address}:6443"

    @property
    def pods(self) -> str:
        """The pods' network."""
        return f"10.{244 + self.number}.0.0/16"

    @property
    def services(self) -> str:
        """The services' network."""
        return f"10.{96 + self.number}.0.0/16"

    def service(self, last: int) -> str:
        """One fixed address of the services' network: 1 is the API server's, 10 the name server's."""
        return f"10.{96 + self.number}.0.{last}"
