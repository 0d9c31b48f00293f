"""A batch job, and what a caller says about a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.job_settings import JobSettings
from llmariner.platform.jobs import JobStatus, Phase

__all__ = ["BatchJob", "BatchJobResult", "NewBatchJob"]

_MAX_COMMAND = 32_768
_MAX_COMMAND_BYTES = 100_000
"""Linux starts no program with an argument of 131,072 bytes."""
_MAX_SCRIPT_BYTES = 1_000_000
"""Of all scripts together, as upstream's limit of 1 MB."""
_MAX_SCRIPTS = 64
_MAX_ENVS = 128
_MAX_ENV_VALUE = 8192
_MAX_ENVS_BYTES = 900_000
"""Of all names and values. A Secret of Kubernetes has at most a MiB, and a program at most two MiB of variables."""
_MAX_DATA_FILES = 100
_MAX_GPUS = 16
_MAX_WORKERS = 64
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_RESERVED_ENV = "LLMARINER_"
_MAX_BACKOFF_LIMIT = 10
_MAX_LOCAL_WORKERS = 8
_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class NewBatchJob:
    """A job to create. `worker_count`: of a PyTorch job, None for another one. `backoff_limit`: as in `jobs.Job`.

    `cluster_id`: the one cluster on which it shall run; None: any of the project's.
    """

    image: str
    command: str
    scripts: Mapping[str, bytes]
    envs: Mapping[str, str] = field(default_factory=dict)
    data_files: Sequence[str] = ()
    gpu_count: int = 0
    worker_count: int | None = None
    backoff_limit: int = 0
    cluster_id: str | None = None

    def check(self, settings: JobSettings) -> None:
        """Raises InvalidRequest for what no job may have, or this installation has not."""
        if self.image not in settings.images:
            known = ", ".join(f"'{each}'" for each in settings.images) or "none"
            raise InvalidRequest(f"Unknown image '{self.image[:64]}'. This installation has {known}.", param="image")
        _check_text(self.command, "command", _MAX_COMMAND)
        if not self.command.strip():
            raise InvalidRequest("'command' must not be empty: say what the job runs.", param="command")
        if (size := len(self.command.encode())) > _MAX_COMMAND_BYTES:
            raise InvalidRequest(
                f"'command' may have {_MAX_COMMAND_BYTES} bytes at most, not {size}. Send what it runs as a script.",
                param="command",
            )
        self._check_scripts()
        self._check_envs()
        self._check_data_files()
        self._check_backoff_limit()
        if settings.adapter == "kubernetes":
            self._check_cluster_resources(settings)
        else:
            self._check_resources()

    def _check_scripts(self) -> None:
        if not self.scripts:
            raise InvalidRequest("'scripts' must not be empty: send the files that the command runs.", param="scripts")
        if len(self.scripts) > _MAX_SCRIPTS:
            raise InvalidRequest(f"A job has {_MAX_SCRIPTS} scripts at most, not {len(self.scripts)}.", param="scripts")
        for name in self.scripts:
            if not _SCRIPT_NAME.fullmatch(name):
                raise InvalidRequest(
                    f"A script is not named '{name[:100]}': a name has 1 to 100 letters, digits, '.', '_', '-', and "
                    "begins with a letter, a digit or '_'.",
                    param="scripts",
                )
        if _REQUIREMENTS in self.scripts:
            raise InvalidRequest(
                f"Packages of '{_REQUIREMENTS}' are not installed by themselves here. Give the file another name, and begin "
                "the command with 'python -m pip install --target packages -r scripts/NAME && PYTHONPATH=packages'.",
                param="scripts",
                code="requirements_not_installed",
            )
        size = sum(len(content) for content in self.scripts.values())
        if size > _MAX_SCRIPT_BYTES:
            raise InvalidRequest(
                f"The scripts have {size} bytes together, and may have {_MAX_SCRIPT_BYTES}. Send data as files.",
                param="scripts",
                code="scripts_too_large",
            )

    def _check_envs(self) -> None:
        if len(self.envs) > _MAX_ENVS:
            raise InvalidRequest(f"A job has {_MAX_ENVS} variables at most, not {len(self.envs)}.", param="envs")
        for name, value in self.envs.items():
            if not _ENV_NAME.fullmatch(name):
                raise InvalidRequest(
                    f"'{name[:64]}' is no name of a variable: letters, digits and '_', no digit first.", param="envs"
                )
            if name.startswith(_RESERVED_ENV):
                raise InvalidRequest(
                    f"Variables that begin with {_RESERVED_ENV} are the platform's: choose another name.", param="envs"
                )
            _check_text(value, f"envs.{name}", _MAX_ENV_VALUE)
        size = sum(len(name) + len(value.encode()) for name, value in self.envs.items())
        if size > _MAX_ENVS_BYTES:
            raise InvalidRequest(
                f"The variables have {size} bytes together, and may have {_MAX_ENVS_BYTES}. Send data as files.",
                param="envs",
            )

    def _check_data_files(self) -> None:
        if len(self.data_files) > _MAX_DATA_FILES:
            raise InvalidRequest(
                f"A job has {_MAX_DATA_FILES} data files at most, not {len(self.data_files)}.", param="data_files"
            )
        if len(set(self.data_files)) < len(self.data_files):
            raise InvalidRequest("'data_files' names a file twice: name each once.", param="data_files")

    def _check_cluster_resources(self, settings: JobSettings) -> None:
        if not 0 <= self.gpu_count <= _MAX_GPUS:
            raise InvalidRequest(
                f"'resources.gpu_count' must be from 0 to {_MAX_GPUS}: GPUs of each worker.",
                param="resources.gpu_count",
            )
        if self.gpu_count and not settings.has_gpus:
            raise InvalidRequest(
                "Jobs of this installation run on processors: send 'resources.gpu_count' 0.",
                param="resources.gpu_count",
                code="no_gpu",
            )
        if self.worker_count is not None and not 1 <= self.worker_count <= _MAX_WORKERS:
            raise InvalidRequest(
                f"'kind.pytorch.worker_count' must be from 1 to {_MAX_WORKERS}.", param="kind.pytorch.worker_count"
            )

    def _check_resources(self) -> None:
        if self.gpu_count < 0:
            raise InvalidRequest("'resources.gpu_count' must not be negative.", param="resources.gpu_count")
        if self.gpu_count > 0:
            raise InvalidRequest(
                "Jobs on this machine run on its processor: send 'resources.gpu_count' 0.",
                param="resources.gpu_count",
                code="no_gpu",
            )
        if self.worker_count is not None and not 1 <= self.worker_count <= _MAX_LOCAL_WORKERS:
            raise InvalidRequest(
                f"'kind.pytorch.worker_count' must be from 1 to {_MAX_LOCAL_WORKERS} on one machine.",
                param="kind.pytorch.worker_count",
            )

    def _check_backoff_limit(self) -> None:
        if not 0 <= self.backoff_limit <= _MAX_BACKOFF_LIMIT:
            raise InvalidRequest(
                f"'backoff_limit' must be from 0 to {_MAX_BACKOFF_LIMIT}: how often the command is started again.",
                param="backoff_limit",
            )


@dataclass(frozen=True)
class BatchJobResult:
    """A file of the project that a job left. `name`: below the job's folder `output`, with slashes."""

    file_id: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class BatchJob:
    """A batch job. Times are Unix seconds. `cluster_id`: of the worker cluster that runs it; None: none does.

    `cluster_name`: of that cluster; None also for one that is gone.
    `place` and `reason`: of a queued one, its place in line and why it waits.
    """

    id: str
    organization_id: str
    project_id: str
    image: str
    command: str
    envs: Mapping[str, str]
    script_names: Sequence[str]
    data_files: Sequence[str]
    gpu_count: int
    worker_count: int | None
    environment: str
    status: Phase
    error_code: str | None
    error_message: str | None
    created_at: int
    started_at: float | None
    finished_at: float | None
    cancel_requested_at: float | None
    pause_requested_at: float | None
    backoff_limit: int
    restarts: int
    results_error: str | None
    cluster_id: str | None = None
    cluster_name: str | None = None
    results: Sequence[BatchJobResult] = ()
    place: int | None = None
    reason: str = ""

    @classmethod
    def from_row(cls, row: Row[Any], live: JobStatus | None = None, results: Sequence[BatchJobResult] = ()) -> BatchJob:
        """The job of a row of `batch_jobs`, with what the jobs port says of one that is queued."""
        fields = {name: row._mapping[name] for name in cls.__dataclass_fields__ if name in row._mapping}
        decoded = {name: json.loads(fields[name]) for name in ("envs", "script_names", "data_files")}
        queued = live is not None and live.phase is Phase.QUEUED and row.status == Phase.QUEUED
        in_line = {"place": live.place, "reason": live.reason} if live is not None and queued else {}
        return cls(**{**fields, **decoded, "status": Phase(row.status), "results": results, **in_line})


def _check_text(text: str, param: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"'{param}' may have {limit} characters at most, not {len(text)}.", param=param)
    if "\0" in text:
        raise InvalidRequest(f"'{param}' must not contain a NUL character.", param=param)
