"""The platform as a process of its own, with scripted engines: what `llma up` starts, but for who runs the engines.

    python platform_program.py FOLDER PORT

The functions are the checkout's own, behind the local home's router; database, secrets and limits come from the
environment as they do for any function; the server is set up as the local home's is.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.scripted_serving import ScriptedServing

from llmariner.context import Context
from llmariner.local.home import checkout
from llmariner.local.router import Router


async def serve(folder: Path, port: int) -> None:
    context = Context()
    serving = ScriptedServing(folder)
    context.serving = serving
    # As the home does at its start: what is open in the ledger was interrupted by the end of the one before.
    context.ledger.interrupt(unseen_for=0)
    serving.watch(lambda model_id, _: context.gateway.forget(model_id))
    router: Any = Router(checkout() / "functions", context)
    config = uvicorn.Config(
        router,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        await context.gateway.close()
        await serving.close()
        context.database.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
