"""The platform's functions behind one port, with their own database: what the command line signs in to."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.server import Server
from llmariner.standalone.router import Router
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

__all__ = ["ServedPlatform"]

CHECKOUT = Path(__file__).parents[2]


class ServedPlatform:
    """Serves every public function; `with` it."""

    def __init__(self, folder: Path, issuer: str, **env: str) -> None:
        self.context = Context({
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_SERVING": "static",
            "LLMARINER_OIDC_ISSUER": issuer,
            **env,
        })  # fmt: skip
        upgrade(self.context.database)
        self.owner = ensure_first_owner(self.context.database)
        _, self.admin_key = create_bootstrap_key(self.context.keys, self.owner, "admin")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._server = Server(Router(CHECKOUT / "functions", self.context), host="127.0.0.1", port=self._port, grace=1)
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.url = f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> ServedPlatform:
        self._thread.start()
        assert self._listening.wait(30)
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._server.shut_down)
        self._thread.join(30)
        self.context.database.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve(self) -> None:
        await self._server.serve(self._listening.set)
        if "gateway" in self.context.__dict__:  # some request made it
            await self.context.gateway.close()
