"""Settings of notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmariner.environment import Environment, read_images, read_number, read_object_name
from llmariner.notebooks.hosts import parse_notebook_url

__all__ = ["NotebookSettings"]


@dataclass(frozen=True)
class NotebookSettings:
    """How many notebooks there are, and how long they run."""

    project_notebooks: int = 20
    """`LLMARINER_PROJECT_NOTEBOOKS`: notebooks of one project."""

    idle_seconds: int = 3600
    """`LLMARINER_NOTEBOOK_IDLE_SECONDS`: a notebook in which nothing runs, and of which nobody asks anything, stops after
    that time."""

    seconds: int = 7 * 86_400
    """`LLMARINER_NOTEBOOK_SECONDS`: how long a notebook may run, and its key is valid, before it is started again."""

    images: Mapping[str, str] = field(default_factory=dict)
    """`LLMARINER_NOTEBOOK_IMAGES`: types of images that a notebook on a cluster may have, each with the image's reference
    after a `=`, separated by commas, the default first. Empty: no notebooks run there."""

    storage_class: str = ""
    """`LLMARINER_NOTEBOOK_STORAGE_CLASS`: the storage class of their volumes on a cluster; empty: the cluster's default."""

    priority_class: str = ""
    """`LLMARINER_NOTEBOOK_PRIORITY_CLASS`: the PriorityClass of their pods; empty: none."""

    url: str = ""
    """`LLMARINER_NOTEBOOK_URL`: the URL at which browsers open notebooks, with a `*` in place of a notebook's id, such as
    `https://*.notebooks.example.org`. Empty: on one machine the id in front of the platform's name; on a cluster browsers
    open none."""

    @classmethod
    def load(cls, env: Environment) -> NotebookSettings:
        """Read from a mapping. Raises ValueError for an invalid value."""
        images = read_images(env, "LLMARINER_NOTEBOOK_IMAGES")
        if bare := [name for name, reference in images.items() if not reference]:
            raise ValueError(f"LLMARINER_NOTEBOOK_IMAGES: {bare[0]!r} needs the reference of an image after a '='.")
        return cls(
            images=images,
            storage_class=read_object_name(env, "LLMARINER_NOTEBOOK_STORAGE_CLASS"),
            priority_class=read_object_name(env, "LLMARINER_NOTEBOOK_PRIORITY_CLASS"),
            url=parse_notebook_url(url) if (url := env.get("LLMARINER_NOTEBOOK_URL", "")) else "",
            project_notebooks=int(read_number(env, "LLMARINER_PROJECT_NOTEBOOKS", cls.project_notebooks, minimum=1)),
            idle_seconds=int(read_number(env, "LLMARINER_NOTEBOOK_IDLE_SECONDS", cls.idle_seconds, minimum=1)),
            seconds=int(read_number(env, "LLMARINER_NOTEBOOK_SECONDS", cls.seconds, minimum=60)),
        )
