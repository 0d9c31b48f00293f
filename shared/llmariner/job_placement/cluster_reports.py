"""What agents of worker clusters say of all kinds of jobs. For `clusters.heartbeats`, which knows none of them."""

from __future__ import annotations

from collections.abc import Sequence

from llmariner.platform.database import WriteSession

__all__ = ["request_reported_jobs"]


def request_reported_jobs(session: WriteSession, cluster_id: str, names: Sequence[str]) -> None:
    """Have the jobs on that cluster looked at that their port there knows by these names. Others are ignored.

    The tables of jobs are imported with the first name: most heartbeats have none.
    """
    from llmariner.batch_jobs import cluster_reports as of_batch_jobs
    from llmariner.fine_tuning import cluster_reports as of_fine_tuning_jobs

    known = frozenset(names)
    of_batch_jobs.request_reported(session, cluster_id, known)
    of_fine_tuning_jobs.request_reported(session, cluster_id, known)
