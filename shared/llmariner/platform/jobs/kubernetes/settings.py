"""The settings of jobs on a cluster, from those of jobs and of its pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmariner.environment import Environment
from llmariner.job_settings import CLUSTER_MEMORY_BYTES, JobSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import LOCAL_QUEUES
from llmariner.platform.serving.kserve.objects import GPU_RESOURCES
from llmariner.settings import KServeSettings

__all__ = ["ClusterJobSettings", "load_cluster_settings", "worker_cluster_settings"]


@dataclass(frozen=True)
class ClusterJobSettings:
    """Where and with what jobs run. Those that `JobSettings` has, too, are described there."""

    namespace: str = JobSettings.namespace
    queue: str = ""
    """Kueue's LocalQueue of the pool; empty: without Kueue."""
    images: Mapping[str, str] = field(default_factory=dict)
    """References by name."""
    gpu_resource: str = ""
    """The resource of an accelerator; empty: there is none."""
    cpu: str = JobSettings.cpu
    memory_bytes: int = CLUSTER_MEMORY_BYTES
    disk_bytes: int = JobSettings.disk_bytes
    seconds: float = JobSettings.seconds
    kept_seconds: int = 86_400
    """How long an ended job's pods and output are kept."""
    priority: str = "llmariner-jobs"
    """In the queue: the name of Kueue's class."""
    priority_class: str = JobSettings.priority_class
    program_image: str = ""
    """Of programs of the platform's own."""
    program_volumes: Mapping[str, str] = field(default_factory=dict)
    """The claims that their pods mount, and the paths."""
    hub: str = ""
    """From where they fetch weights; empty: the Hugging Face Hub."""
    output_url: str = ""
    """Of the function that takes the names of what jobs leave, as pods reach it; empty: none is kept."""
    on_worker_cluster: bool = False
    """Whether pods reach the platform from outside."""


def load_cluster_settings(env: Environment, settings: JobSettings, *, output_url: str = "") -> ClusterJobSettings:
    """Jobs use the pool and the hardware of models: `LLMARINER_QUEUE`, `LLMARINER_ACCELERATOR`. `output_url`: as there.

    Raises ValueError that names the invalid variable.
    """
    models = KServeSettings.load(env)
    return ClusterJobSettings(
        namespace=settings.namespace,
        queue=models.queue,
        images=settings.references,
        gpu_resource=GPU_RESOURCES.get(models.accelerator, ""),
        cpu=settings.cpu,
        memory_bytes=settings.cluster_memory_bytes,
        disk_bytes=settings.disk_bytes,
        seconds=settings.seconds,
        program_image=settings.training_image,
        priority_class=settings.priority_class,
        program_volumes=settings.training_volumes,
        hub=env.get("HF_ENDPOINT", ""),
        output_url=output_url,
    )


def worker_cluster_settings(
    env: Environment,
    settings: JobSettings,
    cluster: Cluster,
    *,
    gpus: bool,
    resources: Sequence[str],
    output_url: str,
) -> ClusterJobSettings:
    """Those of jobs on a worker cluster, with or without GPUs. `resources`: of its accelerators. Asks it for its pools.

    Its namespace is that of `sessions.control_plane_roles`; its pools have the names of the platform's own: `cpu`, `nvidia`.
    The PriorityClass of home is not there: a pod that names it would not be admitted.
    """
    made = load_cluster_settings(env, settings, output_url=output_url)
    of_accelerators = [name for name, resource in GPU_RESOURCES.items() if resource in resources]
    namespace, resource = ClusterJobSettings.namespace, next((each for each in resources if each), "")
    names = of_accelerators if gpus else ["cpu", *of_accelerators]
    queue = next((each for each in names if cluster.get(LOCAL_QUEUES, namespace, each) is not None), "")
    made = replace(made, program_volumes={}, priority_class="", on_worker_cluster=True)
    return replace(made, namespace=namespace, queue=queue, gpu_resource=resource)
