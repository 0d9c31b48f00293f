"""Why no program is started in a job, as all adapters say it."""

from __future__ import annotations

from llmariner.errors import Conflict, RateLimited

__all__ = ["MAX_EXECUTIONS", "not_running", "too_many_programs"]

MAX_EXECUTIONS = 8
"""Programs in one job at a time."""


def not_running(job_id: str) -> Conflict:
    """The error where a job does not run."""
    return Conflict(f"The job '{job_id}' does not run.", code="job_not_running")


def too_many_programs(job_id: str) -> RateLimited:
    """The error where `MAX_EXECUTIONS` run."""
    return RateLimited(
        f"{MAX_EXECUTIONS} programs run in the job '{job_id}' already: wait for one to end.",
        headers={"retry-after": "5"},
    )
