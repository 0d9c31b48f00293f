"""A cluster joins an installed platform at its Gateway, over TLS: people's kubectl, streams, a model and a job of it.

The way of every request: the Gateway, Knative's own gateway, the activator or not, the queue-proxy of a replica, its
websocket, and the agent of the other cluster. The Gateway's address is reached through a relay of this machine, as through a
load balancer.
"""

from __future__ import annotations

import contextlib
import subprocess
import time

import pytest

from llmariner.manifests.installation import NAMESPACE

from ...lab.kubectl import kubectl
from ...platform.installed import Installed
from ..documents.stores import DocumentStores
from ..functions import Functions
from ..jobs.test_jobs import job, output
from ..platform_client import GENERATED, PARIS, PROMPTED, PlatformClient
from ..two_clusters.kubectl_sessions import SPDY, WEBSOCKETS, exec_and_copy, forward_a_port, read, started
from ..two_clusters.worker import Person, Worker
from .placed_work import LONGEST_SECONDS, MODEL, create_job, not_succeeded
from .tls_gateway import TlsGateway

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

STREAM_SECONDS = 30
SCRIPT = b"""\
import os, pathlib, ssl, urllib.error, urllib.request
os.makedirs("output", exist_ok=True)
pathlib.Path("output/result.txt").write_text("left by the job")
context = ssl.create_default_context(cafile=os.environ["LLMARINER_AUTHORITY_FILE"])
try:
    urllib.request.urlopen(os.environ["URL"], timeout=60, context=context)
except urllib.error.HTTPError as error:
    print("HTTP", error.code)
"""


def test_plain_kubectl_works_through_the_gateway(owner: Person, worker: Worker) -> None:
    read(owner, worker)
    exec_and_copy(owner, WEBSOCKETS)
    forward_a_port(owner, WEBSOCKETS)


def test_kubectl_that_speaks_spdy_gets_the_error_that_is_documented(owner: Person, worker: Worker) -> None:
    """Envoy refuses the upgrade, in the Gateway and in Knative's own."""
    refused = owner.run("kubectl", "exec", "web", "--", "busybox", "echo", "hi", **SPDY)
    assert refused.returncode
    assert "unable to upgrade connection: empty server response" in refused.stderr


def test_connections_are_replaced_before_the_longest_request_without_a_cut_stream(
    owner: Person, worker: Worker
) -> None:
    """For longer than a connection lives there is always a stream that began on an older one."""
    count = f"for i in $(busybox seq {STREAM_SECONDS}); do echo $i; sleep 1; done"
    words = ("kubectl", "exec", "web", "--", "busybox", "sh", "-c", count)
    before = connected(worker)
    streams = []
    for _ in range(10):
        streams.append(subprocess.Popen(words, env=owner.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        time.sleep(LONGEST_SECONDS * 1.2 / 10)
    ends = [(each.communicate(timeout=90), each.returncode) for each in streams]
    whole = "".join(f"{i}\n" for i in range(1, STREAM_SECONDS + 1)).encode()
    assert [(code, err) for (out, err), code in ends if out != whole or code] == []
    replaced = connected(worker) - before
    print(f"\n{replaced} connections were opened under {len(streams)} streams, none of which was cut")
    assert replaced >= 4  # each of two, twice
    assert len(replicas(worker)) == 2


def connected(worker: Worker) -> int:
    """How many connections the agent has opened."""
    return _log(worker).count("connected to the control plane's replica")


def replicas(worker: Worker) -> set[str]:
    """Those that the agent's latest two connections are at."""
    lines = [line for line in _log(worker).splitlines() if "connected to the control plane's replica" in line]
    return {line.split()[-1] for line in lines[-2:]}


def _log(worker: Worker) -> str:
    return kubectl(worker.lab, "logs", "-n", "llmariner-agent", "deployment/llmariner-agent")


def test_a_killed_replica_costs_only_its_streams_and_a_client_that_tries_again_sees_nothing(
    installed: Installed, owner: Person, worker: Worker
) -> None:
    words = (
        "kubectl",
        "exec",
        "web",
        "--",
        "busybox",
        "sh",
        "-c",
        "for i in $(busybox seq 24); do echo $i; sleep 1; done",
    )
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(started(owner, *words)) for _ in range(10)]
        for each in streams:
            assert each.stdout.readline() == "1\n"  # type: ignore[union-attr]
        victim = Functions(installed).pod("sessions")["metadata"]["name"]
        kubectl(installed.lab, "delete", "pod", victim, "-n", NAMESPACE, "--force", "--grace-period=0")
        began = time.monotonic()
        failures = 0
        while owner.run("kubectl", "get", "pods").returncode:
            failures += 1
            assert time.monotonic() - began < 60
        answered = time.monotonic() - began
        codes = [each.wait(90) for each in streams]
    print(
        f"\nof {len(codes)} streams {sum(map(bool, codes))} ended; `get` answered {answered:.1f} s after, {failures} failed"
    )
    assert 0 < sum(map(bool, codes)) < len(codes)


def test_a_model_wakes_there_for_a_request_at_the_gateway_and_every_token_is_in_the_ledger(
    client: PlatformClient, worker: Worker
) -> None:
    def counted(name: str) -> int:
        return sum(client.counted_by(pod, name) for pod in Installed(worker.lab).engine_pods(MODEL))

    answer = client.stream(MODEL, PARIS, wait=300)
    print(f"\nfirst token {answer.first_token} s, phases {answer.phases}, {answer.messages}")
    assert answer.error is None, answer.error
    assert "Paris" in answer.text
    asked = [answer, *(client.stream(MODEL, PARIS, max_tokens=20, wait=60) for _ in range(5))]
    rows = [client.row(each.request_id) for each in asked]
    assert sum(row["completion_tokens"] for row in rows) == counted(GENERATED)
    assert sum(row["prompt_tokens"] for row in rows) == counted(PROMPTED)


def test_a_job_runs_there_trusts_the_authority_of_the_gateway_and_its_files_come_back(
    installed: Installed, gateway: TlsGateway, owner: Person, stores: DocumentStores | None, cluster_id: str
) -> None:
    job_id = create_job(installed, cluster_id, SCRIPT, URL=f"{gateway.there}/v1/models")
    with contextlib.closing(PlatformClient(installed)) as client:
        client.ticking("the job has ended", lambda: not_succeeded(installed, job_id), seconds=300)
    assert output(installed, job_id) == "HTTP 401\n"
    assert job(installed, job_id)["cluster_id"] == cluster_id
    if stores is not None:
        results = owner.folder / "results"
        owner.done("llma", "batch", "jobs", "output", "download", job_id, "--folder", str(results))
        assert (results / "result.txt").read_text() == "left by the job"
    installed.call("DELETE", f"/batch/jobs/{job_id}")
