"""Settings of jobs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmariner.environment import Environment, read_images, read_integer, read_number, read_object_name
from llmariner.errors import Unavailable

__all__ = ["CLUSTER_MEMORY_BYTES", "JobSettings", "no_job_runner"]

_GIB = 1024**3
CLUSTER_MEMORY_BYTES = 4 * _GIB
"""Of each worker of a job on a cluster, where nothing else is said."""
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_CPU = re.compile(r"[0-9]+m?|[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class JobSettings:
    """Whether and how commands of projects run as jobs."""

    adapter: str = "processes"
    """`LLMARINER_JOBS`: `processes`: `llma up` runs the commands of jobs on this machine; `kubernetes`: pods of the cluster
    do; `off`: nothing does."""

    images: tuple[str, ...] = ("pytorch-2.1",)
    """`LLMARINER_JOB_IMAGES`: names of images that a job may ask for, separated by commas. On a cluster each has the image's
    reference after a `=`, and those without one are left out."""

    references: Mapping[str, str] = field(default_factory=dict)
    """The references in `LLMARINER_JOB_IMAGES`, by name."""

    namespace: str = "llmariner-jobs"
    """`LLMARINER_JOBS_NAMESPACE`: the namespace of jobs on a cluster."""

    priority_class: str = ""
    """`LLMARINER_JOB_PRIORITY_CLASS`: the PriorityClass of their pods on the platform's own cluster; empty: none."""

    cpu: str = "1"
    """`LLMARINER_JOB_CPU`: CPU of each worker of a job on a cluster."""

    cores: int = 0
    """`LLMARINER_JOB_CPU` on one machine: the processors that a job may use, rounded up; 0: its share of them."""

    training_image: str = ""
    """`LLMARINER_TRAINING_IMAGE`: the image of fine-tuning on a cluster, with PyTorch, Transformers and PEFT, such as the
    platform's own `llmariner/engine`. Empty: none is done there."""

    training_volumes: Mapping[str, str] = field(default_factory=dict)
    """`LLMARINER_TRAINING_VOLUMES`: claims in the namespace of jobs that pods of fine-tuning mount read-only, each with the
    path after a `=`, separated by commas: what the image lacks, such as a Python environment."""

    project_jobs: int = 100
    """`LLMARINER_PROJECT_JOBS`: jobs of one project that have not ended."""

    project_trained_models: int = 0
    """`LLMARINER_PROJECT_TRAINED_MODELS`: results of fine-tuning that one project keeps, with those that its jobs may still
    make; 0: any number."""

    slots: int = 1
    """`LLMARINER_JOB_SLOTS`: jobs that run on this machine at a time."""

    memory_bytes: int = 0
    """`LLMARINER_JOB_MEMORY_GIB`: memory of a job; 0: half of the memory for engines, which jobs share, and 4 GiB on a
    cluster."""

    disk_bytes: int = 4 * _GIB
    """`LLMARINER_JOB_DISK_GIB`: size of all files of a job."""

    network: str = "internet"
    """`LLMARINER_JOB_NETWORK`: what commands of batch jobs reach: `internet`: port 443 of public addresses, through a proxy;
    `machine`: all that the machine reaches; `none`: only themselves."""

    seconds: float = 86_400.0
    """`LLMARINER_JOB_SECONDS`: how long a job may run."""

    has_gpus: bool = False
    """Whether `LLMARINER_ACCELERATOR` names GPUs."""

    @property
    def cluster_memory_bytes(self) -> int:
        """Memory of each worker of a job on a cluster, also where the platform itself runs on one machine."""
        return self.memory_bytes or CLUSTER_MEMORY_BYTES

    def missing(self) -> Unavailable:
        """The error of an installation that has nothing which runs jobs."""
        if self.adapter == "off":
            return no_job_runner(
                "Jobs are turned off in this installation: an operator turns them on with LLMARINER_JOBS=processes."
            )
        return no_job_runner(
            "This installation runs no jobs: only a platform on one machine does, which `llma up` starts."
        )

    def check_training(self) -> None:
        """Raises Unavailable where jobs run on a cluster, and nothing is said of an image for fine-tuning."""
        if self.adapter == "kubernetes" and not self.training_image:
            raise no_job_runner(
                "This installation has no image for fine-tuning: an operator names one with LLMARINER_TRAINING_IMAGE."
            )

    @classmethod
    def load(cls, env: Environment) -> JobSettings:
        """Read from a mapping. Raises ValueError for an invalid value."""
        adapter = env.get("LLMARINER_JOBS", "") or cls.adapter
        if adapter not in ("processes", "kubernetes", "off"):
            raise ValueError(f"LLMARINER_JOBS must be processes, kubernetes or off, not {adapter!r}.")
        images = read_images(env, "LLMARINER_JOB_IMAGES", ",".join(cls.images))
        references = {name: reference for name, reference in images.items() if reference}
        cpu = env.get("LLMARINER_JOB_CPU") or cls.cpu
        if not _CPU.fullmatch(cpu):
            raise ValueError(f"LLMARINER_JOB_CPU must be a number of cores such as 2 or 500m, not {cpu!r}.")
        training_image = env.get("LLMARINER_TRAINING_IMAGE", "")
        if training_image and not _REFERENCE.fullmatch(training_image):
            raise ValueError(f"LLMARINER_TRAINING_IMAGE must be the reference of an image, not {training_image!r}.")
        network = env.get("LLMARINER_JOB_NETWORK", "") or cls.network
        if network not in ("internet", "machine", "none"):
            raise ValueError(f"LLMARINER_JOB_NETWORK must be internet, machine or none, not {network!r}.")
        return cls(
            network=network,
            adapter=adapter,
            images=tuple(references if adapter == "kubernetes" else images),
            references=references,
            namespace=env.get("LLMARINER_JOBS_NAMESPACE") or cls.namespace,
            priority_class=read_object_name(env, "LLMARINER_JOB_PRIORITY_CLASS"),
            cpu=cpu,
            cores=_whole_cores(cpu) if env.get("LLMARINER_JOB_CPU") else cls.cores,
            training_image=training_image,
            training_volumes=_read_volumes(env.get("LLMARINER_TRAINING_VOLUMES", "")),
            has_gpus=env.get("LLMARINER_ACCELERATOR", "") not in ("", "cpu"),
            project_jobs=int(read_number(env, "LLMARINER_PROJECT_JOBS", cls.project_jobs, minimum=1)),
            project_trained_models=read_integer(env, "LLMARINER_PROJECT_TRAINED_MODELS", cls.project_trained_models),
            slots=int(read_number(env, "LLMARINER_JOB_SLOTS", cls.slots, minimum=1)),
            memory_bytes=int(read_number(env, "LLMARINER_JOB_MEMORY_GIB", 0) * _GIB)
            or (CLUSTER_MEMORY_BYTES if adapter == "kubernetes" else cls.memory_bytes),
            disk_bytes=int(read_number(env, "LLMARINER_JOB_DISK_GIB", cls.disk_bytes / _GIB, minimum=0.01) * _GIB),
            seconds=read_number(env, "LLMARINER_JOB_SECONDS", cls.seconds, minimum=1),
        )


def _whole_cores(cpu: str) -> int:
    """An amount of cores such as `2` or `500m`, rounded up to at least one."""
    cores = float(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1)
    return max(1, math.ceil(cores))


def _read_volumes(text: str) -> dict[str, str]:
    """Claims and the paths after them. Raises ValueError."""
    volumes = {}
    for entry in (each.strip() for each in text.split(",") if each.strip()):
        claim, _, path = entry.partition("=")
        if not _CLAIM.fullmatch(claim) or not _PATH.fullmatch(path):
            raise ValueError(
                f"LLMARINER_TRAINING_VOLUMES: {entry!r} must be a claim and a path, such as wheels=/opt/wheels."
            )
        volumes[claim] = path
    return volumes


def no_job_runner(reason: str) -> Unavailable:
    """The error where nothing runs jobs."""
    return Unavailable(reason, code="no_job_runner", headers={"x-should-retry": "false"})
