"""The standalone dispatcher: deliveries that take hours do not delay those of other projects."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries, Subscription
from llmariner.settings import DatabaseSettings
from llmariner.standalone.dispatcher import Dispatcher


@pytest.mark.parametrize("flood", [5, 40])
def test_hanging_deliveries_of_one_project_delay_no_other(tmp_path: Path, flood: int) -> None:
    database = Database(DatabaseSettings(f"sqlite:///{tmp_path / 'platform.db'}"))
    upgrade(database)
    type_, begun, ended = "ai.test.fetched.v1", [], asyncio.Event()

    async def fetch(scope: Any, receive: Any, send: Any) -> None:
        whose = json.loads((await receive())["body"])["project_id"]
        begun.append(whose)
        if whose == "proj_flood":
            await ended.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with database.write() as session:
        for number in range(flood):
            outbox.add(session, type_, f"flood/{number}", {"project_id": "proj_flood"})
        for project in ("proj_a", "proj_b"):
            outbox.add(session, type_, f"models/{project}", {"project_id": project})
    dispatcher = Dispatcher(Deliveries(database, [Subscription("loader", type_)]), {"loader": fetch})

    async def deliver() -> None:
        await dispatcher.start_due()
        deadline = time.monotonic() + 20
        while not {"proj_a", "proj_b"} <= set(begun):
            assert time.monotonic() < deadline, begun
            await asyncio.sleep(0.01)
        await dispatcher.start_due()
        assert begun.count("proj_flood") == 2
        ended.set()
        while begun.count("proj_flood") < flood:
            assert time.monotonic() < deadline, begun
            await dispatcher.drain()
            await dispatcher.start_due()
        await dispatcher.drain()
        assert not dispatcher._running_by_project

    asyncio.run(deliver())
    database.close()
