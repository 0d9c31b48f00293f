"""Requests of the control plane itself to a cluster: through `functions/sessions` and the cluster's agent, as one user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import Unavailable
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.resources import JOBS, PODS
from llmariner.sessions.control_plane import CONTROL_PLANE_AUDIENCE, RemoteClusters
from llmariner.sessions.installation import PEER_AUDIENCE

from .installation import Installation, KubernetesApi, Replica, ask, running_agent, serving

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "llmariner-jobs"}}
NOTHING = b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[]}'


@pytest.fixture
def installation(tmp_path: Path) -> Any:
    made = Installation(tmp_path)
    yield made
    made.context.database.close()


def remote(installation: Installation, replica: Replica) -> RemoteClusters:
    env = {"LLMARINER_INFERENCE_URL": replica.url, "K_SERVICE": "sweep"}
    return RemoteClusters(env, installation.context.secrets.service)


@contextlib.asynccontextmanager
async def connected(installation: Installation, api: KubernetesApi, replicas: int = 1) -> Any:
    """The cluster as the control plane sees it, at the last of the replicas; the agent is connected to the first."""
    async with serving(installation, api, replicas) as running, running_agent(installation, api, running[0]):
        cluster = remote(installation, running[-1]).connection_to(installation.cluster.id)
        try:
            yield cluster, running
        finally:
            cluster.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_client_of_the_api_server_works_unchanged(installation: Installation) -> None:
    api = KubernetesApi()
    large = {"data": "x" * 1_400_000}
    api.answers["/apis/batch/v1/namespaces/llmariner-jobs/jobs/j"] = json.dumps(JOB).encode()
    api.answers["/apis/batch/v1/namespaces/llmariner-jobs/jobs"] = json.dumps(JOB).encode()
    api.answers["/api/v1/namespaces/llmariner-jobs/pods"] = NOTHING
    api.answers["/api/v1/namespaces/llmariner-jobs/pods/p/log"] = [b"hel", b"lo\n"]

    def calls(cluster: Cluster) -> None:
        assert cluster.get(JOBS, "llmariner-jobs", "j") == JOB
        assert cluster.create({**JOB, **large}) == JOB
        assert cluster.merge_patch(JOBS, "llmariner-jobs", "j", {"spec": {"suspend": False}}) == JOB
        assert cluster.list(PODS, "llmariner-jobs", labels={"a/b": "c"}).items == []
        assert cluster.pod_log("llmariner-jobs", "p", "job", skip=1, limit=10) == b"ello\n"
        assert cluster.delete(JOBS, "llmariner-jobs", "j", uid="u")
        program = cluster.start_program("llmariner-jobs", "p", "job", ["true"])
        program.write(b"sent back")
        assert program.read(10) == ("stdout", b"")  # the scripted server repeats the message of standard input
        program.close()

    async def scenario() -> None:
        async with connected(installation, api) as (cluster, _):
            await asyncio.to_thread(calls, cluster)

    run(scenario)
    for each in api.requests:
        headers = dict(each["headers"])
        assert headers["authorization"] == "Bearer agents-own-token"
        assert headers["impersonate-user"] == "llmariner:control-plane"
        assert headers["impersonate-extra-llmariner.ai%2fuser"] == "function/sweep"
        assert "impersonate-group" not in headers
    methods = [each["method"] for each in api.requests]
    assert methods == ["GET", "POST", "PATCH", "GET", "GET", "DELETE", "GET"]
    assert json.loads(api.requests[1]["body"]) == {**JOB, **large}
    assert dict(api.requests[2]["headers"])["content-type"] == "application/merge-patch+json"
    assert json.loads(api.requests[5]["body"])["preconditions"] == {"uid": "u"}
    assert api.requests[3]["target"].startswith("/api/v1/namespaces/llmariner-jobs/pods?labelSelector=a%2Fb%3Dc")
    assert "/pods/p/exec?container=job&command=true" in api.requests[6]["target"]


def test_any_replica_passes_changes_on_to_the_one_with_the_connection(installation: Installation) -> None:
    api = KubernetesApi()
    api.answers["/apis/batch/v1/namespaces/llmariner-jobs/jobs"] = json.dumps(JOB).encode()

    async def scenario() -> None:
        async with connected(installation, api, replicas=2) as (cluster, _):
            assert await asyncio.to_thread(cluster.create, JOB) == JOB

    run(scenario)
    assert [json.loads(each["body"]) for each in api.requests] == [JOB]


def test_a_watch_yields_what_changes_and_ends_with_its_client(installation: Installation) -> None:
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "uid": "u", "resourceVersion": "2"}}
    api = KubernetesApi()
    line = json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n"
    api.answers["/api/v1/namespaces/llmariner-jobs/pods"] = NOTHING

    async def scenario() -> None:
        async with connected(installation, api) as (cluster, _):
            listing = await asyncio.to_thread(cluster.list, PODS, "llmariner-jobs")
            api.answers["/api/v1/namespaces/llmariner-jobs/pods"] = [line, asyncio.sleep(30)]
            watch = cluster.watch(PODS, "llmariner-jobs", after=listing, seconds=20)
            change = await asyncio.to_thread(next, iter(watch))
            assert (change.type, change.object) == ("ADDED", pod)
            await asyncio.to_thread(watch.close)

    run(scenario)


def test_a_cluster_that_is_away_is_unavailable_at_once(installation: Installation) -> None:
    async def scenario() -> None:
        async with serving(installation, KubernetesApi()) as (replica,):
            cluster = remote(installation, replica).connection_to(installation.cluster.id)
            began = time.monotonic()
            for call in (lambda: cluster.get(JOBS, "n", "j"), lambda: cluster.create(JOB)):
                with pytest.raises(Unavailable, match="No agent of this cluster is connected"):
                    await asyncio.to_thread(call)
            with pytest.raises(Unavailable):
                await asyncio.to_thread(cluster.start_program, "n", "p", "c", ["true"])
            assert time.monotonic() - began < 5
            cluster.close()

    run(scenario)


def test_an_installation_that_does_not_know_its_own_address_says_so(installation: Installation) -> None:
    with pytest.raises(Unavailable, match="LLMARINER_INFERENCE_URL"):
        RemoteClusters({}, installation.context.secrets.service).connection_to(installation.cluster.id)


def test_nobody_else_gets_in(installation: Installation) -> None:
    secret = installation.context.secrets.service.reveal()
    peer = ServiceTokens(secret, issuer="sessions", audience=PEER_AUDIENCE).token()
    forged = ServiceTokens("0" * 64, issuer="x", audience=CONTROL_PLANE_AUDIENCE).token()
    good = ServiceTokens(secret, issuer="x", audience=CONTROL_PLANE_AUDIENCE).token()
    base = f"/internal/sessions/{installation.cluster.id}/kubernetes"

    async def scenario() -> None:
        api = KubernetesApi()
        async with connected(installation, api) as (_, (replica, *_rest)):
            for token in (installation.key, installation.registration_key, peer, forged, ""):
                for method in ("GET", "POST"):
                    status, _ = await ask(replica, token, f"{base}/api/v1/namespaces/n/pods", method=method)
                    assert status == 401, token
            for path in ("/version", "/metrics", "/api/v1/..", "/api/v1/%2e%2e/x", "/api//v1", "/api/v1/a;b", "/apix"):
                status, body = await ask(replica, good, base + path)
                assert status in (400, 404), path
                assert json.loads(body)["error"]["message"]
            status, _ = await ask(replica, good, f"{base}/api/v1/namespaces", method="POST", body=bytes(3_200_000))
            assert status == 413
            status, _ = await ask(replica, good, "/internal/sessions/unknown/kubernetes/api/v1/pods")
            assert status == 503
        assert api.requests == []

    run(scenario)


def test_changes_are_the_control_planes_alone_at_the_agent_too(installation: Installation) -> None:
    """A control plane that names a person in a change is refused by the agent."""
    from llmariner.agent.tunnel.kubernetes_relay import KubernetesRelay

    class Stream:
        def __init__(self, user: bytes, method: bytes) -> None:
            self.request = [(b":method", method), (b":path", b"/api/v1/namespaces/n/pods"), (b"impersonate-user", user)]
            self.answers: list[Any] = []

        def field(self, name: bytes) -> bytes:
            return dict(self.request).get(name, b"")

        def respond(self, status: int, _: Any) -> None:
            self.answers.append(status)

        async def write(self, data: bytes, *, end: bool) -> None:
            self.answers.append(data)

    for method in (b"PATCH", b"DELETE", b"PUT"):
        stream = Stream(b"llmariner:session", method)
        asyncio.run(KubernetesRelay(None)(stream))  # type: ignore[arg-type]
        assert stream.answers[0] == 403


def test_a_refusal_of_the_api_server_is_forbidden(installation: Installation) -> None:
    """What a cluster says whose administrator lets people in alone."""
    api = KubernetesApi()

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps({"kind": "Status", "code": 403, "message": "users is forbidden"}).encode()
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    api.__class__ = type("Refusing", (KubernetesApi,), {"__call__": staticmethod(refuse)})

    async def scenario() -> None:
        async with connected(installation, api) as (cluster, _):
            with pytest.raises(Forbidden, match="users is forbidden"):
                await asyncio.to_thread(cluster.create, JOB)

    run(scenario)
