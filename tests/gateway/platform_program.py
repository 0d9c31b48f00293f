"""The platform as a separate process with scripted engines: like `llma up`, except for the serving adapter.

    python platform_program.py FOLDER PORT [uvicorn]

The functions are the checkout's own, behind the local home's router; database, secrets and limits come from the
environment as they do for any function. It is served by the home's own server, or by uvicorn, as functions-framework is.
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

from llmariner.boot import load
from llmariner.context import Context
from llmariner.server import Server
from llmariner.standalone.platform import checkout_root
from llmariner.standalone.router import Router


async def serve(folder: Path, port: int, *, by_uvicorn: bool) -> None:
    context = Context()
    serving = ScriptedServing(folder)
    context.serving = serving
    # As the standalone mode does at its start: requests open in the ledger were interrupted by its last end.
    context.ledger.interrupt(unseen_for=0)
    serving.subscribe(lambda model_id, _: context.gateway.invalidate(model_id))
    application = _with_control(Router(checkout_root() / "functions", context), context)
    try:
        await (
            _uvicorn(application, port) if by_uvicorn else Server(application, host="127.0.0.1", port=port, grace=5)
        ).serve()
    finally:
        await context.gateway.close()
        await serving.close()
        context.database.close()


def _with_control(router: Any, context: Context) -> Any:
    """The standalone mode does not need the control function; here, functions in separate processes call it."""
    control = load(checkout_root() / "functions" / "internal_gateway")
    control.use_context(context)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        inner = control if scope.get("path", "").startswith("/internal/") else router
        await inner(scope, receive, send)

    return application


def _uvicorn(application: Any, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2]), by_uvicorn="uvicorn" in sys.argv[3:]))
