"""What runs a batch job, found by its row or its id."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from sqlalchemy import Row, select

from llmariner.batch_jobs.port_ids import port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import NotFound
from llmariner.job_placement.places import JobPlaces
from llmariner.platform.database import Database
from llmariner.platform.jobs import Jobs

__all__ = ["JobPorts"]

_KNOWN_SECONDS = 5.0
_MAX_KNOWN = 1000


class JobPorts:
    """Finds what runs a job. Thread-safe."""

    def __init__(self, database: Database, places: JobPlaces) -> None:
        self._database = database
        self._places = places
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Row[Any]]] = OrderedDict()

    def of_row(self, row: Row[Any]) -> Jobs:
        """What runs the job of a row, by the id `port_id(row)`. Raises Unavailable, NotFound for a cluster that is gone."""
        return self._places.port(row.cluster_id, gpus=bool(row.gpu_count))

    def of(self, job_id: str) -> tuple[Jobs, str]:
        """The same by the job's id, of which a few seconds ago counts: output is asked for again and again."""
        now = time.monotonic()
        with self._lock:
            read_at, row = self._known.get(job_id, (0.0, None))
        if row is None or now - read_at > _KNOWN_SECONDS:
            c = batch_jobs.c
            with self._database.read() as session:
                row = session.first(select(c.id, c.cluster_id, c.placement, c.gpu_count).where(c.id == job_id))
            if row is None:
                raise NotFound(f"No such batch job: '{job_id[:64]}'.", param="id")
            with self._lock:
                self._known[job_id] = now, row
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        return self.of_row(row), port_id(row)
