"""The platform's functions behind one port, with their own database and folder of objects."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.server import Server
from llmariner.standalone.router import Router
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

__all__ = ["ServedFunctions"]

CHECKOUT = Path(__file__).parents[2]


class ServedFunctions:
    """Serves every public function, without engines and without event consumers; `with` it."""

    def __init__(self, folder: Path, **env: str) -> None:
        self._context = Context({
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_SERVING": "static",
            "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
            **env,
        })  # fmt: skip
        upgrade(self._context.database)
        owner = ensure_first_owner(self._context.database)
        _, self.key = create_bootstrap_key(self._context.keys, owner, "admin")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        router = Router(CHECKOUT / "functions", self._context)
        self._loop = asyncio.new_event_loop()
        self._server = Server(router, host="127.0.0.1", port=self.port, grace=1)
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ServedFunctions:
        self._thread.start()
        assert self._listening.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.shut_down)
        self._thread.join(30)
        self._context.database.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._server.serve(self._listening.set))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
