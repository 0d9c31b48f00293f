"""Settings of the agent in a worker cluster."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llmariner.environment import Environment, read_http_url

__all__ = ["AgentSettings"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NAMESPACE = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")


@dataclass(frozen=True)
class AgentSettings:
    """Where the control plane is, and how the agent proves which cluster it is. `HTTPS_PROXY` and `NO_PROXY` apply."""

    control_plane: str
    """`LLMARINER_AGENT_CONTROL_PLANE`: the control plane's URL, without `/v1`."""

    key_file: Path = Path("/var/run/secrets/llmariner/registration-key")
    """`LLMARINER_AGENT_KEY_FILE`: the file with the registration key. Read at each use: a rotated key needs no restart."""

    ca_file: Path | None = None
    """`LLMARINER_AGENT_CA_FILE`: certificates of authorities that sign the control plane's, besides those of the system."""

    gpu_namespace: str = ""
    """`LLMARINER_AGENT_GPU_NAMESPACE`: the namespace of the GPU operator, where shared GPUs are configured."""

    @classmethod
    def load(cls, env: Environment) -> AgentSettings:
        """Read from a mapping. Raises ValueError for a missing or plain address, or a missing file of certificates."""
        url = read_http_url(env, "LLMARINER_AGENT_CONTROL_PLANE").removesuffix("/v1")
        if not url:
            raise ValueError("LLMARINER_AGENT_CONTROL_PLANE must be the https:// URL of the control plane.")
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK and env.get("LLMARINER_AGENT_PLAIN_HTTP") != "1":
            raise ValueError(
                "LLMARINER_AGENT_CONTROL_PLANE must be an https:// URL: the registration key would be readable on the way. "
                "LLMARINER_AGENT_PLAIN_HTTP=1 allows it, in a network that encrypts by itself."
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("LLMARINER_AGENT_CONTROL_PLANE must be a URL without a user, a query and a fragment.")
        ca_file = Path(env["LLMARINER_AGENT_CA_FILE"]) if env.get("LLMARINER_AGENT_CA_FILE") else None
        if ca_file is not None and not ca_file.is_file():
            raise ValueError(f"LLMARINER_AGENT_CA_FILE must name a file of certificates; there is none at {ca_file}.")
        namespace = env.get("LLMARINER_AGENT_GPU_NAMESPACE", "")
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"LLMARINER_AGENT_GPU_NAMESPACE must be the name of a namespace, not {namespace!r}.")
        key_file = Path(env["LLMARINER_AGENT_KEY_FILE"]) if env.get("LLMARINER_AGENT_KEY_FILE") else cls.key_file
        return cls(url, key_file, ca_file, namespace)

    def registration_key(self) -> str:
        """The present registration key. OSError if the file can't be read."""
        return self.key_file.read_text().strip()

    def tls(self) -> ssl.SSLContext:
        """The system's authorities, and those of `ca_file`."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context
