"""The jobs adapter of an installation on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmariner.environment import Environment
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.jobs import Jobs
from llmariner.settings import ClusterSettings

if TYPE_CHECKING:
    from llmariner.files.links import FileLinks

__all__ = ["cluster_jobs"]


def cluster_jobs(env: Environment, database: Database, links: Callable[[], FileLinks]) -> Jobs:
    """Jobs of Kubernetes, whose pods fetch data files by `links`. Raises Unavailable in an installation without them."""
    settings = JobSettings.load(env)
    if settings.adapter != "kubernetes":
        raise settings.missing()
    from llmariner.batch_jobs.data_links import DataLinks
    from llmariner.inference_settings import InferenceSettings
    from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
    from llmariner.platform.jobs.kubernetes.settings import load_cluster_settings
    from llmariner.platform.kube import Cluster

    url = InferenceSettings.load(env).url.replace("{function}", "files")
    cluster = Cluster(ClusterSettings.load(env))
    return KubernetesJobs(cluster, load_cluster_settings(env, settings), DataLinks(database, links, url))
