"""Settings of files. `settings` lists the other settings."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_http_url, read_integer, read_number
from llmariner.weight_locations import validate_locations

__all__ = ["FileSettings"]

_MIB = 1024 * 1024
_WEEK = 7 * 86_400


@dataclass(frozen=True)
class FileSettings:
    """Limits of files. A limit of 0 is none."""

    form_bytes: int = 512 * _MIB
    """`LLMARINER_FILE_BYTES`: maximum bytes of a file that is sent as a form. Default 512 MiB, as OpenAI's."""

    project_files: int = 100_000
    """`LLMARINER_PROJECT_FILES`: maximum number of files of one project."""

    project_bytes: int = 1024 * 1024 * _MIB
    """`LLMARINER_PROJECT_FILE_BYTES`: maximum bytes of all files of one project. Default 1 TiB."""

    locations: tuple[str, ...] = ()
    """`LLMARINER_FILE_LOCATIONS`: prefixes of objects that projects may make files of without a copy, separated by commas,
    such as `s3://bucket/${project_id}/`; `${project_id}` is the project's id."""

    upload_bytes: int = 8 * 1024 * _MIB
    """`LLMARINER_UPLOAD_BYTES`: maximum bytes of a file that is sent in parts. Default 8 GiB, as OpenAI's."""

    upload_part_bytes: int = 64 * _MIB
    """`LLMARINER_UPLOAD_PART_BYTES`: maximum bytes of one part. Default 64 MiB, as OpenAI's."""

    upload_seconds: int = 3600
    """`LLMARINER_UPLOAD_SECONDS`: how long the parts of an upload may take to arrive. Default an hour, as OpenAI's."""

    link_seconds: int = _WEEK
    """`LLMARINER_FILE_LINK_SECONDS`: the longest time for which a link to a file is valid, at most the default: 7 days."""

    link_requests_per_minute: int = 600
    """`LLMARINER_FILE_LINK_REQUESTS_PER_MINUTE`: requests by one link in one process."""

    public_url: str = ""
    """`LLMARINER_PUBLIC_URL`: URL at which clients reach the platform, for links to files. Empty: as requests name it."""

    archived_days: float = 30
    """`LLMARINER_ARCHIVED_PROJECT_DAYS`: days for which files and vector stores of a project are kept after it is archived
    or deleted."""

    @classmethod
    def load(cls, env: Environment) -> FileSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        link_seconds = int(read_number(env, "LLMARINER_FILE_LINK_SECONDS", cls.link_seconds, minimum=1))
        if link_seconds > _WEEK:
            raise ValueError(f"LLMARINER_FILE_LINK_SECONDS must be at most {_WEEK}, not {link_seconds}.")
        return cls(
            form_bytes=int(read_number(env, "LLMARINER_FILE_BYTES", cls.form_bytes, minimum=1)),
            project_files=read_integer(env, "LLMARINER_PROJECT_FILES", cls.project_files),
            project_bytes=read_integer(env, "LLMARINER_PROJECT_FILE_BYTES", cls.project_bytes),
            archived_days=read_number(env, "LLMARINER_ARCHIVED_PROJECT_DAYS", cls.archived_days, minimum=1),
            locations=_locations(env.get("LLMARINER_FILE_LOCATIONS", "")),
            upload_bytes=int(read_number(env, "LLMARINER_UPLOAD_BYTES", cls.upload_bytes, minimum=1)),
            upload_part_bytes=int(read_number(env, "LLMARINER_UPLOAD_PART_BYTES", cls.upload_part_bytes, minimum=1)),
            upload_seconds=int(read_number(env, "LLMARINER_UPLOAD_SECONDS", cls.upload_seconds, minimum=60)),
            link_seconds=link_seconds,
            link_requests_per_minute=read_integer(
                env, "LLMARINER_FILE_LINK_REQUESTS_PER_MINUTE", cls.link_requests_per_minute
            ),
            public_url=read_http_url(env, "LLMARINER_PUBLIC_URL"),
        )


def _locations(text: str) -> tuple[str, ...]:
    entries = [each.strip() for each in text.split(",") if each.strip()]
    if others := [entry for entry in entries if not entry.startswith("s3://")]:
        raise ValueError(
            f"LLMARINER_FILE_LOCATIONS: {others[0]!r} must be a prefix such as s3://bucket/${{project_id}}/."
        )
    try:
        return validate_locations(entries)
    except ValueError as error:
        raise ValueError(f"LLMARINER_FILE_LOCATIONS: {error}") from error
