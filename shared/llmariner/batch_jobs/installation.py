"""The jobs adapter of an installation on a cluster, and what takes the files that its jobs leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmariner.clusters.inventory import Inventory
from llmariner.environment import Environment
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.jobs import Jobs
from llmariner.settings import ClusterSettings

if TYPE_CHECKING:
    from llmariner.batch_jobs.job_tokens import JobTokens
    from llmariner.batch_jobs.result_uploads import ResultUploads
    from llmariner.clusters.installation import ClusterInstallation
    from llmariner.clusters.status import ClusterStatus
    from llmariner.files.files import Files
    from llmariner.files.links import FileLinks
    from llmariner.files.upload_links import UploadLinks
    from llmariner.job_placement.worker_clusters import WorkerClusters

__all__ = ["cluster_jobs", "result_uploads", "worker_clusters"]


def cluster_jobs(
    env: Environment, database: Database, links: Callable[[], FileLinks], tokens: Callable[[], JobTokens]
) -> Jobs:
    """Jobs of Kubernetes, whose pods fetch data files by `links`, and say by `tokens` what they leave.

    Raises Unavailable in an installation without them.
    """
    settings = JobSettings.load(env)
    if settings.adapter != "kubernetes":
        raise settings.missing()
    from llmariner.batch_jobs.data_links import DataLinks
    from llmariner.inference_settings import InferenceSettings
    from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
    from llmariner.platform.jobs.kubernetes.settings import load_cluster_settings
    from llmariner.platform.kube import Cluster

    url = InferenceSettings.load(env).url
    cluster = Cluster(ClusterSettings.load(env))
    made = load_cluster_settings(env, settings, output_url=url.replace("{function}", "batch-jobs-results"))
    data_links = DataLinks(database, links, url.replace("{function}", "files"))
    return KubernetesJobs(cluster, made, data_links, lambda job_id: tokens().issue(job_id))


def worker_clusters(
    env: Environment,
    database: Database,
    clusters: ClusterInstallation,
    links: Callable[[], FileLinks],
    tokens: Callable[[], JobTokens],
) -> WorkerClusters:
    """The worker clusters on which jobs may run, in their namespace of the same name everywhere."""
    from llmariner.batch_jobs.placement import placed_gpus
    from llmariner.job_placement.worker_clusters import WorkerClusters

    settings = JobSettings.load(env)

    def make_port(cluster_id: str, status: ClusterStatus, gpus: bool) -> Jobs:
        from llmariner.batch_jobs.data_links import DataLinks
        from llmariner.job_placement.worker_clusters import control_plane_url
        from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
        from llmariner.platform.jobs.kubernetes.settings import worker_cluster_settings

        url, cluster = control_plane_url(status), clusters.remote.connection_to(cluster_id)
        resources = [each.gpu_resource for each in (status.inventory or Inventory()).products]
        made = worker_cluster_settings(env, settings, cluster, gpus=gpus, resources=resources, output_url=url)
        return KubernetesJobs(cluster, made, DataLinks(database, links, url), lambda job_id: tokens().issue(job_id))

    return WorkerClusters(
        database,
        clusters.statuses,
        make_port,
        images=settings.references,
        lost_seconds=clusters.settings.lost_seconds,
        placed_gpus=placed_gpus,
    )


def result_uploads(
    env: Environment,
    database: Database,
    clusters: ClusterInstallation,
    files: Callable[[], Files],
    links: Callable[[], UploadLinks],
) -> ResultUploads:
    """What takes the files that pods of jobs leave."""
    from llmariner.batch_jobs.result_uploads import ResultUploads
    from llmariner.inference_settings import InferenceSettings
    from llmariner.job_placement.worker_clusters import control_plane_url

    home = InferenceSettings.load(env).url.replace("{function}", "files")

    def url(cluster_id: str | None) -> str:
        if cluster_id is None:
            return home
        status = clusters.statuses.of([cluster_id]).get(cluster_id)
        return home if status is None else control_plane_url(status)

    return ResultUploads(database, files, links, url, JobSettings.load(env).disk_bytes)
