"""Work that one process at a time does, and that is never left undone because another was at it just then.

Who wants it done takes the lease, or leaves a request with whoever has it; the holder may give the lease back only when no
request came since it last looked. A holder that dies has it for `seconds` at most. Times are of the database's clock.
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
        """The number of requests so far; None when another has it, who is asked to look again, or when it is paused."""
        this = work_leases.c.name == self._name
        with self._database.write() as session:
            blank = {"name": self._name, "holder": _NO_HOLDER, "expires_at": 0.0, "requests": 0}
            session.insert_if_absent(work_leases, [blank])
            row, now = session.rows(select(work_leases).where(this).with_for_update())[0], session.now()
            # Nobody has it for much longer than we would: then it was taken before the clock was set back.
            over = not now < row.expires_at <= now + 2 * seconds
            if over or row.holder == self._holder:
                session.run(update(work_leases).where(this).values(holder=self._holder, expires_at=now + seconds))
                return int(row.requests)
            if row.holder != _NO_HOLDER:
                session.run(update(work_leases).where(this).values(requests=work_leases.c.requests + 1))
            return None

    def release(self, seen: int, seconds: float) -> int | None:
        """None: it is given back, or lost. Else the number of requests, which rose since it was `seen`; it is kept on."""
        with self._database.write() as session:
            row = session.first(select(work_leases.c.requests).where(self._ours).with_for_update())
            if row is None:
                return None
            more = int(row.requests) > seen
            values = {"expires_at": session.now() + seconds} if more else {"expires_at": 0.0, "holder": _NO_HOLDER}
            session.run(update(work_leases).where(self._ours).values(**values))
            return int(row.requests) if more else None

    def renew(self, seconds: float) -> bool:
        """Whether it is still ours; then it is for that long."""
        with self._database.write() as session:
            return session.run(update(work_leases).where(self._ours).values(expires_at=session.now() + seconds)) == 1

    def pause(self, seconds: float) -> None:
        """Nobody is to do it for that long: it can't be done now."""
        with self._database.write() as session:
            until = {"holder": _NO_HOLDER, "expires_at": session.now() + seconds}
            session.run(update(work_leases).where(self._ours).values(**until))
