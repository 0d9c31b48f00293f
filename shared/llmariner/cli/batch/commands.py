"""`llma batch jobs`: create, list, get, logs, pause, resume, cancel, delete."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.resolvers import complete_files
from llmariner.cli.support.session import Session

__all__ = ["cancel", "create", "delete", "get", "list_jobs", "logs", "pause", "resume"]

_PAGE = 100
"""The page size limit of the API."""
_JOB_ARGUMENT = click.argument("job", metavar="ID")


@click.command(cls=Command)
@click.option("--image", required=True, help="Image to run in, such as pytorch-2.1.")
@click.option("--command", required=True, help="Shell command, such as 'python scripts/train.py'.")
@click.option(
    "--from-file",
    "scripts",
    metavar="PATH",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that it finds in scripts/; repeat for several.",
)
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="Variable; repeat for several.")
@click.option(
    "--file-id",
    "file_ids",
    metavar="ID",
    multiple=True,
    shell_complete=complete_files,
    help="Uploaded file that it finds in data/; repeat for several.",
)
@click.option("--gpu", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs.")
@click.option("--workers", metavar="N", type=click.IntRange(min=0), default=0, help="Workers of a PyTorch job.")
@click.option(
    "--backoff-limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="How often it is started again after it failed or was interrupted.",
)
@click.option("--cluster", "cluster_id", metavar="ID", help="The one cluster to run on, of `llma clusters list`.")
@pass_session
def create(
    session: Session,
    image: str,
    command: str,
    scripts: tuple[Path, ...],
    variables: tuple[str, ...],
    file_ids: tuple[str, ...],
    gpu: int,
    workers: int,
    backoff_limit: int,
    cluster_id: str | None,
) -> None:
    """Queue a job."""
    names = [path.name for path in scripts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise click.UsageError(f"Two scripts are called {repeated[0]}: rename one.")
    contents = {path.name: base64.b64encode(path.read_bytes()).decode() for path in scripts}
    body: dict[str, Any] = {"image": image, "command": command, "scripts": contents}
    if variables:
        body["envs"] = dict(_name_and_value(pair) for pair in variables)
    if file_ids:
        body["data_files"] = list(file_ids)
    if gpu:
        body["resources"] = {"gpu_count": gpu}
    if workers:
        body["kind"] = {"pytorch": {"worker_count": workers}}
    if backoff_limit:
        body["backoff_limit"] = backoff_limit
    if cluster_id:
        body["cluster_id"] = cluster_id
    document = session.api().post("batch/jobs", body)
    session.printer.print_message(document, f"Queued {document['id']}. {document.get('environment') or ''}".rstrip())


@click.command("list", cls=Command)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=100, show_default=True, help="Newest N.")
@pass_session
def list_jobs(session: Session, limit: int) -> None:
    """List jobs, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages("batch/jobs", max_records=limit, limit=min(limit, _PAGE))
    document["jobs"] = document.pop("data")
    columns = [
        Column.of("id"),
        Column("STATUS", _status),
        Column("CREATED", lambda job: format_timestamp(job.get("created_at"))),
        Column("FINISHED", lambda job: format_timestamp(job.get("finished_at"))),
        Column.of("command"),
        Column("ERROR", lambda job: (job.get("error") or {}).get("message")),
    ]
    empty = "No jobs; `llma batch jobs create` queues one."
    session.printer.print_records(document, document["jobs"], columns, empty=empty)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def get(session: Session, job: str) -> None:
    """Show a job: state, place in line, what it runs."""
    from llmariner.cli.support.output import format_timestamp

    document = session.api().get(_path(job))
    queue, error = document.get("queue") or {}, document.get("error") or {}
    backoff_limit = document.get("backoff_limit")
    details: dict[str, str | int | None] = {
        "id": document.get("id"),
        "status": document.get("status"),
        "place in line": queue.get("place"),
        "waits because": queue.get("reason"),
        "error": f"{error.get('message')} ({error.get('code')})" if error else None,
        "started again": f"{document.get('restarts', 0)} of {backoff_limit} times" if backoff_limit else None,
        "created": format_timestamp(document.get("created_at")),
        "started": format_timestamp(document.get("started_at")),
        "finished": format_timestamp(document.get("finished_at")),
        "command": document.get("command"),
        "image": document.get("image"),
        "runs where": document.get("environment"),
        "cluster": document.get("cluster_name") or document.get("cluster_id") or None,
        "scripts": ", ".join(document.get("scripts") or ()),
        "data files": ", ".join(document.get("data_files") or ()),
        "result files": ", ".join(each["name"] for each in document.get("result_files") or ()),
        "not kept": document.get("results_error"),
        "variables": ", ".join(document.get("envs") or {}),
    }
    session.printer.print_details(document, {name: value for name, value in details.items() if value})


@click.command(cls=Command)
@_JOB_ARGUMENT
@click.option("-f", "--follow", is_flag=True, help="Continue until it ends.")
@pass_session
def logs(session: Session, job: str, follow: bool) -> None:
    """Print the output of a job."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.terminal import OutputStream

    query: dict[str, str] = {"follow": "true"} if follow else {}
    with session.api().download(build_path("batch", "jobs", job, "logs"), **query) as parts:
        output = OutputStream(sys.stdout)
        for part in parts:
            output.write(part)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def pause(session: Session, job: str) -> None:
    """Keep a job from running until it is resumed.

    One that runs is ended, and begins from its start when it is resumed.
    """
    document = session.api().post(f"{_path(job)}/pause")
    said = f"{job} is paused." if document.get("status") == "paused" else f"{job} pauses."
    session.printer.print_message(document, said)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def resume(session: Session, job: str) -> None:
    """Queue a paused job again."""
    document = session.api().post(f"{_path(job)}/resume")
    session.printer.print_message(document, f"{job} continues: {document.get('status')}.")


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def cancel(session: Session, job: str) -> None:
    """End a job that is queued or runs."""
    document = session.api().post(f"{_path(job)}/cancel")
    asked = document.get("cancel_requested_at") and not document.get("finished_at")
    said = f"{job} ends." if asked else f"{job} has ended: {document.get('status')}."
    session.printer.print_message(document, said)


@click.command(cls=Command)
@_JOB_ARGUMENT
@click.option("-f", "--force", is_flag=True, help="Also if it has not ended.")
@pass_session
def delete(session: Session, job: str, force: bool) -> None:
    """Delete a job and its output."""
    api = session.api()
    if not force and not api.get(_path(job)).get("finished_at"):
        raise click.UsageError(f"{job} has not ended: cancel it first, or delete it with --force.")
    session.printer.print_message(api.delete(_path(job)), f"Deleted {job}.")


def _path(job: str) -> str:
    from llmariner.cli.support.api import build_path

    return build_path("batch", "jobs", job)


def _name_and_value(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{pair!r} is not NAME=VALUE.")
    return name, value


def _status(job: Mapping[str, Any]) -> str:
    """Such as `running`, or `queued (2)` with the place in line."""
    place = (job.get("queue") or {}).get("place")
    return f"{job.get('status')} ({place})" if place else str(job.get("status"))
