"""Requests for engines of a worker cluster: from the gateway's client through `functions/sessions` and the agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmariner.agent.tunnel import ApiServer, EngineRelay, KubernetesRelay, TunnelConnections
from llmariner.agent.tunnel.thread import relay_by_path
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.engine_tunnel import ENGINE_AUDIENCE, EngineTunnel
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.platform.kube import Listing
from llmariner.platform.tunnel.engine_paths import EnginePath

from .installation import Installation, KubernetesApi, Replica, ask, serving, until

LABELS = {"app.kubernetes.io/managed-by": "llmariner", "serving.kserve.io/inferenceservice": "m-small"}
EVENT = b'data: {"choices":[{"delta":{"content":" word"}}]}\n\n'


class Engine:
    """An HTTP server in the place of vLLM: streams on `/v1/chat/completions`, counts what is open, and echoes bodies."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.open = 0
        self.tokens = 3
        self.port = 0
        self.gate = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self.requests.append((head[0], fields, body))
                self.open += 1
                try:
                    await self.respond(head[0].split(" ")[1], body, reader, writer)
                finally:
                    self.open -= 1
        writer.close()

    async def respond(self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path == "/silent":
            assert await reader.read(1) == b""  # until the client is gone
            return
        if path == "/unchanged":
            writer.write(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n")
            return
        if path != "/v1/chat/completions":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(self.tokens):
            writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            if number == 0:
                await self.gate.wait()
            await writer.drain()
        if body == b"break":
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n")


class Pods:
    """The pods of a cluster, as the agent lists them."""

    def __init__(self, port: int) -> None:
        self.pods = {"engine": LABELS, "other": {**LABELS, "app.kubernetes.io/managed-by": "helm"}}
        self.pods["job"] = {"app.kubernetes.io/managed-by": "llmariner"}
        self.port = port
        self.lists = 0

    def list(self, resource: Any, namespace: str, *, labels: dict[str, str], fields: str) -> Listing:
        self.lists += 1
        name = fields.removeprefix("metadata.name=")
        has = self.pods.get(name, {}) if namespace == "models" else {}
        found = [self.pod(name, has)] if has and labels.items() <= has.items() else []
        return Listing(found, "1")

    def pod(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        container = {"name": "kserve-container", "ports": [{"containerPort": self.port}]}
        metadata = {"name": name, "labels": labels}
        return {"metadata": metadata, "spec": {"containers": [container]}, "status": {"podIP": "127.0.0.1"}}


class Way:
    """What a scenario gets: the client with the tunnel, the origin of the engine, and the parts between."""

    def __init__(self, installation: Installation, replica: Replica, engine: Engine, pods: Pods) -> None:
        tokens = ServiceTokens(
            installation.environment["LLMARINER_SERVICE_SECRET"], issuer="gateway", audience=ENGINE_AUDIENCE
        )
        self.tokens, self.replica, self.engine, self.pods = tokens, replica, engine, pods
        self.client = Client(tunnel=EngineTunnel(replica.url, tokens))
        self.cluster = f"tunnel:{installation.cluster.id}"
        self.origin = f"{self.cluster}/models/engine"
        self.installation = installation

    async def post(self, path: str, body: bytes, origin: str = "") -> Any:
        fields = [(b"content-type", b"application/json"), (b"x-request-id", b"req_1"), (b"cookie", b"secret=1")]
        return await self.client.request(origin or self.origin, "POST", path, headers=fields, body=body)


@pytest.fixture
def installation(tmp_path: Path) -> Any:
    made = Installation(tmp_path)
    yield made
    made.context.database.close()


@contextlib.asynccontextmanager
async def the_way(installation: Installation, *, replicas: int = 1) -> AsyncIterator[Way]:
    engine, api = Engine(), KubernetesApi()
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    pods = Pods(listening.sockets[0].getsockname()[1])
    engines = EngineRelay(pods)  # type: ignore[arg-type]
    relay = relay_by_path(KubernetesRelay(ApiServer("127.0.0.1", 1, None, Path("/none"))), engines)
    async with serving(installation, api, replicas) as started:
        connections = TunnelConnections(started[0].url, lambda: installation.registration_key, relay, wanted=1)
        task = asyncio.create_task(connections.run())
        await until(lambda: connections._open)
        way = Way(installation, started[-1], engine, pods)
        try:
            yield way
        finally:
            way.client.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            engines.close()
            listening.close()


def run(installation: Installation, scenario: Callable[[Way], Awaitable[None]], *, replicas: int = 1) -> None:
    async def whole() -> None:
        async with the_way(installation, replicas=replicas) as way:
            await scenario(way)

    asyncio.run(asyncio.wait_for(whole(), 60))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_stream_arrives_token_by_token_by_any_replica_and_the_next_request_reuses_connections(
    installation: Installation, replicas: int
) -> None:
    async def scenario(way: Way) -> None:
        for _ in range(2):
            way.engine.gate.clear()
            response = await way.post("/v1/chat/completions", b'{"stream":true}')
            assert (response.status, response.header(b"content-type")) == (200, b"text/event-stream")
            assert await response.chunk() == EVENT  # before the engine continues
            way.engine.gate.set()
            rest = b""
            while part := await response.chunk():
                rest += part
            response.close()
            assert rest == 2 * EVENT
        line, fields, body = way.engine.requests[0]
        assert (line, body) == ("POST /v1/chat/completions HTTP/1.1", b'{"stream":true}')
        assert fields["x-request-id"] == "req_1"
        assert not {"authorization", "cookie"} & set(fields)  # the token and what a client said stay with us
        assert way.pods.lists == 1

    run(installation, scenario, replicas=replicas)


def test_a_large_body_arrives_whole_and_its_response_too(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        body = bytes(range(256)) * 8192
        response = await way.post("/tokenize", body)
        assert await response.read() == body

    run(installation, scenario)


@pytest.mark.parametrize("path", ["/silent", "/v1/chat/completions"])
def test_a_hang_up_reaches_the_engine_at_once(installation: Installation, path: str) -> None:
    async def scenario(way: Way) -> None:
        task = asyncio.create_task(way.post(path, b"{}"))
        await until(lambda: way.engine.open == 1)
        if path == "/silent":  # before the engine has begun to respond
            task.cancel()
        else:
            (await task).close()
            way.engine.tokens = 1_000_000
            way.engine.gate.set()
        await until(lambda: way.engine.open == 0, 5)

    run(installation, scenario)


def test_an_engine_that_breaks_off_breaks_off_at_the_gateway(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        way.engine.gate.set()
        response = await way.post("/v1/chat/completions", b"break")
        with pytest.raises(ResponseFailed):
            await response.read()

    run(installation, scenario)


def test_nothing_but_engines_of_the_platform_is_reached(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        for pod in ("models/other", "models/job", "models/none", "kube-system/engine"):
            with pytest.raises(ConnectionFailed, match="no engine"):
                await way.post("/health", b"", f"{way.cluster}/{pod}")
        for path in ("/../../secrets", "/%2e%2e/x", "/health?x=1", "/a//b", ""):
            response = await way.post(path, b"")
            assert response.status == 404
            response.close()
        assert way.engine.requests == []

    run(installation, scenario)


@pytest.mark.parametrize(
    "pod",
    ["models/a HTTP/1.1\r\nhost: a\r\n\r\nPOST /v1", "models/../../cluster-b/engines/models/a", "../models/a",
     "models/a?b", "models/A", "models/", "models/a/v1", "models/é"],
)  # fmt: skip
def test_names_of_pods_that_a_cluster_invents_are_sent_nowhere(pod: str) -> None:
    async def scenario() -> None:
        tokens = ServiceTokens("0" * 64, issuer="gateway", audience=ENGINE_AUDIENCE)
        client = Client(tunnel=EngineTunnel("http://127.0.0.1:1", tokens))
        with pytest.raises(ConnectionFailed, match="no engine's pod"):
            await client.request(f"tunnel:cluster-a/{pod}", "POST", "/v1/x", headers=[], body=b"")
        client.close()

    asyncio.run(scenario())


def test_a_cluster_that_is_away_is_a_failed_connection(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        with pytest.raises(ConnectionFailed, match="No agent"):
            await way.post("/health", b"", "tunnel:cluster-0000000000000000000000/models/engine")
        way.pods.port, way.pods.pods["gone"] = 1, LABELS
        with pytest.raises(ConnectionFailed, match="does not answer"):
            await way.post("/health", b"", f"{way.cluster}/models/gone")

    run(installation, scenario)


def test_a_response_without_a_body_that_announces_one_ends_nothing_else(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        stream = await way.post("/v1/chat/completions", b"{}")
        response = await way.post("/unchanged", b"{}")
        assert (response.status, await response.read()) == (304, b"")
        way.engine.gate.set()
        assert await stream.read() == 3 * EVENT

    run(installation, scenario)


def test_an_agent_that_vanishes_breaks_streams_off(installation: Installation) -> None:
    async def scenario() -> None:
        async with the_way(installation) as way:
            response = await way.post("/v1/chat/completions", b"{}")
            assert await response.chunk() == EVENT
            installation.clusters.revoke_key(installation.caller, installation.cluster.id, operator=True)
            with pytest.raises(ResponseFailed):
                await response.chunk()
            response.close()
            way.engine.tokens = 1_000_000
            way.engine.gate.set()
            await until(lambda: way.engine.open == 0)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_no_key_of_a_person_and_no_other_token_opens_the_way(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        secret = installation.environment["LLMARINER_SERVICE_SECRET"]
        path = f"/internal/sessions/{installation.cluster.id}/engines/models/engine/health"
        peer = ServiceTokens(secret, issuer="sessions", audience="sessions-peer").token()
        for token in (installation.key, installation.registration_key, peer, ""):
            status, _ = await ask(way.replica, token, path)
            assert status == 401
        assert (await ask(way.replica, way.tokens.token(), path))[0] == 200

    run(installation, scenario)


def test_a_body_that_is_too_large_is_refused(installation: Installation) -> None:
    async def scenario(way: Way) -> None:
        response = await way.post("/tokenize", bytes(33 * 1024 * 1024))
        assert response.status == 413
        response.close()

    run(installation, scenario)


@pytest.mark.parametrize(
    "path",
    [b"/engines/models", b"/engines/models/pod", b"/engines/Models/pod/x", b"/engines/m/p/x?y", b"/engines/m/p/..",
     b"/engines/m/p/%2e", b"/engines/../p/x", b"/api/v1/pods", b"/engines/m/p//x", b"/engines/m/-p/x"],
)  # fmt: skip
def test_paths_that_are_not_plain_are_no_paths_of_engines(path: bytes) -> None:
    assert EnginePath.parse(path) is None


def test_a_path_of_an_engine_is_read_as_it_was_written() -> None:
    path = EnginePath("models", "m-small-predictor-7d", "/llmariner/usage/req_1")
    assert EnginePath.parse(path.text()) == path
