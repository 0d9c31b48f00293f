"""The settings of jobs on a cluster, from those of jobs and of its pools."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.job_settings import JobSettings
from llmariner.platform.jobs.kubernetes.objects import ClusterJobSettings
from llmariner.platform.serving.kserve.objects import GPU_RESOURCES
from llmariner.settings import KServeSettings

__all__ = ["load_cluster_settings"]


def load_cluster_settings(env: Environment, settings: JobSettings, *, output_url: str = "") -> ClusterJobSettings:
    """Jobs use the pool and the hardware of models: `LLMARINER_QUEUE`, `LLMARINER_ACCELERATOR`. `output_url`: as there.

    Raises ValueError that names the invalid variable.
    """
    models = KServeSettings.load(env)
    defaults = ClusterJobSettings()
    return ClusterJobSettings(
        namespace=settings.namespace,
        queue=models.queue,
        images=settings.references,
        gpu_resource=GPU_RESOURCES.get(models.accelerator, ""),
        cpu=settings.cpu,
        memory_bytes=settings.memory_bytes or defaults.memory_bytes,
        disk_bytes=settings.disk_bytes,
        seconds=settings.seconds,
        program_image=settings.training_image,
        program_volumes=settings.training_volumes,
        hub=env.get("HF_ENDPOINT", ""),
        output_url=output_url,
    )
