"""`llma fine-tuning`: fine-tuning jobs. Subcommands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["fine_tuning", "jobs"]

_JOBS = "llmariner.cli.fine_tuning.commands"
_MEMBERS = {
    "create": f"{_JOBS}:create",
    "list": f"{_JOBS}:list_jobs",
    "get": f"{_JOBS}:get",
    "events": f"{_JOBS}:events",
    "logs": "llmariner.cli.fine_tuning.follow:logs",
    "watch": "llmariner.cli.fine_tuning.follow:watch",
    "checkpoints": f"{_JOBS}:checkpoints",
    "pause": f"{_JOBS}:pause",
    "resume": f"{_JOBS}:resume",
    "cancel": f"{_JOBS}:cancel",
}


@click.group("jobs", cls=LazyGroup, members=_MEMBERS)
def jobs() -> None:
    """Train models on files of examples."""


_GROUPS = {
    "jobs": "llmariner.cli.fine_tuning:jobs",
    "credentials": "llmariner.cli.fine_tuning.credentials:credentials",
}


@click.group("fine-tuning", cls=LazyGroup, members=_GROUPS, aliases={"job": "jobs"})
def fine_tuning() -> None:
    """Fine-tune models."""
