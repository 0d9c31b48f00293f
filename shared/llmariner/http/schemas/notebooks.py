"""Notebooks over HTTP: the bodies of requests, in LLMariner's form."""

from __future__ import annotations

from pydantic import Field

from llmariner.http.schemas.bodies import Body
from llmariner.notebooks.notebook import NewNotebook

__all__ = ["ChangeNotebook", "CreateNotebook"]

_MAX = 1_000_000_000


class _Image(Body):
    """What runs: a type of the installation, or the reference of an image."""

    type: str = ""
    uri: str = ""


class _Amount(Body):
    """Of one resource. The limit is what a notebook gets; a request without a limit is one."""

    requests: int = Field(default=0, ge=0, le=_MAX)
    limits: int = Field(default=0, ge=0, le=_MAX)


class _Resources(Body):
    """What the notebook gets."""

    cpu_milicore: _Amount | None = None
    memory_megabytes: _Amount | None = None
    storage_megabytes: _Amount | None = None
    gpu_count: int = Field(default=0, ge=0, le=_MAX)


class CreateNotebook(Body):
    """POST /v1/workspaces/notebooks."""

    name: str
    image: _Image | None = None
    resources: _Resources | None = None
    envs: dict[str, str] | None = None
    additional_exposed_ports: list[int] | None = None
    shared: bool = False

    def to_new(self) -> NewNotebook:
        """The notebook to create."""
        image, resources = self.image or _Image(), self.resources or _Resources()
        amounts = {
            name: amount.limits or amount.requests
            for name in ("cpu_milicore", "memory_megabytes", "storage_megabytes")
            if (amount := getattr(resources, name)) is not None
        }
        return NewNotebook(
            name=self.name,
            image_type=image.type,
            image_uri=image.uri,
            amounts=amounts,
            gpu_count=resources.gpu_count,
            envs=self.envs or {},
            ports=self.additional_exposed_ports or (),
            shared=self.shared,
        )


class ChangeNotebook(Body):
    """PATCH /v1/workspaces/notebooks/{id}. A field that is absent stays as it is."""

    shared: bool | None = None
