"""The id that an attempt of a fine-tuning job has for what runs it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

__all__ = ["job_id_of", "port_id"]


def port_id(job: Row[Any]) -> str:
    """The id that the jobs port has for the present attempt of a job."""
    return f"{job.id}-{job.attempt}"


def job_id_of(port_job_id: str) -> str:
    """The fine-tuning job of an id that the jobs port has."""
    return port_job_id.rpartition("-")[0]
