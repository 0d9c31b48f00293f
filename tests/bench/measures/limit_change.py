"""What a change of one key's limit costs a process that knows 10,000 keys: CPU time, and the slowest request after it.

After the change every key makes one request, as busy tenants do. Control function and database (SQLite) are in the process,
so that their work is counted too. The same requests without a change are subtracted.

    python -m tests.bench.measures.limit_change
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from llmariner.gateway.control_plane.port import Key, LeaseRequest, LeaseResponse
from llmariner.gateway.limits.limiter import Limiter
from llmariner.limits.leases import Leases
from llmariner.limits.revisions import Revisions
from llmariner.limits.rules import Limits as Rules
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner

KEYS = 10_000
MOST = {"requests_per_minute": 6_400_000, "tokens_per_minute": 640_000_000}
_FRESH_SECONDS = 1.1


class Cost(NamedTuple):
    """Of one change."""

    cpu_milliseconds: float
    slowest_milliseconds: float
    questions: int


@dataclass
class LeasingControlPlane:
    """The control plane as far as limits go."""

    leases: Leases
    lease_requests: int = 0

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        self.lease_requests += 1
        return await asyncio.to_thread(self.leases.lease, ask)


def measure(count: int = KEYS) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(DatabaseSettings(f"sqlite:///{folder}/limits.db"))
        upgrade(database)
        try:
            return asyncio.run(_measure(database, count))
        finally:
            database.close()


async def _measure(database: Database, count: int) -> Cost:
    owner = ensure_first_owner(database)
    key = Key("", owner.project_id, owner.organization_id, owner.user_id, frozenset(), None, unlimited=False)
    keys = [replace(key, id=f"key_{number}") for number in range(count)]
    control, revisions = LeasingControlPlane(Leases(database, MOST)), Revisions(database)
    limits = Limiter(control)  # type: ignore[arg-type]
    for at in range(0, count, 500):
        await asyncio.gather(*(limits.reserve(each, "m", 1, 1) for each in keys[at : at + 500]))
    limits.invalidate((), revisions.latest().limits, ())
    quiet = statistics.median([(await _requests(limits, keys))[0] for _ in range(5)])
    known = limits.revision
    Rules(database).put(None, Subject(owner.organization_id, "key", "key_7"), "*", {"requests_per_minute": 10**6})
    await asyncio.sleep(_FRESH_SECONDS)
    control.lease_requests, began = 0, time.process_time()
    limits.invalidate((), revisions.latest().limits, revisions.changed_subjects_since(known))
    notified = time.process_time() - began
    spent, slowest = await _requests(limits, keys)
    return Cost(1e3 * (notified + spent - quiet), 1e3 * slowest, control.lease_requests)


async def _requests(limits: Limiter, keys: Sequence[Key]) -> tuple[float, float]:
    """CPU seconds of one request of each key, and wall seconds of the slowest."""
    began, slowest = time.process_time(), 0.0

    async def one(key: Key) -> None:
        nonlocal slowest
        asked = time.perf_counter()
        if limits.try_reserve(key, "m", 1, 1) is None:
            await limits.reserve(key, "m", 1, 1)
        slowest = max(slowest, time.perf_counter() - asked)

    await asyncio.gather(*map(one, keys))
    await asyncio.sleep(0.2)  # what is asked in the background
    return time.process_time() - began, slowest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=KEYS)
    print(measure(parser.parse_args().keys))
