"""What a training needs: of its model, and of the place where it runs."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.fine_tuning.job import TrainingType
from llmariner.job_settings import JobSettings
from llmariner.models.model import Model, SourceRepository, Task
from llmariner.platform.jobs import FETCHED_WEIGHTS, READABLE_WEIGHTS

__all__ = ["TrainingSize", "problem_at_home", "problem_elsewhere", "problem_of_model"]

# Float32 weights, of which the optimizer and activations take as much again: seen at 135 million parameters.
_MEMORY_PER_WEIGHT_BYTE = 4
# All weights, their gradients and two numbers of the optimizer in float32, and the result in 16 bits beside them.
_MEMORY_PER_TRAINED_BYTE = 10
# The weights and two numbers of the optimizer in float32, in one file.
_STATE_PER_TRAINED_BYTE = 6
# The first worker's state, and the result as a folder and as an archive. Before that each worker has the state for a moment.
_DISK_PER_TRAINED_BYTE = 8
_ANYWHERE = ("hf://", *FETCHED_WEIGHTS)
"""Weights that a pod reads wherever it is: claims and folders are of one cluster or machine."""


@dataclass(frozen=True)
class TrainingSize:
    """What decides how much a training needs. `folder`, `model_bytes`: of the base model's weights."""

    folder: str
    model_bytes: int
    is_full: bool
    workers: int

    @classmethod
    def of(cls, model: Model, training_type: str | None, workers: int | None) -> TrainingSize:
        """That of a job, by its fields."""
        return cls(model.folder, model.size_bytes, training_type == TrainingType.FULL, workers or 1)

    @property
    def state_bytes(self) -> int:
        """Of the file from which it continues, with all weights."""
        return _STATE_PER_TRAINED_BYTE * self.model_bytes

    def problem(self, memory_bytes: int, disk_bytes: int, *, sharing: bool, where: str = "a job") -> str:
        """Why it does not fit into limits, 0 for an unknown one; empty where it does.

        `sharing`: its workers are processes of one machine, which share the limits. `where`: what has them, for users.
        """
        workers = self.workers if sharing else 1
        needed = (_MEMORY_PER_TRAINED_BYTE if self.is_full else _MEMORY_PER_WEIGHT_BYTE) * self.model_bytes * workers
        if 0 < memory_bytes < needed:
            how = (" of all weights" if self.is_full else "") + ("" if workers == 1 else f" by {workers} workers")
            most = memory_bytes >> 20
            return f"its training{how} needs about {needed >> 20} MiB of memory, and {where} may use {most} MiB"
        disk = max(_DISK_PER_TRAINED_BYTE * self.model_bytes, workers * self.state_bytes)
        if self.is_full and disk > disk_bytes:
            most = disk_bytes >> 20
            return f"its training of all weights needs about {disk >> 20} MiB of disk, and {where} may use {most} MiB"
        return ""


def problem_of_model(model: Model, size: TrainingSize, upload_bytes: int, *, serves_whole_models: bool) -> str:
    """Why a model can be trained nowhere; empty where it can. `upload_bytes`: that a file may have.

    `serves_whole_models`: whether engines can have models of which all weights were trained.
    """
    if model.base_model_id is not None:
        return "it is fine-tuned itself: name its base model"
    if not model.loaded:
        return "its weights are not loaded yet"
    if model.task is not Task.GENERATE:
        return "it does not generate text"
    if model.format != "HUGGING_FACE" or model.source_repository is SourceRepository.KUBERNETES:
        return "its weights are not a Hugging Face folder of the platform"
    if quantization := model.traits.quantization:
        return f"its weights are quantized already ({quantization}): name the model that was quantized"
    if size.is_full and not serves_whole_models:
        return (
            "engines of a cluster read whole models from copies in the object store, which this installation does not "
            "make: an operator turns them on with LLMARINER_MODEL_COPIES=1. Use the training type 'lora'"
        )
    if size.is_full and size.state_bytes > upload_bytes:
        state, most = size.state_bytes >> 20, upload_bytes >> 20
        return f"the state of a training of all weights has {state} MiB, and a file may have {most} MiB"
    return ""


def problem_at_home(settings: JobSettings, size: TrainingSize) -> str:
    """Why the platform's own place can't train a model; empty where it can."""
    on_cluster = settings.adapter == "kubernetes"
    if on_cluster and not size.folder.startswith(READABLE_WEIGHTS):
        return f"jobs here read weights at {', '.join(READABLE_WEIGHTS)} alone"
    if not on_cluster and not size.folder.startswith("/"):
        return f"its weights at {size.folder.partition('://')[0]}:// are fetched by worker clusters alone"
    return size.problem(settings.memory_bytes, settings.disk_bytes, sharing=not on_cluster)


def problem_elsewhere(settings: JobSettings, size: TrainingSize) -> str:
    """Why no worker cluster can train a model; empty where one can."""
    if not settings.training_image:
        return "an operator names its image with LLMARINER_TRAINING_IMAGE"
    if settings.training_volumes:
        return "its program needs the volumes of LLMARINER_TRAINING_VOLUMES, which the platform's own cluster alone has"
    if not size.folder.startswith(_ANYWHERE):
        read = ", ".join(_ANYWHERE)
        return f"it reads weights at {read} alone, and those of this model are where the platform runs its own jobs"
    where = "each worker of a job there"
    return size.problem(settings.cluster_memory_bytes, settings.disk_bytes, sharing=False, where=where)
