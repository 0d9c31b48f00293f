"""`llma storage vector-stores`. Commands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["vector_stores"]

_COMMANDS = "llmariner.cli.storage.vector_stores.commands"
_MEMBERS = {
    "create": f"{_COMMANDS}:create",
    "add-files": "llmariner.cli.storage.vector_stores.add_files:add_files",
    "search": "llmariner.cli.storage.vector_stores.search:search",
    "list": f"{_COMMANDS}:list_stores",
    "get": f"{_COMMANDS}:get",
    "files": f"{_COMMANDS}:list_files",
    "delete-file": f"{_COMMANDS}:delete_file",
    "delete": f"{_COMMANDS}:delete",
    "rebuild": f"{_COMMANDS}:rebuild",
}


@click.group("vector-stores", cls=LazyGroup, members=_MEMBERS, aliases={"list-files": "files"})
def vector_stores() -> None:
    """Make documents searchable, and search them."""
