"""Which cluster an operator means, and what keeps it from answering."""

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

__all__ = ["Unasked", "opened"]

_CONFIG = "~/.kube/config"
_CHOOSE = "name a kubeconfig with --kubeconfig or KUBECONFIG; `kubectl config get-contexts` lists what is in it."


class Unasked(Exception):
    """The cluster could not be asked at all; `next_step` says what to do about it."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@contextmanager
def opened(
    env: Mapping[str, str], *, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None
) -> Iterator[tuple[Cluster, str]]:
    """The API server and the installation's namespace, to be asked within the block. Unasked when that fails.

    The kubeconfig: as given, else LLMARINER_KUBECONFIG, else KUBECONFIG (several files, as kubectl takes them), else
    kubectl's own.
    """
    try:
        settings = ClusterSettings.load({"LLMARINER_NAMESPACE": namespace or env.get("LLMARINER_NAMESPACE", "")})
        files = kubeconfig or env.get("LLMARINER_KUBECONFIG") or env.get("KUBECONFIG") or _CONFIG
        cluster = Cluster(ClusterSettings(_existing(files), settings.namespace, context))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError, OSError) as error:
        raise Unasked(_first_line(error), _CHOOSE) from error
    try:
        yield cluster, settings.namespace
    except Unavailable as error:
        raise Unasked(
            error.message, "`kubectl cluster-info` with the same kubeconfig says whether anything answers there."
        ) from error
    except Forbidden as error:
        raise Unasked(
            f"the cluster does not take these credentials: {error}",
            "renew them (log in again), or choose another --context; `kubectl auth whoami` shows who you are.",
        ) from error
    except ClusterError as error:
        raise Unasked(f"the cluster refuses to be asked: {error}", _CHOOSE) from error
    finally:
        cluster.close()


def _existing(files: str) -> Path:
    """As `load_kube_config` takes it. ValueError when none of the files is there."""
    places = [Path(file).expanduser() for file in files.split(os.pathsep) if file]
    there = [place for place in places if place.is_file()]
    if not there:
        raise ValueError(f"there is no kubeconfig at {', '.join(map(str, places))}.")
    return Path(os.pathsep.join(map(str, there)))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"the kubeconfig can't be read: {text.splitlines()[0]}"
