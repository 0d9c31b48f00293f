"""People's requests through the tunnel at a real API server, with the rights that `session_objects` gives and no others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from websockets.exceptions import InvalidStatus

from llmariner.agent.changed_jobs import ChangedJobs
from llmariner.agent.tunnel import ApiServer, KubernetesRelay, TunnelConnections
from llmariner.platform.jobs import Job, Phase
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.resources import JOBS, NODES, PODS, SECRETS
from llmariner.sessions.cluster_roles import session_objects
from llmariner.sessions.control_plane import RemoteClusters
from llmariner.sessions.control_plane_roles import control_plane_objects
from llmariner.settings import ClusterSettings

from .caller import until
from .conftest import REAL

# The type checker sees each folder of tests by itself.
_installation: Any = importlib.import_module("tests.tunnel.installation")
pytestmark = pytest.mark.skipif(REAL not in os.environ, reason="needs a real API server: make e2e-api-server")
AGENT = "llmariner-agent"


def kubectl(*words: str, text: str = "") -> str:
    command = [str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={os.environ[REAL]}", *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Any]:
    made = _installation.Installation(tmp_path)
    yield made
    made.context.database.close()


@pytest.fixture
def api_server(installation: Any, tmp_path: Path) -> Iterator[ApiServer]:
    """The API server as the agent's service account sees it; the namespaces `team` and `other` with a pod each."""
    names = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each}} for each in (AGENT, "team", "other")]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": AGENT, "namespace": AGENT}}
    roles = session_objects((AGENT, AGENT), {installation.owner.project_id: frozenset({"team"})})
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*names, account]}))
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": roles}))
    token = tmp_path / "agent-token"
    token.write_text(kubectl("create", "token", AGENT, "-n", AGENT))
    cluster = yaml.safe_load(Path(os.environ[REAL]).read_text())["clusters"][0]["cluster"]
    if "certificate-authority-data" in cluster:
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    else:
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    at = urlsplit(cluster["server"])
    # The namespaces stay: no controller of layer 1 would remove what is in them.
    yield ApiServer(str(at.hostname), int(at.port or 443), context, token)
    kubectl("delete", "clusterrole,clusterrolebinding", "llmariner-sessions")


def event(namespace: str, name: str) -> str:
    """An Event, which people may read, and no controller touches."""
    about = {"kind": "Pod", "namespace": namespace, "name": "p"}
    meta = {"name": name, "namespace": namespace}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Event", "metadata": meta, "involvedObject": about, "reason": "Seen"}
    )


def test_people_read_watch_and_are_refused_by_the_api_server_itself(installation: Any, api_server: ApiServer) -> None:
    async def scenario() -> None:
        scripted = _installation.KubernetesApi()
        async with _installation.serving(installation, scripted) as (replica,):
            relay = KubernetesRelay(api_server)
            agent = TunnelConnections(replica.url, lambda: installation.registration_key, relay, wanted=1)
            task = asyncio.create_task(agent.run())
            await _installation.until(lambda: len(agent._open) == 1)
            try:
                await _reads_and_watches(installation, replica)
                await _exec_of_no_pod(installation, replica)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 120))


async def _reads_and_watches(installation: Any, replica: Any) -> None:
    base = f"/v1/sessions/{installation.cluster.id}"
    status, body = await _installation.ask(replica, installation.key, f"{base}/api/v1")
    assert (status, json.loads(body)["kind"]) == (200, "APIResourceList")
    for key in (installation.key, installation.viewer_key):
        status, body = await _installation.ask(replica, key, f"{base}/api/v1/namespaces/team/pods")
        assert (status, json.loads(body)["kind"]) == (200, "PodList")
    status, body = await _installation.ask(replica, installation.key, f"{base}/apis/batch/v1/namespaces/team/jobs")
    assert (status, json.loads(body)["kind"]) == (200, "JobList")
    name = f"seen-{os.urandom(4).hex()}"
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    path = f"{base}/api/v1/namespaces/team/events?watch=true"
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {installation.key}\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    await asyncio.to_thread(kubectl, "apply", "-f", "-", text=event("team", name))
    assert b'"ADDED"' in await asyncio.wait_for(reader.readuntil(f'"name":"{name}"'.encode()), 20)
    writer.close()


async def _exec_of_no_pod(installation: Any, replica: Any) -> None:
    """The API server's refusal comes back instead of a websocket; a member gets past its authorization."""
    with pytest.raises(InvalidStatus) as refused:
        async with _installation.open_exec(replica, installation.key, installation.cluster.id):
            pass
    assert refused.value.response.status_code == 404
    assert b'pods \\"p\\" not found' in bytes(refused.value.response.body or b"")


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/api/v1/namespaces/team/pods", {}, 200),
        ("/api/v1/namespaces/other/pods", {}, 403),
        ("/api/v1/namespaces/team/secrets", {}, 403),
        ("/api/v1/nodes", {}, 403),
        ("/api/v1/namespaces/team/pods", {"impersonate-group": "llmariner:project:another:member"}, 403),
        ("/api/v1/namespaces/team/pods", {"impersonate-group": "system:masters"}, 403),
        ("/api/v1/namespaces/team/pods", {"impersonate-user": "llmariner:admin"}, 403),
        ("/api/v1/namespaces/team/pods", {"impersonate-user": "system:admin"}, 403),
    ],
)
def test_what_a_control_plane_or_agent_in_wrong_hands_can_reach(
    installation: Any, api_server: ApiServer, path: str, fields: dict[str, str], status: int
) -> None:
    """Requests with the agent's token and any impersonation, straight to the API server."""
    named = {"impersonate-user": "llmariner:session", **fields}
    named.setdefault("impersonate-group", f"llmariner:project:{installation.owner.project_id}:member")

    async def scenario() -> int:
        reader, writer = await asyncio.open_connection(api_server.host, api_server.port, ssl=api_server.tls)
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api_server.token()}\r\nconnection: close\r\n"
        writer.write(f"{head}{lines}\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
        return int(line.split()[1])

    assert asyncio.run(scenario()) == status


@pytest.fixture
def with_work(api_server: ApiServer) -> Iterator[ApiServer]:
    """The same, where the administrator lets the control plane run work."""
    objects = control_plane_objects((AGENT, AGENT))
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    yield api_server
    kubectl("delete", "clusterrole,clusterrolebinding", "llmariner-control-plane")


def as_control_plane(installation: Any, api_server: ApiServer, calls: Callable[[Cluster], None]) -> None:
    """Make calls of the Kubernetes port through a replica and an agent."""

    async def scenario() -> None:
        async with _installation.serving(installation, _installation.KubernetesApi()) as (replica,):
            agent = TunnelConnections(
                replica.url, lambda: installation.registration_key, KubernetesRelay(api_server), wanted=1
            )
            task = asyncio.create_task(agent.run())
            await _installation.until(lambda: len(agent._open) == 1)
            env = {"LLMARINER_INFERENCE_URL": replica.url}
            cluster = RemoteClusters(env, installation.context.secrets.service).connection_to(installation.cluster.id)
            try:
                await asyncio.to_thread(calls, cluster)
            finally:
                cluster.close()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 120))


def as_agent(api_server: ApiServer, folder: Path) -> Cluster:
    """The API server as the agent itself asks it."""
    kubeconfig = yaml.safe_load(Path(os.environ[REAL]).read_text())
    kubeconfig["users"][0]["user"] = {"token": api_server.token()}
    (folder / "agent").write_text(yaml.safe_dump(kubeconfig))
    return Cluster(ClusterSettings(folder / "agent"))


def test_the_control_plane_runs_jobs_in_its_namespace_and_nothing_elsewhere(
    installation: Any, with_work: ApiServer, tmp_path: Path
) -> None:
    name = f"j-{os.urandom(4).hex()}"
    agent = as_agent(with_work, tmp_path)
    changed, taken = ChangedJobs(agent, pause=0.0), {"changed_jobs_limit": 1000, "changed_jobs_taken": True}
    changed.answered([], taken)

    def is_named() -> bool:
        names = changed.names()
        changed.answered(names, taken)
        return name in names

    def calls(cluster: Cluster) -> None:
        # What a test that fails leaves must not fill the node.
        settings = ClusterJobSettings(images={"python": "python"}, cpu="10m", memory_bytes=16 << 20)
        jobs = KubernetesJobs(cluster, settings, lambda _: ())
        submitted = jobs.submit(Job(name, "proj", "true", image="python", scripts={"a": b"x" * 700_000}))
        assert submitted.phase is Phase.QUEUED
        assert is_named()
        until(lambda: not is_named())  # where there are controllers its status changes for a moment
        jobs.cancel(name)
        assert is_named()
        ended = jobs.status(name)
        assert ended is not None
        assert ended.phase is Phase.CANCELED
        jobs.remove(name)
        assert name not in [each["metadata"]["name"] for each in agent.list(JOBS, "llmariner-jobs").items]
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "team"}}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other-work"}}
        for refused in (
            lambda: cluster.create(secret),
            lambda: cluster.create(namespace),
            lambda: cluster.list(SECRETS, "llmariner-jobs"),
            lambda: cluster.list(PODS, "team"),
            lambda: cluster.list(PODS, None),
            lambda: cluster.list(NODES, None),
        ):
            with pytest.raises(Forbidden, match="llmariner:control-plane"):
                refused()
        for resource, place in ((JOBS, "team"), (JOBS, None), (SECRETS, "llmariner-jobs")):
            with pytest.raises(Forbidden, match="serviceaccount"):
                agent.list(resource, place)
        with pytest.raises(Forbidden, match="serviceaccount"):
            agent.get(JOBS, "llmariner-jobs", name)
        with pytest.raises(Forbidden, match="serviceaccount"):
            agent.delete(JOBS, "llmariner-jobs", name)

    as_control_plane(installation, with_work, calls)
    agent.close()


def test_an_administrator_refuses_a_control_plane(installation: Any, api_server: ApiServer) -> None:
    def calls(cluster: Cluster) -> None:
        with pytest.raises(Forbidden, match='cannot impersonate resource "users"'):
            cluster.list(PODS, "llmariner-jobs")

    as_control_plane(installation, api_server, calls)
