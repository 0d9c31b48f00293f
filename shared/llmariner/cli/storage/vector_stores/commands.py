"""`llma storage vector-stores`: create, list, get, delete, rebuild, and their files.

Adding files is in `add_files.py`, searching in `search.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from llmariner.cli.storage.vector_stores.chunk_options import chunk_options, chunking_strategy
from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.pairs import key_and_value
from llmariner.cli.support.resolvers import complete_files, complete_vector_stores, resolve_vector_store
from llmariner.cli.support.session import Session

__all__ = ["create", "delete", "delete_file", "get", "list_files", "list_stores", "rebuild"]

_PAGE = 100
"""The page size limit of the API."""

_STORE_ARGUMENT = click.argument("store", metavar="NAME_OR_ID", shell_complete=complete_vector_stores)
_LIMIT_OPTION = click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=100, show_default=True, help="Newest N."
)


@click.command(cls=Command)
@click.argument("name")
@click.option("--description", help="What it holds.")
@click.option(
    "--file-id",
    "file_ids",
    metavar="ID",
    multiple=True,
    shell_complete=complete_files,
    help="File to begin with; repeat for several.",
)
@click.option(
    "--expires-after-days", metavar="N", type=click.IntRange(min=1), help="Days without use until it is deleted."
)
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="A note about it; repeat for several.")
@click.option("--embedding-model", metavar="MODEL", help="Model that embeds its files; the platform's by default.")
@chunk_options
@pass_session
def create(
    session: Session,
    name: str,
    description: str | None,
    file_ids: tuple[str, ...],
    expires_after_days: int | None,
    metadata: tuple[str, ...],
    embedding_model: str | None,
    chunk_tokens: int | None,
    overlap_tokens: int | None,
) -> None:
    """Create a vector store called NAME."""
    body: dict[str, Any] = {"name": name}
    if description is not None:
        body["description"] = description
    if file_ids:
        body["file_ids"] = list(file_ids)
    if expires_after_days is not None:
        body["expires_after"] = {"anchor": "last_active_at", "days": expires_after_days}
    if metadata:
        body["metadata"] = dict(key_and_value(pair) for pair in metadata)
    if embedding_model is not None:
        body["embedding_model"] = embedding_model
    if strategy := chunking_strategy(chunk_tokens, overlap_tokens):
        if not file_ids:
            raise click.UsageError("Chunks are of files: give --file-id, or set their size with `add-files`.")
        body["chunking_strategy"] = strategy
    document = session.api().post("vector_stores", body)
    session.printer.print_message(document, f"Created {document.get('name')} ({document['id']}).")


@click.command("list", cls=Command)
@_LIMIT_OPTION
@pass_session
def list_stores(session: Session, limit: int) -> None:
    """List vector stores, newest first."""
    from llmariner.cli.support.output import Column, format_bytes, format_timestamp

    document = session.api().all_pages("vector_stores", max_records=limit, limit=min(limit, _PAGE))
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column.of("status"),
        Column("FILES", _counts),
        Column("SIZE", lambda store: format_bytes(store.get("usage_bytes")), right=True),
        Column("CREATED", lambda store: format_timestamp(store.get("created_at"))),
        Column("LAST USED", lambda store: format_timestamp(store.get("last_active_at"))),
    ]
    empty = "No vector stores; `llma storage vector-stores create NAME` makes one."
    session.printer.print_records(document, document["data"], columns, empty=empty)


@click.command(cls=Command)
@_STORE_ARGUMENT
@pass_session
def get(session: Session, store: str) -> None:
    """Show a vector store: state, size, files and expiry."""
    document = resolve_vector_store(session.api(), store)
    session.printer.print_details(document, _details(document))


@click.command(cls=Command)
@_STORE_ARGUMENT
@pass_session
def delete(session: Session, store: str) -> None:
    """Delete a vector store. Its files stay."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_vector_store(api, store)
    answer = api.delete(build_path("vector_stores", found["id"]))
    session.printer.print_message(answer, f"Deleted {found.get('name') or found['id']}.")


@click.command(cls=Command)
@_STORE_ARGUMENT
@pass_session
def rebuild(session: Session, store: str) -> None:
    """Embed and index the files of a vector store again.

    For an index that was lost, or a model that changed. Each file is in progress until it is indexed. Counts to you.
    """
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_vector_store(api, store)
    path = build_path("vector_stores", found["id"], "rebuild")
    answer = api.post(path)
    session.printer.print_message(answer, f"{found.get('name') or found['id']} is being indexed again.")


@click.command("files", cls=Command)
@_STORE_ARGUMENT
@click.option(
    "--status",
    type=click.Choice(["in_progress", "completed", "failed", "cancelled"]),
    help="Only files in this state.",
)
@_LIMIT_OPTION
@pass_session
def list_files(session: Session, store: str, status: str | None, limit: int) -> None:
    """List the files of a vector store, newest first."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import Column, format_bytes, format_timestamp

    api = session.api()
    path = build_path("vector_stores", resolve_vector_store(api, store)["id"], "files")
    document = api.all_pages(path, max_records=limit, limit=min(limit, _PAGE), filter=status)
    columns = [
        Column.of("id"),
        Column.of("status"),
        Column("CHUNKS", _chunks, right=True),
        Column("SIZE", lambda file: format_bytes(file.get("usage_bytes")), right=True),
        Column("ADDED", lambda file: format_timestamp(file.get("created_at"))),
        Column("ATTRIBUTES", lambda file: ", ".join(f"{k}={v}" for k, v in (file.get("attributes") or {}).items())),
        Column("ERROR", lambda file: (file.get("last_error") or {}).get("message")),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No files.")


@click.command("delete-file", cls=Command)
@_STORE_ARGUMENT
@click.option("-f", "--file-id", metavar="ID", required=True, help="The file.")
@pass_session
def delete_file(session: Session, store: str, file_id: str) -> None:
    """Take a file out of a vector store. The file itself stays."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_vector_store(api, store)
    answer = api.delete(build_path("vector_stores", found["id"], "files", file_id))
    session.printer.print_message(answer, f"Took {file_id} out of {found.get('name') or found['id']}.")


def _counts(store: Mapping[str, Any]) -> str:
    """Such as `12`, or `12 of 15, 1 failed`."""
    counts = store.get("file_counts") or {}
    completed, total, failed = (counts.get(name) or 0 for name in ("completed", "total", "failed"))
    text = f"{completed}" if completed == total else f"{completed} of {total}"
    return f"{text}, {failed} failed" if failed else text


def _chunks(file: Mapping[str, Any]) -> str | None:
    """Such as `12`, or `4 of 12` while the file is being indexed."""
    progress = file.get("progress") or {}
    indexed, total = progress.get("chunks_indexed"), progress.get("chunks")
    if total is None:
        return None
    return f"{total}" if indexed == total else f"{indexed} of {total}"


def _details(store: Mapping[str, Any]) -> dict[str, str | int | None]:
    from llmariner.cli.support.output import format_bytes, format_timestamp

    metadata = store.get("metadata") or {}
    return {
        "id": store.get("id"),
        "name": store.get("name"),
        "description": store.get("description"),
        "status": store.get("status"),
        "files": _counts(store),
        "size": format_bytes(store.get("usage_bytes")),
        "created": format_timestamp(store.get("created_at")),
        "last used": format_timestamp(store.get("last_active_at")),
        "expires": format_timestamp(store.get("expires_at")) or "never",
        "metadata": ", ".join(f"{key}={value}" for key, value in metadata.items()),
    }
