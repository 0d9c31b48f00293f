"""Opens the cluster that a kubeconfig selects, and translates connection errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from llmariner.errors import Unavailable
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Forbidden
from llmariner.settings import ClusterSettings

__all__ = ["ClusterAccessError", "open_cluster"]

_CONFIG = "~/.kube/config"
_KUBECONFIG_NEXT_STEP = (
    "name a kubeconfig with --kubeconfig or KUBECONFIG; `kubectl config get-contexts` lists what is in it."
)


class ClusterAccessError(Exception):
    """The cluster cannot be reached or refuses the credentials; `next_step` says what to do about it."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@contextmanager
def open_cluster(
    env: Mapping[str, str], *, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None
) -> Iterator[tuple[Cluster, str]]:
    """Yields the API server's client and the installation's namespace. Raises ClusterAccessError.

    The kubeconfig is `kubeconfig`, else LLMARINER_KUBECONFIG, else KUBECONFIG (several files, as for kubectl), else
    kubectl's default.
    """
    try:
        settings = ClusterSettings.load({"LLMARINER_NAMESPACE": namespace or env.get("LLMARINER_NAMESPACE", "")})
        files = kubeconfig or env.get("LLMARINER_KUBECONFIG") or env.get("KUBECONFIG") or _CONFIG
        cluster = Cluster(ClusterSettings(_existing_files(files), settings.namespace, context))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError, OSError) as error:
        raise ClusterAccessError(_first_line(error), _KUBECONFIG_NEXT_STEP) from error
    try:
        yield cluster, settings.namespace
    except Unavailable as error:
        raise ClusterAccessError(
            error.message, "`kubectl cluster-info` with the same kubeconfig says whether anything answers there."
        ) from error
    except Forbidden as error:
        raise ClusterAccessError(
            f"the cluster does not take these credentials: {error}",
            "renew them (log in again), or choose another --context; `kubectl auth whoami` shows who you are.",
        ) from error
    except ClusterError as error:
        raise ClusterAccessError(f"the cluster refuses to be asked: {error}", _KUBECONFIG_NEXT_STEP) from error
    finally:
        cluster.close()


def _existing_files(files: str) -> Path:
    """The existing files, joined as `load_kube_config` expects them. ValueError when none exists."""
    paths = [Path(file).expanduser() for file in files.split(os.pathsep) if file]
    existing = [path for path in paths if path.is_file()]
    if not existing:
        raise ValueError(f"there is no kubeconfig at {', '.join(map(str, paths))}.")
    return Path(os.pathsep.join(map(str, existing)))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"the kubeconfig can't be read: {text.splitlines()[0]}"
