"""`llma workspace`: notebooks. Subcommands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["notebooks", "workspace"]

_NOTEBOOKS = "llmariner.cli.workspace.commands"
_MEMBERS = {
    "create": f"{_NOTEBOOKS}:create",
    "list": f"{_NOTEBOOKS}:list_notebooks",
    "get": f"{_NOTEBOOKS}:get",
    "open": f"{_NOTEBOOKS}:open_notebook",
    "start": f"{_NOTEBOOKS}:start",
    "stop": f"{_NOTEBOOKS}:stop",
    "share": f"{_NOTEBOOKS}:share",
    "delete": f"{_NOTEBOOKS}:delete",
}


@click.group("notebooks", cls=LazyGroup, members=_MEMBERS)
def notebooks() -> None:
    """JupyterLab with files that are kept and a key for the platform."""


@click.group(
    "workspace",
    cls=LazyGroup,
    members={"notebooks": "llmariner.cli.workspace:notebooks"},
    aliases={"notebook": "notebooks", "nbs": "notebooks", "nb": "notebooks"},
)
def workspace() -> None:
    """Work in notebooks."""
