"""`llma storage`: files and vector stores. Subcommands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["storage"]

_MEMBERS = {
    "files": "llmariner.cli.storage.files.commands:files",
    "vector-stores": "llmariner.cli.storage.vector_stores:vector_stores",
}
_ALIASES = {"file": "files", "vector-store": "vector-stores", "vs": "vector-stores"}


@click.group(cls=LazyGroup, members=_MEMBERS, aliases=_ALIASES)
def storage() -> None:
    """Upload files, and search vector stores made of them."""
