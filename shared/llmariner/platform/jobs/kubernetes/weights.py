"""A model's weights in a job's pod: a claim of the jobs' namespace, or what a first container fetches.

The pod holds no credential of a store or a hub. What only a credential opens it gets of the platform, by the token of its
job (`FETCHED_WEIGHTS`); gated repositories without a copy are not for jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmariner.model_file_names import PATTERNS
from llmariner.platform.jobs import FETCHED_WEIGHTS, READABLE_WEIGHTS, WEIGHTS_FOLDER, Job

__all__ = ["WEIGHTS_CONTAINER", "WeightsParts", "weights_disk_bytes", "weights_mount", "weights_parts"]

Body = dict[str, Any]

WEIGHTS_CONTAINER = "weights"
_VOLUME = "weights"
_UNKNOWN_BYTES = 64 << 30
"""The most that weights of unknown size may take on a node's disk."""
_MOUNTS: list[Body] = [
    {"name": _VOLUME, "mountPath": WEIGHTS_FOLDER},
    {"name": "work", "mountPath": "/tmp", "subPath": "tmp"},
]
_FETCH = """\
import sys, time
from huggingface_hub import snapshot_download
repository, _, revision = sys.argv[1].removeprefix("hf://").partition(":")
for attempt in range(5):
    try:
        snapshot_download(repository, revision=revision or None, local_dir=sys.argv[2], allow_patterns=sys.argv[3:])
        sys.exit(0)
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:800]}", file=sys.stderr)
        time.sleep(2 * attempt)
sys.exit(1)
"""


@dataclass(frozen=True)
class WeightsParts:
    """Volumes of the pod, and containers that come before the job's own, without image, user and resources."""

    volumes: list[Body] = field(default_factory=list)
    containers: list[Body] = field(default_factory=list)


def weights_mount(job: Job) -> list[Body]:
    """The mount of a job's weights; none for a job without."""
    if not job.weights:
        return []
    mount: Body = {"name": _VOLUME, "mountPath": WEIGHTS_FOLDER, "readOnly": True}
    if job.weights.startswith("pvc://") and (path := job.weights.removeprefix("pvc://").partition("/")[2].strip("/")):
        mount["subPath"] = path
    return [mount]


def weights_parts(job: Job, hub: str) -> WeightsParts:
    """What brings a job's weights to its mount. Raises ValueError for a URI that jobs don't read."""
    if not job.weights:
        return WeightsParts()
    if not job.weights.startswith(READABLE_WEIGHTS):
        raise ValueError(f"Jobs read no weights at {job.weights!r}.")
    if job.weights.startswith("pvc://"):
        claim = job.weights.removeprefix("pvc://").partition("/")[0]
        return WeightsParts([{"name": _VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}])
    container: Body = {
        "name": WEIGHTS_CONTAINER,
        **(_of_platform(job) if job.weights.startswith(FETCHED_WEIGHTS) else _of_hub(job, hub)),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    size = {"sizeLimit": str(weights_disk_bytes(job))}
    return WeightsParts([{"name": _VOLUME, "emptyDir": size}], [container])


def _of_hub(job: Job, hub: str) -> Body:
    variables = {"HOME": "/tmp", **({"HF_ENDPOINT": hub} if hub else {})}
    return {
        "command": [
            *("python3", "-c", _FETCH, job.weights.replace("$", "$$"), WEIGHTS_FOLDER),
            *(PATTERNS if job.brief else (*PATTERNS, "*.safetensors")),
        ],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": _MOUNTS,
    }


def _of_platform(job: Job) -> Body:
    scripts = {"name": "scripts", "mountPath": "/job/scripts", "readOnly": True}
    return {
        "command": ["/bin/sh", "-c", job.weights_command.replace("$", "$$"), "sh", WEIGHTS_FOLDER],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "envFrom": [{"secretRef": {"name": f"{job.id}-environment"}}],
        "volumeMounts": [*_MOUNTS, scripts],
    }


def weights_disk_bytes(job: Job) -> int:
    """What the weights of a job take on its node's disk, with room for what the hub's client keeps."""
    if not job.weights.startswith(("hf://", *FETCHED_WEIGHTS)):
        return 0
    if job.brief:  # it reads the tokenizer and the configuration alone
        return 256 << 20
    return job.weights_bytes * 5 // 4 + (256 << 20) if job.weights_bytes else _UNKNOWN_BYTES
