"""A function's lean server: `python -m llmariner.boot functions/<name>` serves its `main.py` by our own server.

The same `main.py` as under functions-framework, at a third of its cold start; what function images run.
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
    """The application of a function's or consumer's folder. ValueError when there is no main.py in it."""
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
    """Serve the folder named by the first argument on `HOST` and `PORT` (default 0.0.0.0 and 8080, as Knative expects)."""
    if len(arguments) != 1:
        sys.exit("usage: python -m llmariner.boot FOLDER")
    application = load(Path(arguments[0])).prepare()
    # What is alive now stays; what requests make dies young and without cycles, so look for garbage less often.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    # Knative's contract: every address, the port it names. Pods are cluster-local.
    serve(application, host=os.environ.get("HOST", "0.0.0.0"), port=int(os.environ.get("PORT", "8080")))  # noqa: S104


def serve(application: Any, *, host: str, port: int) -> None:
    """Serve an application in this process until it is told to end."""
    import uvloop

    limits = ServerLimits.load(os.environ)

    async def run() -> None:
        # Streams under way may take hours; whoever runs us (the kubelet) has a grace of its own and ends us after it.
        await Server(application, host=host, port=port, grace=math.inf, limits=limits).serve()
        if close := getattr(application, "close", None):
            await close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
