"""A batch job on a worker cluster: the platform's own parts from the row to the API server, through the tunnel."""

from __future__ import annotations

import asyncio
import base64
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.agent.tunnel import ApiServer as AgentsApiServer
from llmariner.agent.tunnel import KubernetesRelay, TunnelConnections
from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.clusters.heartbeats import Component, Heartbeat
from llmariner.clusters.inventory import Inventory, Node, ProductTotal
from llmariner.context import Context
from llmariner.platform.jobs import Phase
from llmariner.platform.kube.resources import JOBS, LOCAL_QUEUES, NAMESPACES, SECRETS, WORKLOADS
from llmariner.showback.installation import check_worker_clusters
from llmariner.showback.tables import allocations

from .caller import MERGE, Caller
from .server import ApiServer

# The type checker sees each folder of tests by itself.
_installation: Any = importlib.import_module("tests.tunnel.installation")
NAMESPACE = "llmariner-jobs"
NODE = Node("n", cpu_millis=8000, memory_bytes=2**35)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Any]:
    made = _installation.Installation(tmp_path)
    yield made
    made.context.database.close()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Caller:
    """The worker cluster, with the namespace that the manifest of `join` makes and a pool for CPUs."""
    caller = Caller(server.kubeconfig(tmp_path / "kubeconfig"))
    for resource, name, fields in (
        (NAMESPACES, NAMESPACE, {}),
        (LOCAL_QUEUES, "cpu", {"spec": {"clusterQueue": "llmariner-cpu"}}),
    ):
        place = {"namespace": NAMESPACE} if resource.namespaced else {}
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        path = resource.path(place.get("namespace"))
        caller.done("POST", path, {**kind, "metadata": {"name": name, **place}, **fields})
    return caller


def heartbeat() -> Heartbeat:
    parts = (Component("agent", True), Component("work", True))
    inventory = Inventory([ProductTotal(nodes=1, ready_nodes=1)], [NODE])
    url = "https://llm.example.org"
    return Heartbeat("1", 1, "v1.34.4", time.time(), parts, inventory, control_plane_url=url)


def run(installation: Any, server: ApiServer, tmp_path: Path, calls: Callable[[Context], None]) -> None:
    """Make calls of a platform whose worker cluster is connected."""
    token = tmp_path / "token"
    token.write_text("agents-own-token")
    port = int(server.url.rpartition(":")[2])
    relay = KubernetesRelay(AgentsApiServer("127.0.0.1", port, None, token))

    async def scenario() -> None:
        async with _installation.serving(installation, _installation.KubernetesApi()) as (replica,):
            agent = TunnelConnections(replica.url, lambda: installation.registration_key, relay, wanted=1)
            task = asyncio.create_task(agent.run())
            await _installation.until(lambda: len(agent._open) == 1)
            images = {"LLMARINER_JOB_IMAGES": "pytorch-2.1=pytorch:2.1"}
            context = Context({**installation.environment, **images, "LLMARINER_INFERENCE_URL": replica.url})
            try:
                await asyncio.to_thread(calls, context)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                context.database.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_a_job_runs_on_a_worker_cluster_from_its_row_to_its_charge(
    installation: Any, server: ApiServer, api: Caller, tmp_path: Path
) -> None:
    agent = installation.context.clusters.registration_keys.authenticate(installation.registration_key)
    installation.context.clusters.heartbeats.record(agent, heartbeat())
    new = NewBatchJob("pytorch-2.1", "sh scripts/run.sh", {"run.sh": b"true"})

    def calls(context: Context) -> None:
        job = context.batch_jobs.create(installation.caller, new)  # nothing runs jobs at home
        assert job.cluster_id == installation.cluster.id
        context.batch_job_reconciler.reconcile(job.id)
        made = api.get(JOBS, NAMESPACE, job.id)
        queue = made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        assert api.get(LOCAL_QUEUES, NAMESPACE, queue)["spec"]["clusterQueue"] == "llmariner-cpu"
        assert queue.startswith("cpu-")
        output = base64.b64decode(api.get(SECRETS, NAMESPACE, f"{job.id}-output")["data"]["keep"]).decode()
        assert f"https://llm.example.org/v1/batch/jobs/{job.id}/results" in output
        assert context.batch_jobs.get(job.project_id, job.id).status is Phase.QUEUED
        _admit(api, made, queue)
        check_worker_clusters(context.database, context.clusters)
        _complete(api, job.id)
        context.batch_job_reconciler.reconcile_all(seconds=20)
        assert context.batch_jobs.get(job.project_id, job.id).status is Phase.SUCCEEDED
        with context.database.read() as session:
            (held,) = session.rows(select(allocations))
        assert (held.kind, held.workload_id, held.cluster_id) == ("batch_job", job.id, installation.cluster.id)
        assert (held.project_id, held.millicores) == (job.project_id, 2000)

    run(installation, server, tmp_path, calls)


def _admit(api: Caller, job: dict[str, Any], queue: str) -> None:
    """What Kueue writes; and a Workload of somebody else's making, which names a job that does not run here."""
    now = "2026-11-30T00:00:00Z"
    admitted = {
        "clusterQueue": "llmariner-cpu",
        "podSetAssignments": [{"name": "main", "count": 1, "flavors": {"cpu": "cpu"}, "resourceUsage": {"cpu": "2"}}],
    }
    condition = {"type": "QuotaReserved", "status": "True", "lastTransitionTime": now, "reason": "x", "message": ""}
    template = {"spec": {"containers": [{"name": "job", "image": "x"}], "restartPolicy": "Never"}}
    for owner in (job["metadata"], {"name": "bj-of-another-project", "uid": "u"}):
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}
        name = f"job-{owner['name']}"
        body = {
            "apiVersion": WORKLOADS.api_version,
            "kind": "Workload",
            "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [reference]},
            "spec": {"queueName": queue, "podSets": [{"name": "main", "count": 1, "template": template}]},
        }
        api.done("POST", WORKLOADS.path(NAMESPACE), body)
        path = WORKLOADS.path(NAMESPACE, name, "status")
        api.done("PATCH", path, {"status": {"admission": admitted, "conditions": [condition]}}, media=MERGE)


def _complete(api: Caller, name: str) -> None:
    now = "2026-11-30T00:00:05Z"
    condition = {"type": "Complete", "status": "True", "lastTransitionTime": now, "lastProbeTime": now}
    status = {"conditions": [condition], "completionTime": now, "startTime": "2026-11-30T00:00:01Z", "succeeded": 1}
    api.done("PATCH", JOBS.path(NAMESPACE, name, "status"), {"status": status}, media=MERGE)
