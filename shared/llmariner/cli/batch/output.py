"""`llma batch jobs output`: the files that jobs left."""

from __future__ import annotations

from pathlib import Path

import click

from llmariner.cli.support.click_extensions import Command, Group, pass_session
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

__all__ = ["output"]


@click.group("output", cls=Group)
def output() -> None:
    """Files that a job left in its folder `output`."""


@output.command("download", cls=Command)
@click.argument("job", metavar="ID")
@click.option(
    "-o",
    "--folder",
    metavar="PATH",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to, made if it is not there. Default: the job's id.",
)
@click.option("-f", "--force", is_flag=True, help="Replace files that are there.")
@pass_session
def download(session: Session, job: str, folder: Path | None, force: bool) -> None:
    """Download the files of a job that has ended.

    Run again, it continues with what is missing of a file.
    """
    from llmariner.cli.storage.files.downloads import download_to_file
    from llmariner.cli.support.api import build_path

    document = session.api().get(build_path("batch", "jobs", job))
    target = folder or Path(job)
    files = [(_path_below(target, each["name"]), each["id"]) for each in document.get("result_files") or ()]
    for path, file_id in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_to_file(session, file_id, path, replace=force)
    if not files:
        is_over = document.get("finished_at")
        said = "left no files in its folder output." if is_over else "has not ended: its files are there when it has."
        session.printer.print_message(document, f"{job} {said}")
    if problem := document.get("results_error"):
        write_stderr(problem)


def _path_below(folder: Path, name: str) -> Path:
    """Where a file is written. The job chose its name, so it must not lead elsewhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise click.UsageError(f"The name {name!r} leads out of the folder: download the file by its id.")
    return folder.joinpath(*parts)
