"""How the files that a job left get out of its pod: the first worker uploads them when the command has ended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from llmariner.platform.jobs import MAX_RESULT_FILES, MAX_RESULT_NAME, Job, output_files
from llmariner.platform.jobs.kubernetes import output_upload
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings

__all__ = ["KEEP", "keeps_output", "output_mount", "output_volume", "upload_program"]

_FOLDER = "/run/llmariner-output"
KEEP = f"{_FOLDER}/keep"
"""A shell script in the job's container that uploads what is in its folder `output`."""
_PROGRAM = (
    f"import sys; sys.path.insert(0, {_FOLDER!r}); import output_files, output_upload; "
    "sys.exit(output_upload.main(output_files.list_files, *sys.argv[1:]))"
)


def keeps_output(job: Job, settings: ClusterJobSettings) -> bool:
    """Whether files that a job leaves are kept: not those of programs of the platform."""
    return bool(job.image and settings.output_url)


def upload_program(job: Job, settings: ClusterJobSettings, token: str) -> dict[str, bytes]:
    """The content of the Secret of `output_volume`. `token`: with which the job's pod says what it leaves."""
    url = f"{settings.output_url}/v1/batch/jobs/{job.id}/results"
    limits = [str(each) for each in (settings.disk_bytes, MAX_RESULT_FILES, MAX_RESULT_NAME)]
    words = shlex.join(["python3", "-I", "-c", _PROGRAM, "/job/output", url, *limits, token])
    keep = f"""\
[ -d /job/output ] || exit 0
command -v python3 >/dev/null || {{ echo "Files in output/ were not kept: the image has no python3." >&2; exit 1; }}
exec {words}
"""
    modules = {f"{Path(str(each.__file__)).name}": each for each in (output_files, output_upload)}
    return {"keep": keep.encode()} | {name: Path(str(each.__file__)).read_bytes() for name, each in modules.items()}


def output_volume(job: Job) -> dict[str, Any]:
    """The volume of the pod. Optional: the previous release completes a job without it that this one began to submit."""
    return {"name": "output", "secret": {"secretName": f"{job.id}-output", "optional": True}}


def output_mount() -> dict[str, Any]:
    """Where the job's container has it."""
    return {"name": "output", "mountPath": _FOLDER, "readOnly": True}
