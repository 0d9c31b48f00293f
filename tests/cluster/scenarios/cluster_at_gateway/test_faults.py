"""Agents and replicas of `sessions` are killed and the network is cut, under requests and a job: nothing is lost.

`LLMARINER_CUT_SECONDS`: how long the network is cut; 60 unless said.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.error
import urllib.request

import pytest
from sqlalchemy import select

from llmariner.manifests.installation import NAMESPACE
from llmariner.usage.tables import ledger_requests

from ...lab.kubectl import kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..chaos.load import Load, TokenCounter
from ..fault_injection import cut_off
from ..functions import Functions
from ..jobs.test_jobs import job, output
from ..platform_client import PARIS, PlatformClient
from ..two_clusters.worker import Worker
from .placed_work import MODEL, create_job, not_succeeded

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_SECONDS = float(os.environ.get("LLMARINER_CUT_SECONDS", "60"))
_BETWEEN = 12.0
_JOB_SECONDS = 4 * _BETWEEN + _SECONDS / 2
"""So that it ends while the network is cut."""
SCRIPT = b"""\
import os, time
for number in range(int(os.environ["LINES"])):
    print(number, flush=True)
    time.sleep(1)
"""


def test_killed_agents_and_replicas_and_a_cut_network_lose_nothing(
    installed: Installed, client: PlatformClient, worker: Worker, cluster_id: str
) -> None:
    first = client.whole(MODEL, PARIS, wait=300)
    assert first.status == 200
    client.row(first.request_id)
    before = {request_id for request_id, _, _ in recorded(client)}
    counter = TokenCounter(client, MODEL, Installed(worker.lab))
    already = sum(client.counted_by(pod) for pod in Installed(worker.lab).engine_pods(MODEL))
    loads = [Load(client, MODEL), Load(client, MODEL, tokens=120)]
    job_id = begin_job(installed, cluster_id)
    for each in (counter, *loads):
        each.start()
    back = break_everything(installed, client, worker)
    for load in loads:
        load.stop()
    made = counter.stop() - already
    for load in loads:
        print(f"\n{load.tokens} tokens each: {dict(load.counted())}")
    print(f"the first request after the cut was answered {back:.1f} s after")
    assert not [each for load in loads for each in load.fates if each.how == "cut"]
    assert sum(each.how == "whole" for load in loads for each in load.fates) > 10

    until("every request is closed", lambda: _open(client), seconds=90)
    rows = [row for row in recorded(client) if row[0] not in before]
    unpaid = {row[0]: reported(client, worker, row[0]) - row[2] for row in rows if row[1] == "failed"}
    difference = made - sum(row[2] for row in rows)
    print(f"{made} tokens made, {difference} more than in the ledger; of failed requests {unpaid}")
    assert difference == sum(unpaid.values())
    assert all(0 <= each < 200 for each in unpaid.values())

    client.ticking("the job has ended", lambda: not_succeeded(installed, job_id), seconds=300)
    assert output(installed, job_id) == "".join(f"{i}\n" for i in range(int(_JOB_SECONDS)))
    assert not job(installed, job_id).get("restarts")
    installed.call("DELETE", f"/batch/jobs/{job_id}")


def break_everything(installed: Installed, client: PlatformClient, worker: Worker) -> float:
    """Seconds from the end of the cut to the first response of the model."""
    for _ in range(2):
        time.sleep(_BETWEEN)
        worker.kill_agent()
        time.sleep(_BETWEEN)
        victim = Functions(installed).pod("sessions")["metadata"]["name"]
        kubectl(installed.lab, "delete", "pod", victim, "-n", NAMESPACE, "--force", "--grace-period=0")
    with cut_off(worker.lab):
        time.sleep(_SECONDS)
    began = time.monotonic()
    while client.whole(MODEL, PARIS, wait=60, max_tokens=1).status != 200:
        assert time.monotonic() - began < 120
    back = time.monotonic() - began
    time.sleep(_BETWEEN)
    return back


def begin_job(installed: Installed, cluster_id: str) -> str:
    """The id of a job that runs on the worker cluster, and has begun."""
    job_id = create_job(installed, cluster_id, SCRIPT, LINES=str(int(_JOB_SECONDS)))
    until("the job runs", lambda: _not_running(installed, job_id), seconds=120)
    return job_id


def recorded(client: PlatformClient) -> list[tuple[str, str, int]]:
    """Id, outcome and made tokens of the model's requests in the ledger."""
    c = ledger_requests.c
    with client.context.database.read() as session:
        rows = session.rows(select(c.request_id, c.outcome, c.completion_tokens).where(c.model == MODEL))
        return [(row.request_id, row.outcome, row.completion_tokens) for row in rows]


def reported(client: PlatformClient, worker: Worker, request_id: str) -> int:
    """The tokens that the engine made for a request, as it counts them."""
    (pod,) = Installed(worker.lab).engine_pods(MODEL)
    url = f"http://{pod['status']['podIP']}:8080/llmariner/usage/{request_id}"
    try:
        with contextlib.closing(urllib.request.urlopen(url, timeout=20)) as response:
            return int(json.load(response)["completion_tokens"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return 0  # it never had it
        raise


def _open(client: PlatformClient) -> str | None:
    left = [request_id for request_id, outcome, _ in recorded(client) if outcome == "open"]
    return f"{len(left)} are open" if left else None


def _not_running(installed: Installed, job_id: str) -> str | None:
    return None if output(installed, job_id).startswith("0\n") else str(job(installed, job_id)["status"])
