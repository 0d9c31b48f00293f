"""Settings of the tracking servers that fine-tuning jobs send their metrics to. `settings` lists the other settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmariner.environment import Environment

__all__ = ["TrackingSettings"]

_MAX_CHARACTERS = 200
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class TrackingSettings:
    """The servers that a project may name: nothing is sent to any other address."""

    mlflow_servers: tuple[str, ...] = ()
    """`LLMARINER_MLFLOW_SERVERS`: URLs of MLflow servers, separated by commas; the first is the default."""

    wandb_server: str = "https://api.wandb.ai"
    """`LLMARINER_WANDB_SERVER`: URL of the API of Weights & Biases; `off`: nothing is sent there."""

    def servers(self, type_: str) -> tuple[str, ...]:
        """The servers of a type of integration, the default first; none for an unknown type."""
        if type_ == "mlflow":
            return self.mlflow_servers
        return (self.wandb_server,) if type_ == "wandb" and self.wandb_server else ()

    @classmethod
    def load(cls, env: Environment) -> TrackingSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        named = env.get("LLMARINER_MLFLOW_SERVERS", "")
        servers = [_url("LLMARINER_MLFLOW_SERVERS", each.strip()) for each in named.split(",") if each.strip()]
        wandb = env.get("LLMARINER_WANDB_SERVER", "") or cls.wandb_server
        return cls(
            mlflow_servers=tuple(dict.fromkeys(servers)),
            wandb_server="" if wandb == "off" else _url("LLMARINER_WANDB_SERVER", wandb),
        )


def _url(name: str, text: str) -> str:
    try:
        parts = urlsplit(text.rstrip("/"))
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if (
        not usable
        or len(text) > _MAX_CHARACTERS
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not _PATH.fullmatch(parts.path)
    ):
        raise ValueError(
            f"{name} must be an http:// or https:// URL without a user, such as https://host, not {text!r}."
        )
    return parts.geturl()
