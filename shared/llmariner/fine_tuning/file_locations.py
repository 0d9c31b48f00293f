"""Locations of models that jobs make: each is a file of a project."""

from __future__ import annotations

import re

from llmariner.models.model import Model, SourceRepository

__all__ = ["file_of", "made_file", "shared_location"]

_FILE = re.compile(r"file-[0-9a-z_-]{1,60}")
_PROJECT = re.compile(r"proj_[0-9a-z_]{1,59}")


def shared_location(project_id: str, file_id: str) -> str:
    """The location of a model whose file another project has; in its own project a file's id is the location."""
    return f"{project_id}/{file_id}"


def file_of(location: str, project_id: str) -> tuple[str, str] | None:
    """The project and the file of a model of a project; None for a location of another kind."""
    owner, slash, file_id = location.rpartition("/")
    if not _FILE.fullmatch(file_id) or (slash and not _PROJECT.fullmatch(owner)):
        return None
    return owner or project_id, file_id


def made_file(model: Model) -> tuple[str, str] | None:
    """The project and the file of a model that a job made; None for any other model.

    Whom a file belongs to was decided by the platform, which approves the models that it makes of files.
    """
    if model.source_repository is not SourceRepository.FINE_TUNING or not model.approved:
        return None
    return file_of(model.model_file_location, model.project_id or "")
