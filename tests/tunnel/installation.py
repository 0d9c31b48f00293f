"""An installation with replicas of the sessions function, an agent, and a server in the place of the cluster's API server.

Everything runs in one event loop, over real sockets. The API server is scripted: what people's requests become is what these
tests are about. `tests/kubernetes_api` has the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection

from llmariner.agent.tunnel import ApiServer, KubernetesRelay, TunnelConnections
from llmariner.boot import load
from llmariner.clusters.clusters import Clusters
from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.tunnel import TunnelLimits
from llmariner.platform.tunnel.websocket import AcceptedWebsocket, accept_value
from llmariner.server import Server
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import OWNER_SCOPES, VIEWER_SCOPES
from llmariner.tenancy.tables import organization_users, organizations, project_users, projects, users

__all__ = ["Installation", "KubernetesApi", "Replica", "ask", "running_agent", "serving", "until"]

FUNCTION = Path(__file__).parents[2] / "functions/sessions"


class Installation:
    """A database with an organization, its cluster `gpu`, a project with the namespace `team`, and keys."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_SERVING": "static",
            "LLMARINER_SERVING_STATIC": "{}",
        }
        self.context = Context(self.environment)
        upgrade(self.context.database)
        self.owner = ensure_first_owner(self.context.database)
        _, self.key = create_bootstrap_key(self.context.keys, self.owner, "tunnel")
        self.caller = Caller(
            self.owner.user_id,
            "owner@example.org",
            self.owner.organization_id,
            self.owner.project_id,
            "owner",
            "owner",
            OWNER_SCOPES,
        )
        self.clusters = Clusters(self.context.database, self.context.secrets.pepper)
        self.cluster, self.registration_key = self.clusters.register(self.caller, "gpu")
        self.assign([{"cluster_id": self.cluster.id, "namespace": "team", "queue": "", "node_selector": []}])
        _, self.viewer_key = self.context.keys.create(self.owner, NewKey("viewer", scopes=VIEWER_SCOPES))

    def assign(self, assignments: list[dict[str, Any]]) -> None:
        """Replace the namespaces of the project."""
        with self.context.database.write() as session:
            row = projects.update().where(projects.c.id == self.owner.project_id)
            session.run(row.values(assignments=json.dumps(assignments)))

    def outsider_key(self) -> str:
        """The key of an owner of another organization."""
        with self.context.database.write() as session:
            session.add(users, id="user_2", email="eve@example.org", created_at=1)
            session.add(organizations, id="org_2", title="Others", is_default=False, created_at=1)
            row = {"id": "proj_2", "organization_id": "org_2", "title": "Theirs"}
            session.add(projects, **row, is_default=False, created_at=1)
            joined = {"user_id": "user_2", "organization_id": "org_2", "role": "owner", "created_at": 1}
            session.add(organization_users, **joined)
            session.add(project_users, project_id="proj_2", **joined)
        return create_bootstrap_key(self.context.keys, KeyOwner("user_2", "proj_2", "org_2"), "theirs")[1] or ""


@dataclass
class KubernetesApi:
    """What an API server got, and its answers by path: bytes, or pieces with pauses."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    open: int = 0
    port: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        target = scope["raw_path"].decode() + ("?" + query if (query := scope["query_string"].decode()) else "")
        self.requests.append({"method": scope["method"], "target": target, "headers": headers, "body": body})
        self.open += 1
        try:
            if dict(headers).get("upgrade"):
                await self._upgrade(scope, dict(headers))
                return
            answer = self.answers.get(scope["path"], b'{"kind":"PodList","items":[]}')
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
            )
            for part in [answer] if isinstance(answer, bytes) else answer:
                if not isinstance(part, bytes):
                    await part
                    continue
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.open -= 1

    async def _upgrade(self, scope: Any, headers: dict[str, str]) -> None:
        """A websocket that sends each message back, or any other protocol whose bytes come back."""
        cycle = scope["extensions"]["llmariner.response"]
        if headers["upgrade"] != "websocket":
            reader = asyncio.StreamReader()
            protocol: Any = asyncio.StreamReaderProtocol(reader)
            fields = [(b"upgrade", headers["upgrade"].encode()), (b"x-stream-protocol-version", b"v4.channel.k8s.io")]
            assert cycle.upgrade(fields, protocol, lambda: None)
            while data := await reader.read(65536):
                protocol._transport.write(data)
            protocol._transport.close()
            return
        websocket = AcceptedWebsocket(TunnelLimits())
        fields = [(b"upgrade", b"websocket"), (b"sec-websocket-protocol", b"v5.channel.k8s.io")]
        fields.append((b"sec-websocket-accept", accept_value(headers["sec-websocket-key"].encode())))
        assert cycle.upgrade(fields, websocket, lambda: None)
        with contextlib.suppress(Exception):
            while True:
                await websocket.send(await websocket.recv())


@dataclass
class Replica:
    """A replica that serves; `stop` kills it: its connections are reset."""

    server: Server
    task: asyncio.Task[None]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self.task.cancel()
        for connection in list(self.server.connections):
            connection.abort()
        await asyncio.gather(self.task, return_exceptions=True)


async def start(application: Any, port: int) -> Replica:
    server, listening = Server(application, host="127.0.0.1", port=port, grace=0.5), asyncio.Event()
    task = asyncio.create_task(server.serve(listening.set))
    await asyncio.wait_for(listening.wait(), 10)
    return Replica(server, task, port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(installation: Installation, api: KubernetesApi, replicas: int = 1) -> AsyncIterator[list[Replica]]:
    """Replicas of the function, and the API server."""
    api.port = free_port()
    started = [await start(api, api.port)]
    for _ in range(replicas):
        port = free_port()
        application = load(FUNCTION)
        application.use_context(
            Context({**installation.environment, "LLMARINER_REPLICA_URL": f"http://127.0.0.1:{port}"})
        )
        started.append(await start(application.prepare(), port))
    try:
        yield started[1:]
    finally:
        for each in started:
            await each.stop()


@contextlib.asynccontextmanager
async def running_agent(
    installation: Installation, api: KubernetesApi, replica: Replica, *, wanted: int = 1, key: str = ""
) -> AsyncIterator[TunnelConnections]:
    """An agent that is connected to one replica."""
    token = Path(installation.environment["LLMARINER_DATABASE_URL"].removeprefix("sqlite:///")).with_name("token")
    token.write_text("agents-own-token")
    relay = KubernetesRelay(ApiServer("127.0.0.1", api.port, None, token))
    connections = TunnelConnections(replica.url, lambda: key or installation.registration_key, relay, wanted=wanted)
    task = asyncio.create_task(connections.run())
    try:
        await until(lambda: len(connections._open) == wanted)
        yield connections
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def ask(
    replica: Replica, key: str, path: str, *, method: str = "GET", fields: str = "", body: bytes = b""
) -> tuple[int, bytes]:
    """A request without any client between: the path is sent as it is. Returns status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    length = f"content-length: {len(body)}\r\n" if method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n{length}{fields}\r\n"
    writer.write(head.encode() + body)
    try:
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head_bytes.lower():
        chunks, left = b"", rest
        while left:
            size, _, left = left.partition(b"\r\n")
            chunks, left = chunks + left[: int(size, 16)], left[int(size, 16) + 2 :]
        rest = chunks
    return int(head_bytes.split(b" ", 2)[1] or 0) if head_bytes else 0, rest


def open_exec(replica: Replica, key: str, cluster_id: str) -> Any:
    """A websocket of `kubectl exec`."""
    from websockets.asyncio.client import connect

    url = f"ws://127.0.0.1:{replica.port}/v1/sessions/{cluster_id}/api/v1/namespaces/team/pods/p/exec?command=sh&stdin=true"
    headers = {"authorization": f"Bearer {key}"}
    return connect(url, additional_headers=headers, subprotocols=["v5.channel.k8s.io"], compression=None, proxy=None)  # type: ignore[list-item]


Websocket = ClientConnection
