"""Batch jobs over HTTP: the bodies of requests, in LLMariner's form."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pydantic import Field

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body
from llmariner.platform.jobs import MAX_RESULT_FILES, MAX_RESULT_NAME, ResultFile

__all__ = ["CreateBatchJob", "ExecInBatchJob", "NameResults"]


class _Resources(Body):
    """What the job needs."""

    gpu_count: int = Field(default=0, le=1_000_000)


class _PyTorch(Body):
    """A PyTorch job of several workers."""

    worker_count: int = Field(le=1_000_000)


class _Kind(Body):
    """What runs the command, if it is more than one process."""

    pytorch: _PyTorch | None = None


class CreateBatchJob(Body):
    """POST /v1/batch/jobs. Contents of scripts are in Base64, as upstream's JSON has bytes."""

    image: str
    command: str
    scripts: dict[str, str]
    resources: _Resources | None = None
    envs: dict[str, str] | None = None
    data_files: list[str] | None = None
    kind: _Kind | None = None
    backoff_limit: int = Field(default=0, ge=0, le=1_000_000)
    cluster_id: str | None = Field(default=None, max_length=64)

    def to_new(self) -> NewBatchJob:
        """The job to create. InvalidRequest for a script that is not in Base64."""
        pytorch = None if self.kind is None else self.kind.pytorch
        return NewBatchJob(
            image=self.image,
            command=self.command,
            scripts={name: _decoded(name, content) for name, content in self.scripts.items()},
            envs=self.envs or {},
            data_files=self.data_files or (),
            gpu_count=0 if self.resources is None else self.resources.gpu_count,
            worker_count=None if pytorch is None else pytorch.worker_count,
            backoff_limit=self.backoff_limit,
            cluster_id=self.cluster_id or None,
        )


class ExecInBatchJob(Body):
    """POST /v1/batch/jobs/{id}/exec. `command`: a program and its arguments; `stdin`: in Base64."""

    command: list[str]
    stdin: str = ""

    def input(self) -> bytes:
        """The decoded standard input. InvalidRequest for one that is not in Base64."""
        try:
            return base64.b64decode(self.stdin, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest("'stdin' must be in Base64.", param="stdin") from error


def _decoded(name: str, content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"The script '{name[:100]}' must be in Base64: encode the bytes of the file.", param="scripts"
        ) from error


class _Result(Body):
    """A file that a job left."""

    name: str = Field(min_length=1, max_length=MAX_RESULT_NAME)
    bytes: int = Field(ge=0, le=2**53)


class NameResults(Body):
    """POST /v1/batch/jobs/{id}/results."""

    files: list[_Result] = Field(max_length=MAX_RESULT_FILES)
    left_out: str = Field(default="", max_length=8192)

    def to_files(self) -> list[ResultFile]:
        """The files that the job left."""
        return [ResultFile(each.name, each.bytes) for each in self.files]
