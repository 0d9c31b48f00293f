"""`llma admin`: what an organisation's administrators do. Members are loaded when one is asked for."""

from __future__ import annotations

import click

from llmariner.cli.grammar import RootGroup

__all__ = ["admin"]

_MEMBERS = {
    "audit": "llmariner.cli.admin_audit:audit",
}


@click.group(cls=RootGroup, members=_MEMBERS)
def admin() -> None:
    """Administer organizations: who is in them, what they may do, and what they did."""
