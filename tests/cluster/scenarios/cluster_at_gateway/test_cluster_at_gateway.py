"""A cluster joins an installed platform at its Gateway, over TLS: people's kubectl, streams, a model and a job of it.

The way of every request: the Gateway, Knative's own gateway, the activator or not, the queue-proxy of a replica, its
websocket, and the agent of the other cluster. The Gateway's address is reached through a relay of this machine, as through a
load balancer.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE, NAMESPACE

from ...lab.images import present
from ...lab.kubectl import kubectl
from ...lab.places import Lab
from ...lab.processes import running
from ...lab.wait import until
from ...platform import overlay
from ...platform.installed import Installed
from ..functions import Functions
from ..jobs.test_jobs import job, output
from ..platform_client import GENERATED, PARIS, PROMPTED, PlatformClient
from ..two_clusters.kubectl_sessions import WEBSOCKETS, exec_and_copy, forward_a_port, get_rights, read, started
from ..two_clusters.worker import Person, Worker
from ..worker_cluster.control_plane import ENGINE, engines
from .tls_gateway import TlsGateway, tls_gateway

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

PACKAGED, MODEL = "smollm2-135m-instruct", "gateway-smollm2"
# Short for a test: half of what a request may take, as the default is of an hour.
RECONNECT_SECONDS, LONGEST_SECONDS = 40, 80
STREAM_SECONDS = 30
_SUFFIX = uuid.uuid4().hex[:6]
SCRIPT = b"""\
import os, ssl, urllib.error, urllib.request
context = ssl.create_default_context(cafile=os.environ["LLMARINER_AUTHORITY_FILE"])
try:
    urllib.request.urlopen(os.environ["URL"], timeout=60, context=context)
except urllib.error.HTTPError as error:
    print("HTTP", error.code)
"""


@pytest.fixture(scope="module")
def worker_lab(installed: Installed) -> Lab:
    """The second test cluster if it is up and has no platform. Else the first: then it takes people's requests alone."""
    lab = Lab(1)
    is_free = "kubelet" in running(lab) and not kubectl(lab, "get", "namespace", NAMESPACE, "--ignore-not-found")
    return lab if is_free and ENGINE in present(lab) else installed.lab


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the owner."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="module")
def gateway(installed: Installed, worker_lab: Lab, folder: Path) -> Iterator[TlsGateway]:
    with two_replicas(installed), tls_gateway(installed, folder, worker_lab) as made:
        yield made


@pytest.fixture(scope="module")
def owner(installed: Installed, gateway: TlsGateway, folder: Path) -> Person:
    return Person(folder, gateway.here, installed.api_key)


@contextlib.contextmanager
def two_replicas(installed: Installed) -> Iterator[None]:
    """`sessions` with two replicas that always run, and a short longest request."""
    spec = "/spec/template/spec"
    names = ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
    variable = {"name": "LLMARINER_TUNNEL_RECONNECT_SECONDS", "value": str(RECONNECT_SECONDS)}
    scale = "/spec/template/metadata/annotations/autoscaling.knative.dev~1min-scale"
    patch: list[dict[str, Any]] = [
        *({"op": "replace", "path": f"{spec}/{name}", "value": LONGEST_SECONDS} for name in names),
        {"op": "add", "path": f"{spec}/containers/0/env/-", "value": variable},
        {"op": "replace", "path": scale, "value": "2"},
    ]
    with Functions(installed).changed("sessions", patch):
        yield


@pytest.fixture(scope="module")
def worker(installed: Installed, owner: Person, gateway: TlsGateway, worker_lab: Lab) -> Iterator[Worker]:
    """In which the owner may use kubectl."""
    made, has_work = Worker(worker_lab, f"west-{_SUFFIX}", f"team-{_SUFFIX}"), worker_lab != installed.lab
    try:
        made.join(owner, work=has_work, control_plane=gateway.there)
        made.make_pod()
        get_rights(owner, made)
        yield made
    finally:
        owner.run("llma", "admin", "projects", "update", "Default Project", "--kubernetes-namespace", "")
        made.clean()
        if has_work:
            kubectl(worker_lab, "delete", "namespace", JOBS_NAMESPACE, "--ignore-not-found", "--timeout=100s")
        owner.run("llma", "admin", "clusters", "unregister", made.name)


@pytest.fixture(scope="module")
def cluster_id(installed: Installed, worker: Worker) -> str:
    """For work of the platform, which needs a second cluster."""
    if worker.lab == installed.lab:
        pytest.skip("the second test cluster is not up, has a platform, or lacks the engines' image")
    _, listed = installed.call("GET", "/clusters?limit=100")
    return next(str(each["id"]) for each in listed["data"] if each["name"] == worker.name)


def test_plain_kubectl_works_through_the_gateway(owner: Person, worker: Worker) -> None:
    read(owner, worker)
    exec_and_copy(owner, WEBSOCKETS)
    forward_a_port(owner, WEBSOCKETS)


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


@pytest.fixture
def client(installed: Installed, cluster_id: str) -> Iterator[PlatformClient]:
    """With a model that may run on the worker cluster alone."""
    folder = next(overlay._folders()[overlay.MODELS].glob(f"{PACKAGED}-*")).name
    policy = {"enable_on_demand_allocation": True, "allowed_cluster_ids": [cluster_id]}
    body = {
        "id": MODEL,
        "source_repository": "OBJECT_STORE",
        "model_file_location": f"pvc://{overlay.MODELS}/{folder}",
        "task": "generate",
        "config": {"runtime_config": {"resources": {"gpu": 0}}, "cluster_allocation_policy": policy},
    }
    status, made = installed.call("POST", "/models", body)
    assert status == 200, made
    with contextlib.closing(PlatformClient(installed)) as client:
        try:
            until("the model is registered", lambda: installed._not_loaded(MODEL), seconds=180)
            yield client
        finally:
            installed.call("DELETE", f"/models/{MODEL}")


def test_a_model_wakes_there_for_a_request_at_the_gateway_and_every_token_is_in_the_ledger(
    client: PlatformClient, worker: Worker
) -> None:
    def counted(name: str) -> int:
        return sum(client.counted_by(pod, name) for pod in Installed(worker.lab).engine_pods(MODEL))

    with engines(worker.lab):
        answer = client.stream(MODEL, PARIS, wait=300)
        print(f"\nfirst token {answer.first_token} s, phases {answer.phases}, {answer.messages}")
        assert answer.error is None, answer.error
        assert "Paris" in answer.text
        asked = [answer, *(client.stream(MODEL, PARIS, max_tokens=20, wait=60) for _ in range(5))]
        rows = [client.row(each.request_id) for each in asked]
        assert sum(row["completion_tokens"] for row in rows) == counted(GENERATED)
        assert sum(row["prompt_tokens"] for row in rows) == counted(PROMPTED)
        client.installed.call("POST", f"/models/{MODEL}:deactivate")


def test_a_job_runs_there_and_trusts_the_authority_of_the_gateway(
    installed: Installed, gateway: TlsGateway, cluster_id: str
) -> None:
    body = {
        "image": "python",
        "command": "python3 scripts/run.py",
        "scripts": {"run.py": base64.b64encode(SCRIPT).decode()},
        "envs": {"URL": f"{gateway.there}/v1/models"},
        "cluster_id": cluster_id,
    }
    status, made = installed.call("POST", "/batch/jobs", body)
    assert status == 200, made
    with contextlib.closing(PlatformClient(installed)) as client:
        client.ticking("the job has ended", lambda: _not_succeeded(installed, made["id"]), seconds=300)
    assert output(installed, made["id"]) == "HTTP 401\n"
    assert job(installed, made["id"])["cluster_id"] == cluster_id
    installed.call("DELETE", f"/batch/jobs/{made['id']}")


def _not_succeeded(installed: Installed, job_id: str) -> str | None:
    found = job(installed, job_id)
    assert found["status"] != "failed", found["error"]
    return None if found["status"] == "succeeded" else f"{found['status']}: {found['queue']}"
