"""A notebook, and what a caller says about a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.platform.notebooks.jupyter import RESERVED_PORTS

__all__ = ["NewNotebook", "Notebook", "Status"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_MAX_ENVS, _MAX_ENV_VALUE = 128, 8192
_MAX_ENVS_BYTES = 900_000
"""Of all together: a Secret of Kubernetes holds a MiB, and a process little more."""
_MAX_PORTS = 16
_MAX_GPUS = 64
# What is asked for where the caller says nothing or 0, and the least and the most.
_AMOUNTS = {
    "cpu_milicore": (1000, 100, 256_000),
    "memory_megabytes": (2048, 512, 1_048_576),
    "storage_megabytes": (4096, 64, 1_048_576),
}


class Status(StrEnum):
    """The state of a notebook."""

    QUEUED = "queued"
    INITIALIZING = "initializing"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_active(self) -> bool:
        """Whether it runs, or is to run."""
        return self in (Status.QUEUED, Status.INITIALIZING, Status.RUNNING)


@dataclass(frozen=True)
class NewNotebook:
    """A notebook to create. `amounts`: by the API's names; an absent one or 0 is the default."""

    name: str
    image_type: str = ""
    image_uri: str = ""
    amounts: Mapping[str, int] = field(default_factory=dict)
    gpu_count: int = 0
    envs: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[int] = ()
    shared: bool = False

    def amount(self, name: str) -> int:
        """What it gets of a resource."""
        return self.amounts.get(name) or _AMOUNTS[name][0]

    def check(self) -> None:
        """Raises InvalidRequest for what no notebook may have."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                "'name' must have 1 to 63 letters, digits, '.', '_' or '-', and begin and end with a letter or a digit.",
                param="name",
            )
        for name, (default, least, most) in _AMOUNTS.items():
            if not least <= (self.amounts.get(name) or default) <= most:
                raise InvalidRequest(f"'resources.{name}' must be {least} to {most}.", param=f"resources.{name}")
        self._check_envs()
        if len(self.ports) > _MAX_PORTS or len(set(self.ports)) < len(self.ports):
            raise InvalidRequest(
                f"'additional_exposed_ports' must be up to {_MAX_PORTS} different ports.",
                param="additional_exposed_ports",
            )
        if any(not 1024 <= port <= 65535 for port in self.ports):
            raise InvalidRequest(
                "'additional_exposed_ports' must be from 1024 to 65535: programs of a notebook can't listen on others.",
                param="additional_exposed_ports",
            )

        if reserved := RESERVED_PORTS.intersection(self.ports):
            raise InvalidRequest(
                f"'additional_exposed_ports' can't have {min(reserved)}, which is JupyterLab's or the platform's own. "
                "Let your program listen on another one.",
                param="additional_exposed_ports",
            )

    def check_gpus(self, *, has_gpus: bool) -> None:
        """Raises InvalidRequest for GPUs that no notebook of the installation may have."""
        if self.gpu_count > (_MAX_GPUS if has_gpus else 0):
            raise InvalidRequest(
                f"A notebook may have {_MAX_GPUS} GPUs at most."
                if has_gpus
                else "Notebooks of this installation have no GPU: send 'resources.gpu_count' 0.",
                param="resources.gpu_count",
                code="too_many_gpus" if has_gpus else "no_gpu",
            )

    def image_of(self, images: Mapping[str, str]) -> str:
        """The type of its image. `images`: the installation's types, the default first, and their references.

        A reference is another name of the type that has it. Raises InvalidRequest for what is not there.
        """
        known = ", ".join(f"'{each}'" for each in images)
        if self.image_uri:
            found = next((name for name, reference in images.items() if reference == self.image_uri), None)
            if found is None or self.image_type not in ("", found):
                raise InvalidRequest(
                    "This installation runs its own images alone: leave 'image.uri' out, and send one of these in "
                    f"'image.type': {known}.",
                    param="image.uri",
                    code="image_not_supported",
                )
            return found
        if self.image_type and self.image_type not in images:
            raise InvalidRequest(
                f"Unknown image type '{self.image_type[:64]}'. This installation has {known}.", param="image.type"
            )
        return self.image_type or next(iter(images))

    def _check_envs(self) -> None:
        if len(self.envs) > _MAX_ENVS:
            raise InvalidRequest(f"A notebook has {_MAX_ENVS} variables at most, not {len(self.envs)}.", param="envs")
        for name, value in self.envs.items():
            if not _ENV_NAME.fullmatch(name) or len(value) > _MAX_ENV_VALUE or "\0" in value:
                raise InvalidRequest(
                    f"The variable '{name[:64]}' must have a name of letters, digits and '_', no digit first, and up to "
                    f"{_MAX_ENV_VALUE} characters without NUL.",
                    param="envs",
                )
        size = sum(len(name) + len(value.encode()) for name, value in self.envs.items())
        if size > _MAX_ENVS_BYTES:
            raise InvalidRequest(
                f"The variables have {size} bytes together, and may have {_MAX_ENVS_BYTES}. Send data as files.",
                param="envs",
            )


@dataclass(frozen=True)
class Notebook:
    """A notebook. Times are Unix seconds. `reason`: why it waits."""

    id: str
    organization_id: str
    project_id: str
    user_id: str
    name: str
    image_type: str
    millicores: int
    memory_megabytes: int
    storage_megabytes: int
    gpu_count: int
    envs: Mapping[str, str]
    ports: Sequence[int]
    shared: bool
    status: Status
    error_code: str | None
    error_message: str | None
    created_at: int
    started_at: float | None
    stopped_at: float | None
    reason: str = ""

    @classmethod
    def from_row(cls, row: Row[Any], reason: str = "") -> Notebook:
        """The notebook of a row."""
        fields = {name: row._mapping[name] for name in cls.__dataclass_fields__ if name in row._mapping}
        decoded = {name: json.loads(fields[name]) for name in ("envs", "ports")}
        return cls(
            **{**fields, **decoded, "gpu_count": row.gpu_count or 0, "status": Status(row.status), "reason": reason}
        )
