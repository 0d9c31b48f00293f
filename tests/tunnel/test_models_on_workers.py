"""A model on a worker cluster from its first request on: objects and tokens through the tunnel, usage, a vanished agent.

The worker cluster is the API server and the controllers of `tests/serving`; its engine is a scripted process.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.agent.tunnel import ApiServer, EngineRelay, KubernetesRelay, TunnelConnections
from llmariner.agent.tunnel.thread import relay_by_path
from llmariner.clusters.heartbeats import PROTOCOL_VERSION, Component, Heartbeat
from llmariner.clusters.inventory import WORK, Inventory, Node, ProductTotal
from llmariner.context import Context
from llmariner.http_client import Client, Response
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.placed_serving import placed_serving
from llmariner.models.tables import model_placements
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import INFERENCE_SERVICES, NAMESPACES
from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving.kserve.objects import QUEUE_LABEL
from llmariner.settings import ClusterSettings
from llmariner.standalone.router import Router

from .installation import FUNCTION, Installation, Replica, free_port, start, until

_cluster = importlib.import_module("..serving.kserve_cluster", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)
_caller = importlib.import_module("..kubernetes_api.caller", __package__)
NODE = Node("n", cpu_millis=8000, memory_bytes=1 << 34)
INVENTORY = Inventory((ProductTotal(nodes=1, ready_nodes=1, cpu_millis=8000, memory_bytes=1 << 34),), (NODE,))


class DrainedHome:
    """A home that serves nothing."""

    async def status(self, model_id: str) -> Status:
        return Status(Phase.ASLEEP)

    async def statuses(self) -> dict[str, Status]:
        return {}

    async def wake(self, model_id: str) -> None:
        raise AssertionError("the model is woken at home")

    async def sleep(self, model_id: str) -> None: ...

    async def remove(self, model_id: str, folder: str) -> None: ...

    async def import_existing(self, service: str) -> None: ...

    async def reconcile(self) -> None: ...

    def subscribe(self, observer: Callable[[str, Status], None]) -> None: ...

    async def close(self) -> None: ...


class Platform:
    """The control plane with its functions in this process, and one agent that can be ended and started."""

    def __init__(self, installation: Installation, replica: Replica, api: Any, folder: Path) -> None:
        self.installation, self.replica, self.client = installation, replica, Client()
        token = folder / "token"
        token.write_text("agents-own-token")
        self.engines = EngineRelay(Cluster(ClusterSettings(api.kubeconfig(folder / "agent"))))
        server = ApiServer("127.0.0.1", int(api.url.rpartition(":")[2]), None, token)
        self.relay = relay_by_path(KubernetesRelay(server), self.engines)
        self.agent: asyncio.Task[None] | None = None

    async def start_agent(self) -> None:
        connections = TunnelConnections(
            self.replica.url, lambda: self.installation.registration_key, self.relay, wanted=1
        )
        self.agent = asyncio.create_task(connections.run())
        await until(lambda: connections._open)
        await asyncio.to_thread(self.heartbeat)

    async def end_agent(self) -> None:
        if self.agent is not None:
            self.agent.cancel()
            await asyncio.gather(self.agent, return_exceptions=True)

    def heartbeat(self) -> None:
        clusters = self.installation.context.clusters
        agent = clusters.registration_keys.authenticate(self.installation.registration_key)
        beat = Heartbeat("1", PROTOCOL_VERSION, "v1.34", time.time(), (Component(WORK, True),), INVENTORY)
        clusters.heartbeats.record(agent, beat)

    async def get(self, path: str) -> Any:
        fields = [(b"authorization", f"Bearer {self.installation.key}".encode())]
        response = await self.client.request(self.replica.url, "GET", path, headers=fields)
        return json.loads(await response.read())

    async def chat(self, **body: Any) -> Response:
        fields = [
            (b"authorization", f"Bearer {self.installation.key}".encode()),
            (b"content-type", b"application/json"),
        ]
        messages = [{"role": "user", "content": "Hello."}]
        sent = json.dumps({"model": "small", "messages": messages, "stream": True, **body}).encode()
        return await self.client.request(
            self.replica.url, "POST", "/v1/chat/completions", headers=fields, body=sent, read_timeout=60
        )

    def placements(self) -> list[Any]:
        with self.installation.context.database.read() as session:
            return list(session.rows(select(model_placements)))

    def row(self, response: Response) -> dict[str, Any]:
        """The ledger's entry of a request that has ended."""
        request_id = (response.header(b"x-request-id") or b"").decode()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = self.installation.context.ledger.request(request_id)
            if found is not None and found["closed_at"] is not None:
                return dict(found)
            time.sleep(0.05)
        raise AssertionError("the request is still open")


@contextlib.asynccontextmanager
async def running(folder: Path, schemas: Any, crds: Path) -> AsyncIterator[tuple[Platform, Any]]:
    installation, port, engine_port = Installation(folder), free_port(), free_port()
    context = installation.context = Context(
        {
            **installation.environment,
            "LLMARINER_INFERENCE_URL": f"http://127.0.0.1:{port}",
            "LLMARINER_QUEUE": "cpu",  # of home: the worker cluster has none
        }
    )
    context.registry.create(NewModel("small", SourceRepository.HUGGING_FACE, "org/small"))
    context.registry.mark_loaded("small", folder="hf://org/small", size_bytes=0, task=Task.GENERATE)
    context.registry.approve("small")
    ids = (installation.cluster.id,)
    home: Any = DrainedHome()
    context.serving = placed_serving(context, home)
    context.registry.configure("small", lambda config: replace(config, allowed_clusters=ids), project_id=None)
    with _server.ApiServer(schemas, crds) as api:
        caller = _caller.Caller(api.kubeconfig(folder / "controllers"), agent="controllers")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llmariner-models"}}
        caller.make(NAMESPACES, namespace)
        controllers = _cluster.Controllers(caller, engine_port)
        controllers.engine_arguments = ["--tokens", "7", "--token-interval", "20"]
        controllers.start()
        replica = await start(Router(FUNCTION.parent, context), port)
        platform = Platform(installation, replica, api, folder)
        try:
            await platform.start_agent()
            yield platform, controllers
        finally:
            await platform.end_agent()
            platform.client.close()
            platform.engines.close()
            await context.gateway.close()
            await context.serving.close()
            await replica.stop()
            await asyncio.to_thread(controllers.done.set)
            await asyncio.to_thread(controllers.join, 20)
            context.database.close()


def generated(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("vllm:generation_tokens_total"))


async def scenario(folder: Path, schemas: Any, crds: Path) -> None:
    async with running(folder, schemas, crds) as (platform, controllers):
        response = await platform.chat()  # the model sleeps: the request wakes it on the worker cluster
        text = (await response.read()).decode()
        assert text.endswith("data: [DONE]\n\n"), text[-500:]
        row = await asyncio.to_thread(platform.row, response)
        assert row["completion_tokens"] == await asyncio.to_thread(generated, controllers.port) == 7
        (service,) = await asyncio.to_thread(controllers.listed, INFERENCE_SERVICES)
        assert service["spec"]["predictor"]["model"]["storageUri"] == "hf://org/small"
        assert QUEUE_LABEL not in service["metadata"]["labels"]
        shown = await platform.get("/v1/models/small")
        cluster = {"id": platform.installation.cluster.id, "name": "gpu", "phase": "ready"}
        assert shown["serving"]["clusters"] == [cluster]

        response = await platform.chat(max_tokens=2000)
        assert b"data: {" in await response.chunk()
        await platform.end_agent()
        broken = (await response.read()).decode()
        assert "The engine broke off in the middle of its answer" in broken
        row = await asyncio.to_thread(platform.row, response)
        assert (row["outcome"], row["completion_tokens"] > 0) == ("failed", True)

        waiting = asyncio.create_task(platform.chat(max_tokens=3))  # it waits for the cluster, which is the only one
        await asyncio.sleep(0.5)
        assert (await platform.get("/v1/models/small"))["serving"]["phase"] == "queued"
        await platform.start_agent()
        text = (await (await waiting).read()).decode()
        assert text.endswith("data: [DONE]\n\n"), text[-500:]

        assert len(await asyncio.to_thread(platform.placements)) == 1
        await platform.installation.context.serving.remove("small", "hf://org/small")
        assert await asyncio.to_thread(platform.placements) == []


@pytest.mark.timeout(180)
def test_a_model_wakes_on_a_worker_cluster_streams_is_counted_and_survives_its_agent(tmp_path: Path) -> None:
    crds, schemas = _cluster.upstream()
    asyncio.run(asyncio.wait_for(scenario(tmp_path, schemas, crds), 150))
