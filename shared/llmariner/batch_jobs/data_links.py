"""Links by which a job's pod fetches its data files: it holds no credential, and each link is good for one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import select

from llmariner.batch_jobs.port_ids import split_port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import NotFound
from llmariner.files.links import FileLinks
from llmariner.platform.database import Database
from llmariner.platform.jobs import Job
from llmariner.platform.jobs.kubernetes.objects import DataLink
from llmariner.tenancy.principal import maker_of

__all__ = ["DataLinks"]

_SECONDS = 7 * 86_400
"""A job may wait in line for days. Each use of a link reads what the job's maker may do then."""


class DataLinks:
    """Makes links in the name of who created the job. `url`: of the function that serves files, as pods reach it."""

    def __init__(self, database: Database, links: Callable[[], FileLinks], url: str) -> None:
        self._database = database
        self._links = links
        self._url = url

    def __call__(self, job: Job) -> Sequence[DataLink]:
        """A link for each data file. Raises NotFound for a job or a file that is gone."""
        with self._database.read() as session:
            row = session.first(select(batch_jobs).where(batch_jobs.c.id == split_port_id(job.id)[0]))
        if row is None:
            raise NotFound(f"No such batch job: {job.id}.")
        links, maker = self._links(), maker_of(row)
        seconds = min(_SECONDS, links.longest_seconds)
        made = [(file.name, links.create(maker, file.id, seconds)) for file in job.data_files]
        return [DataLink(name, self._url + link.path) for name, link in made]
