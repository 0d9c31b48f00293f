"""`llma storage files`: upload, list, get, download, url, upload-url, delete, and create-link."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_files
from llmariner.cli.support.session import Session

__all__ = ["files"]

_DAY_SECONDS = 86_400
_PAGE = 100
"""The page size limit of the API."""

_UPLOAD_PURPOSES = click.Choice(["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
_LINK_EXPIRY = click.option(
    "--expires-in",
    metavar="DAYS",
    type=click.FloatRange(min=0, min_open=True),
    help="Days until the URL expires, at most 7. Else an hour.",
)
_FILE_ARGUMENT = click.argument("file", metavar="ID", shell_complete=complete_files)


@click.group(cls=Group)
def files() -> None:
    """Upload, list, download, share and delete files."""


@files.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--purpose", type=_UPLOAD_PURPOSES, required=True, help="What it is for.")
@click.option("--name", help="Its name on the platform; needed for standard input (-). Else that of FILE.")
@click.option(
    "--expires-in", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="Days until it is deleted."
)
@click.option("--restart", is_flag=True, help="Begin again, even where an interrupted upload could continue.")
@pass_session
def upload(
    session: Session, path: Path, purpose: str, name: str | None, expires_in: float | None, restart: bool
) -> None:
    """Upload a file, or standard input (-).

    A big file goes in parts: after an interruption the same command continues with it.
    """
    from llmariner.cli.storage.files.local_files import LocalFile, standard_input

    expires_in_seconds = None if expires_in is None else max(1, round(expires_in * _DAY_SECONDS))
    options: dict[str, Any] = {"purpose": purpose, "expires_in_seconds": expires_in_seconds, "restart": restart}
    if str(path) != "-":
        _upload(session, LocalFile.from_path(path, name), **options)
        return
    if not name:
        raise click.UsageError("Standard input has no name: give --name.")
    with standard_input(name) as file:
        _upload(session, file, **options)


def _upload(session: Session, file: Any, *, purpose: str, expires_in_seconds: int | None, restart: bool) -> None:
    from llmariner.cli.storage.files.transfer_progress import show_transfer
    from llmariner.cli.storage.files.uploads import Uploader
    from llmariner.cli.support.output import format_bytes

    uploader = Uploader(session.api(), session.target(), purpose, expires_in_seconds)
    with show_transfer(session, file.name, file.size) as report:
        document = uploader.upload(file, report, restart=restart)
    size = format_bytes(document.get("bytes"))
    session.printer.print_message(document, f"Uploaded {file.name} as {document['id']} ({size}).")


@files.command("list")
@click.option("--purpose", help="Only files of this purpose.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=100, show_default=True, help="Newest N.")
@pass_session
def list_files(session: Session, purpose: str | None, limit: int) -> None:
    """List files, newest first."""
    from llmariner.cli.support.output import Column, format_bytes, format_timestamp

    document = session.api().all_pages("files", max_records=limit, limit=min(limit, _PAGE), purpose=purpose)
    columns = [
        Column.of("id"),
        Column.of("filename", "NAME"),
        Column("SIZE", lambda file: format_bytes(file.get("bytes")), right=True),
        Column.of("purpose"),
        Column("CREATED", lambda file: format_timestamp(file.get("created_at"))),
        Column("EXPIRES", lambda file: format_timestamp(file.get("expires_at")) or "never"),
    ]
    empty = "No files; `llma storage files upload` adds one."
    session.printer.print_records(document, document["data"], columns, empty=empty)


@files.command()
@_FILE_ARGUMENT
@pass_session
def get(session: Session, file: str) -> None:
    """Show a file's name, size and purpose."""
    from llmariner.cli.support.api import build_path

    document = session.api().get(build_path("files", file))
    session.printer.print_details(document, _details(document))


@files.command()
@_FILE_ARGUMENT
@click.option(
    "--file",
    "path",
    metavar="PATH",
    type=click.Path(allow_dash=True, path_type=Path),
    default=".",
    help="File or folder to write to, or - for standard output. Else the present folder, with the file's own name.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@pass_session
def download(session: Session, file: str, path: Path, force: bool) -> None:
    """Download a file.

    The name is there when the content is complete. After an interruption the same command continues.
    """
    from llmariner.cli.storage.files.downloads import download_to_file, download_to_stdout

    if str(path) == "-":
        download_to_stdout(session, file)
    else:
        download_to_file(session, file, path, replace=force)


@files.command()
@_FILE_ARGUMENT
@_LINK_EXPIRY
@pass_session
def url(session: Session, file: str, expires_in: float | None) -> None:
    """Print a URL by which anybody reads the file until it expires.

    It ends earlier with the file, and with the rights of the key or person that made it.
    """
    from llmariner.cli.support.api import build_path

    document = session.api().post(build_path("files", file, "links"), _link_expiry(expires_in))
    session.printer.print_message(document, str(document["url"]))


@files.command("upload-url")
@click.argument("name", metavar="NAME")
@click.option("--purpose", type=_UPLOAD_PURPOSES, required=True, help="What the file is for.")
@click.option("--max-bytes", metavar="N", type=click.IntRange(min=0), help="The most bytes that the file may have.")
@_LINK_EXPIRY
@pass_session
def upload_url(session: Session, name: str, purpose: str, max_bytes: int | None, expires_in: float | None) -> None:
    """Print a URL to upload the file NAME, once.

    Anybody uploads with it and without a key: curl -T FILE URL.
    """
    body = {"filename": name, "purpose": purpose, **_link_expiry(expires_in)}
    if max_bytes is not None:
        body["max_bytes"] = max_bytes
    document = session.api().post("files:createUploadLink", body)
    session.printer.print_message(document, str(document["url"]))


@files.command()
@_FILE_ARGUMENT
@pass_session
def delete(session: Session, file: str) -> None:
    """Delete a file, also from the vector stores that have it."""
    from llmariner.cli.support.api import build_path

    answer = session.api().delete(build_path("files", file))
    session.printer.print_message(answer, f"Deleted {file}.")


@files.command("create-link")
@click.option("--object-path", metavar="URL", required=True, help="The object, as s3://BUCKET/KEY.")
@click.option("--purpose", required=True, help="What it is for: fine-tune or assistants.")
@pass_session
def create_link(session: Session, object_path: str, purpose: str) -> None:
    """Make a file of an object in a bucket, without copying it."""
    document = session.api().post("files:createFromObjectPath", {"object_path": object_path, "purpose": purpose})
    session.printer.print_message(document, f"Linked {object_path} as {document['id']}.")


def _link_expiry(days: float | None) -> dict[str, Any]:
    """The field of a request for a link; none for the default."""
    return {} if days is None else {"expires_in_seconds": max(1, round(days * _DAY_SECONDS))}


def _details(file: Mapping[str, Any]) -> dict[str, str | int | None]:
    from llmariner.cli.support.output import format_bytes, format_timestamp

    return {
        "id": file.get("id"),
        "name": file.get("filename"),
        "size": format_bytes(file.get("bytes")),
        "purpose": file.get("purpose"),
        "status": file.get("status"),
        "created": format_timestamp(file.get("created_at")),
        "expires": format_timestamp(file.get("expires_at")) or "never",
        "object": file.get("object_store_path"),
    }
