"""Requests wait for a control plane that is away, but none of a client that has disconnected."""

from __future__ import annotations

import asyncio
import socket

import pytest

from llmariner.gateway.control_plane import retries
from llmariner.gateway.control_plane.port import Key
from llmariner.gateway.control_plane.retries import ControlPlaneUnreachable
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS
from llmariner.gateway.requests.route_app import RouteApp
from llmariner.gateway.state import Gateway
from llmariner.server import Server
from llmariner.settings import GatewaySettings, Secret

from .running_platform import soon
from .test_single_response import BODY, _OneKeyControlPlane

REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-x\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)


class _AwayControlPlane(_OneKeyControlPlane):
    """Is never reachable: `asked` are the keys that it was asked for."""

    def __init__(self) -> None:
        super().__init__("")
        self.asked = 0

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
        self.asked += 1
        raise ControlPlaneUnreachable("away")


def test_no_request_waits_for_it_whose_client_has_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_PAUSE_SECONDS", 0.02)
    control = _AwayControlPlane()

    async def scenario() -> None:
        gateway = Gateway(control, GatewaySettings(), Secret("p" * 64))
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        server, up = Server(RouteApp(gateway, CHAT_COMPLETIONS), host="127.0.0.1", port=port), asyncio.Event()
        served = asyncio.create_task(server.serve(up.set))
        async with asyncio.timeout(20):
            await up.wait()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = BODY % b"false"
            writer.write(REQUEST % (len(body), body))
            await soon(lambda: control.asked >= 3)
            writer.transport.abort()
            await soon(lambda: not server.connections)
            await asyncio.sleep(0.1)  # for one that is asked at this moment
            asked = control.asked
            await asyncio.sleep(0.2)
            assert control.asked == asked
        server.shut_down()
        for task in (*gateway._tasks, *gateway._wake_loops.values()):
            task.cancel()
        gateway.engine_client.close()
        await served

    asyncio.run(scenario())
