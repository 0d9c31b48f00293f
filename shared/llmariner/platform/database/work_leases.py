"""Leases for work that one process at a time does; a request that arrives while another process works is not lost.

A process acquires the lease or leaves a request with its holder; the holder may release the lease only when no request
arrived since it last read the count. The lease of a process that dies expires. Times are of the database's clock.
"""

from __future__ import annotations

from sqlalchemy import and_, select, update

from llmariner.platform.database import Database
from llmariner.platform.database.tables import work_leases

__all__ = ["WorkLease"]

_NO_HOLDER = ""


class WorkLease:
    """The lease of one kind of work, as one process (`holder`) sees it."""

    def __init__(self, database: Database, name: str, holder: str) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._ours = and_(work_leases.c.name == name, work_leases.c.holder == holder)

    def acquire(self, seconds: float) -> int | None:
        """Acquire the lease for that many seconds and return the number of requests so far.

        None when another process holds it, which then has one more request, or when the work is paused.
        """
        this = work_leases.c.name == self._name
        with self._database.write() as session:
            blank = {"name": self._name, "holder": _NO_HOLDER, "expires_at": 0.0, "requests": 0}
            session.insert_if_absent(work_leases, [blank])
            row, now = session.rows(select(work_leases).where(this).with_for_update())[0], session.now()
            # An expiry far beyond the requested duration means that the clock was set back: the lease counts as expired.
            over = not now < row.expires_at <= now + 2 * seconds
            if over or row.holder == self._holder:
                session.run(update(work_leases).where(this).values(holder=self._holder, expires_at=now + seconds))
                return int(row.requests)
            if row.holder != _NO_HOLDER:
                session.run(update(work_leases).where(this).values(requests=work_leases.c.requests + 1))
            return None

    def release(self, seen: int, seconds: float) -> int | None:
        """Release the lease, unless requests arrived since the count was `seen`.

        None: it is released, or lost. Otherwise the new number of requests; the lease is renewed for `seconds`.
        """
        with self._database.write() as session:
            row = session.first(select(work_leases.c.requests).where(self._ours).with_for_update())
            if row is None:
                return None
            more = int(row.requests) > seen
            values = {"expires_at": session.now() + seconds} if more else {"expires_at": 0.0, "holder": _NO_HOLDER}
            session.run(update(work_leases).where(self._ours).values(**values))
            return int(row.requests) if more else None

    def renew(self, seconds: float) -> bool:
        """Extend the lease to `seconds` from now; False when it is lost."""
        with self._database.write() as session:
            return session.run(update(work_leases).where(self._ours).values(expires_at=session.now() + seconds)) == 1

    def pause(self, seconds: float) -> None:
        """Release the lease and keep every process from acquiring it for that many seconds."""
        with self._database.write() as session:
            until = {"holder": _NO_HOLDER, "expires_at": session.now() + seconds}
            session.run(update(work_leases).where(self._ours).values(**until))
