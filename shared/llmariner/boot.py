"""The entry point of function images: `python -m llmariner.boot functions/<name>` serves a function with `llmariner.server`.

It serves the same `main.py` as functions-framework does, with a third of its cold start.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import Any

from llmariner.http.entrypoint import LazyApplication, application_of, deferred_build
from llmariner.server import Server, ServerLimits

__all__ = ["load", "main"]


def load(folder: Path) -> LazyApplication:
    """The application of a function's or event consumer's folder. ValueError when it has no main.py."""
    source = folder / "main.py"
    if not source.is_file():
        raise ValueError(f"{folder} holds no main.py; name the folder of a function or of an event consumer.")
    name = f"{folder.parent.name}_{folder.name}_main"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with deferred_build():
        spec.loader.exec_module(module)
    return application_of(module.handle)


def main(arguments: list[str]) -> None:
    """Serve the folder of the only argument on `HOST` and `PORT` (0.0.0.0 and 8080 by default, as Knative expects)."""
    if len(arguments) != 1:
        sys.exit("usage: python -m llmariner.boot FOLDER")
    application = load(Path(arguments[0])).prepare()
    # Objects alive now stay alive, and those of requests are freed without cycles, so garbage is collected less often.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    # Knative's runtime contract: listen on all addresses, at the given port. Pods are cluster-local.
    serve(application, host=os.environ.get("HOST", "0.0.0.0"), port=int(os.environ.get("PORT", "8080")))  # noqa: S104


def serve(application: Any, *, host: str, port: int) -> None:
    """Serve an application in this process until SIGTERM or SIGINT, then call its `close` if it has one."""
    import uvloop

    limits = ServerLimits.load(os.environ)

    async def run() -> None:
        # Open streams may take hours: the kubelet applies its own grace period.
        await Server(application, host=host, port=port, grace=math.inf, limits=limits).serve()
        if close := getattr(application, "close", None):
            await close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
