# mypy: ignore-errors
"""The work of a process of the release before, run by that release's own code: `python previous_release.py URL ROUNDS`.

It names modules and classes as that release has them, so no rename of this release applies here, and mypy does not
check it. Prints a JSON object of what it saw.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from llmariner.gateway.control import Amounts, Key, LeaseAsk

import llmariner
from llmariner.limits.leases import Leases
from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries, Subscription
from llmariner.settings import DatabaseSettings
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import Question, Reports

COUNTS = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0}
WHOSE = {"organization_id": "org_1", "project_id": "proj_1", "user_id": "user_1", "key_id": "key_1"}
LAST = 2**31 - 1


def life(request_id: str, now: float) -> Iterator[dict[str, Any]]:
    said = {"request_id": request_id, **WHOSE, **COUNTS, "model": "m", "route": "chat_completions", "admitted_at": now}
    end = {
        "outcome": "succeeded",
        "status": 200,
        "waited_seconds": 0.1,
        "first_token_seconds": 0.2,
        "total_seconds": 1.0,
    }
    yield {**said, "sequence": 0, "kind": "admitted", "at": now}
    yield {**said, **end, "sequence": LAST, "kind": "closed", "at": now + 1}


def main(url: str, rounds: int) -> None:
    database = Database(DatabaseSettings(url))
    ledger, now = Ledger(database), time.time()
    leases = Leases(database, {"requests_per_minute": 6000, "tokens_per_minute": 100000})
    key = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, unlimited=False)
    granted = 0
    for number in range(rounds):
        ledger.record([event for n in range(10) for event in life(f"req_{'0' * 20}{number * 10 + n:08x}", now)])
        granted += len(leases.lease(LeaseAsk("req_" + "0" * 20, now, (), key, "m", Amounts(1, 10, 1))).grants)
        with database.write() as session:
            outbox.add(session, "t", "before", {"project_id": "proj_1", "number": number})
    ledger.record([next(life("req_" + "0" * 20 + "ffffffff", now - 1000))])
    interrupted = ledger.interrupt(unseen_for=500)
    deliveries = Deliveries(database, [Subscription("consumer", "t")])
    while deliveries.fan_out():
        pass
    for delivery in deliveries.due():
        deliveries.succeeded(delivery)
    page = deliveries.page("proj_1", None, after=None, limit=100)
    rows = Reports(database).sums(Question("org_1", now - 3600, now + 3600, ("model",)))
    seen = {
        "package": llmariner.__file__,
        "granted": granted,
        "interrupted": interrupted,
        "events": sorted({delivery.event.subject for delivery in page}),
        "requests": rows[0]["requests"],
        "idle": ledger.idle_since(["m"]) is not None,
    }
    database.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
