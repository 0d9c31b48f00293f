"""`llma workspace notebooks`: create, list, get, open, start, stop, share, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["create", "delete", "get", "list_notebooks", "open_notebook", "share", "start", "stop"]

_PATH = "workspaces/notebooks"
_PAGE = 100
"""The page size limit of the API."""
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_NOTEBOOK_ARGUMENT = click.argument("notebook", metavar="NAME")


@click.command(cls=Command)
@click.argument("name")
@click.option("--image-type", metavar="TYPE", default="jupyter-lab-base", show_default=True, help="Kind of image.")
@click.option("--image-uri", metavar="URI", help="Image of your own, where the installation allows it.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="Variable; repeat for several.")
@click.option("--gpu", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs.")
@click.option(
    "--port", "ports", metavar="N", type=click.IntRange(1, 65535), multiple=True, help="Port to expose; repeat."
)
@click.option("--cpu", metavar="MILLICORES", type=click.IntRange(min=1), help="Thousandths of a core.  [default: 1000]")
@click.option("--memory", metavar="MB", type=click.IntRange(min=1), help="Memory.  [default: 2048]")
@click.option("--storage", metavar="MB", type=click.IntRange(min=1), help="Room for files.  [default: 4096]")
@click.option("--shared", is_flag=True, help="Let members of the project use it.")
@pass_session
def create(
    session: Session,
    name: str,
    image_type: str,
    image_uri: str | None,
    variables: tuple[str, ...],
    gpu: int,
    ports: tuple[int, ...],
    cpu: int | None,
    memory: int | None,
    storage: int | None,
    shared: bool,
) -> None:
    """Create a notebook and start it."""
    from llmariner.cli.support.pairs import key_and_value

    amounts = {"cpu_milicore": cpu, "memory_megabytes": memory, "storage_megabytes": storage}
    resources: dict[str, Any] = {key: {"limits": amount} for key, amount in amounts.items() if amount}
    body = {
        "name": name,
        "image": {"uri": image_uri} if image_uri else {"type": image_type},
        "resources": {**resources, "gpu_count": gpu},
        "envs": dict(key_and_value(pair) for pair in variables),
        "additional_exposed_ports": list(ports),
        "shared": shared,
    }
    document = session.api().post(_PATH, body)
    session.printer.print_message(
        document, f"{name} starts ({document['id']}). `llma workspace notebooks open {name}` opens it."
    )


@click.command("list", cls=Command)
@pass_session
def list_notebooks(session: Session) -> None:
    """List notebooks, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages(_PATH, limit=_PAGE)
    document["notebooks"] = document.pop("data")
    columns = [
        Column.of("name"),
        Column.of("id"),
        Column.of("status"),
        Column("IMAGE", lambda each: each["image"]["type"]),
        Column("CREATED", lambda each: format_timestamp(each.get("created_at"))),
        Column("STARTED", lambda each: format_timestamp(each.get("started_at"))),
        Column("ERROR", lambda each: (each.get("error") or {}).get("message")),
    ]
    empty = "No notebooks; `llma workspace notebooks create NAME` makes one."
    session.printer.print_records(document, document["notebooks"], columns, empty=empty)


@click.command(cls=Command)
@_NOTEBOOK_ARGUMENT
@pass_session
def get(session: Session, notebook: str) -> None:
    """Show a notebook: state, resources, ports."""
    from llmariner.cli.support.output import format_timestamp

    api = session.api()
    document = api.get(_path(_find(api, notebook)["id"]))
    error, resources = document.get("error") or {}, document["resources"]
    details: dict[str, str | int | None] = {
        "name": document["name"],
        "id": document["id"],
        "status": document["status"],
        "waits because": document.get("status_reason"),
        "error": f"{error.get('message')} ({error.get('code')})" if error else None,
        "created": format_timestamp(document.get("created_at")),
        "started": format_timestamp(document.get("started_at")),
        "stopped": format_timestamp(document.get("stopped_at")),
        "image": document["image"]["type"],
        "cores": f"{resources['cpu_milicore']['limits'] / 1000:g}",
        "memory": f"{resources['memory_megabytes']['limits']} MB",
        "storage": f"{resources['storage_megabytes']['limits']} MB",
        "variables": ", ".join(document.get("envs") or {}),
        "ports": ", ".join(map(str, document.get("additional_exposed_ports") or ())),
        "used by": "members of the project" if document.get("shared") else "its owner",
    }
    session.printer.print_details(document, {name: value for name, value in details.items() if value})


@click.command("open", cls=Command)
@_NOTEBOOK_ARGUMENT
@click.option("--no-open", is_flag=True, help="Print the link; open no browser. It works once, within a minute.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="Open what listens on this exposed port.")
@pass_session
def open_notebook(session: Session, notebook: str, no_open: bool, port: int | None) -> None:
    """Open a notebook in the browser."""
    import webbrowser

    from llmariner.cli.support.terminal import write_stderr

    api = session.api()
    found = _find(api, notebook)
    if found["status"] != "running":
        raise click.UsageError(f"{found['name']} does not run: its status is {found['status']}.")
    document = api.post(f"{_path(found['id'])}/actions:open")
    url = _checked(str(document.get("url") or _url(session.target().endpoint, found["id"], document["path"])))
    if port is not None:
        url += f"&port={port}"
    if no_open or not webbrowser.open(url):
        session.printer.print_message(document, url)
    else:
        write_stderr(f"{found['name']} opens in your browser.")


@click.command(cls=Command)
@_NOTEBOOK_ARGUMENT
@pass_session
def start(session: Session, notebook: str) -> None:
    """Start a notebook that has stopped, with its files as they are."""
    api = session.api()
    document = api.post(f"{_path(_find(api, notebook)['id'])}/actions:start")
    session.printer.print_message(document, f"{document['name']}: {document['status']}.")


@click.command(cls=Command)
@_NOTEBOOK_ARGUMENT
@pass_session
def stop(session: Session, notebook: str) -> None:
    """Stop a notebook. Its files stay; what runs in it ends."""
    api = session.api()
    document = api.post(f"{_path(_find(api, notebook)['id'])}/actions:stop")
    session.printer.print_message(document, f"{document['name']}: {document['status']}.")


@click.command(cls=Command)
@_NOTEBOOK_ARGUMENT
@click.option("--off", is_flag=True, help="Let its owner alone use it again.")
@pass_session
def share(session: Session, notebook: str, off: bool) -> None:
    """Let members of the project use a notebook of yours, with its key."""
    api = session.api()
    document = api.patch(_path(_find(api, notebook)["id"]), {"shared": not off})
    who = "its owner alone" if off else "members of the project"
    session.printer.print_message(document, f"{document['name']} is used by {who}.")


@click.command(cls=Command)
@_NOTEBOOK_ARGUMENT
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def delete(session: Session, notebook: str, force: bool) -> None:
    """Delete a notebook with its files."""
    from llmariner.cli.support.terminal import strip_control_characters

    api = session.api()
    found = _find(api, notebook)
    if not force:
        shown = strip_control_characters(str(found["name"]))
        click.confirm(f"Delete {shown} with its files?", abort=True, err=True)
    session.printer.print_message(api.delete(_path(found["id"])), f"Deleted {found['name']}.")


def _find(api: ApiClient, name_or_id: str) -> dict[str, Any]:
    from llmariner.cli.support.resolvers import find_record

    records = api.all_pages(_PATH, limit=_PAGE)["data"]
    return find_record("notebook", records, name_or_id, listing="llma workspace notebooks list")


def _path(notebook_id: str) -> str:
    from llmariner.cli.support.api import build_path

    return build_path("workspaces", "notebooks", notebook_id)


def _checked(url: str) -> str:
    """A link that a browser may open. A server must not have it open a file, or start the program of another scheme."""
    if not url.startswith(("https://", "http://")):
        raise CommandError(
            ExitCode.SERVER_ERROR,
            f"the platform names the link {url!r}, which is no https:// URL.",
            next_step="check --endpoint; `llma context get` shows the one in use.",
        )
    return url


def _url(endpoint: str, notebook_id: str, path: str) -> str:
    """The URL of a path, at a host that the notebook has of its own. Below an IP address there is none."""
    parts = urlsplit(endpoint)
    name, host = parts.hostname or "", parts.netloc
    if name in _LOCAL_HOSTS:
        host = f"{notebook_id}.localhost" + (f":{parts.port}" if parts.port else "")
    elif ":" not in name and not name.replace(".", "").isdigit():
        host = f"{notebook_id}.{host}"
    return f"{parts.scheme}://{host}{path}"
