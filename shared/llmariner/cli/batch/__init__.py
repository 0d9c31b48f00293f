"""`llma batch`: batch jobs. Subcommands are imported on use."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import LazyGroup

__all__ = ["batch", "jobs"]

_JOBS = "llmariner.cli.batch.commands"
_MEMBERS = {
    "create": f"{_JOBS}:create",
    "list": f"{_JOBS}:list_jobs",
    "get": f"{_JOBS}:get",
    "logs": f"{_JOBS}:logs",
    "output": "llmariner.cli.batch.output:output",
    "exec": "llmariner.cli.batch.programs:exec_in_job",
    "pause": f"{_JOBS}:pause",
    "resume": f"{_JOBS}:resume",
    "cancel": f"{_JOBS}:cancel",
    "delete": f"{_JOBS}:delete",
}


@click.group("jobs", cls=LazyGroup, members=_MEMBERS)
def jobs() -> None:
    """Commands with scripts and files that run in the background."""


@click.group("batch", cls=LazyGroup, members={"jobs": "llmariner.cli.batch:jobs"}, aliases={"job": "jobs"})
def batch() -> None:
    """Run general training jobs."""
