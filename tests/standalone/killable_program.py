"""The functions, or the consumers of events, of a platform with vector stores, as a process of its own.

    python killable_program.py functions FOLDER PORT
    python killable_program.py consumers FOLDER TICK_SECONDS

Database, secrets and engines come from the environment. The owner of the vector index is a third process; its present
address is in `FOLDER/index.json`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from llmariner.boot import load
from llmariner.context import Context
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.server import Server
from llmariner.settings import Secret
from llmariner.standalone.dispatcher import Dispatcher, delivery_timeouts, subscriptions
from llmariner.standalone.platform import checkout_root
from llmariner.standalone.router import Router
from llmariner.vector_settings import VectorSettings

_TICK = "ai.llmariner.platform.tick.v1"


def make_context(folder: Path) -> Context:
    """The context of a process, with the index at its present address."""

    def settings(_seconds: float | None) -> VectorSettings:
        try:
            said = json.loads((folder / "index.json").read_text())
        except FileNotFoundError as error:
            raise VectorIndexUnavailable("Its owner is starting.") from error
        return VectorSettings(said["uri"], token=Secret(said["token"]), index_type="FLAT")

    context = Context()
    context.vectors = MilvusIndex(settings)
    return context


async def serve_functions(context: Context, port: int) -> None:
    # As the standalone mode does at its start: requests open in the ledger were interrupted by its last end.
    context.ledger.interrupt(unseen_for=0)
    router = Router(checkout_root() / "functions", context)
    try:
        await Server(router, host="127.0.0.1", port=port, grace=5).serve()
    finally:
        await context.gateway.close()


async def consume_events(context: Context, tick_seconds: float) -> None:
    eventing = checkout_root() / "eventing"
    consumers: Any = {}
    for folder in sorted(path.parent for path in eventing.glob("*/trigger.yaml")):
        consumers[folder.name] = load(folder)
        consumers[folder.name].use_context(context)
    deliveries = Deliveries(context.database, subscriptions(eventing))
    dispatcher = Dispatcher(deliveries, consumers, delivery_timeouts(eventing))
    running = asyncio.create_task(dispatcher.run())
    while not running.done():
        await asyncio.sleep(tick_seconds)
        await asyncio.to_thread(_write_tick, context, tick_seconds)
    await running


def _write_tick(context: Context, seconds: float) -> None:
    with context.database.write() as session:
        outbox.add(session, _TICK, "platform", {"every_seconds": seconds})


if __name__ == "__main__":
    role, folder, number = sys.argv[1:]
    made = make_context(Path(folder))
    work = serve_functions(made, int(number)) if role == "functions" else consume_events(made, float(number))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
