"""A control plane of one machine serves a model and runs a job on a worker cluster, through the cluster's agent alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE

from ...lab.kubectl import get, kubectl
from ...lab.places import Lab
from ...lab.processes import running as running_processes
from ...lab.wait import until
from ...platform import overlay
from ..platform_client import GENERATED, PARIS, PROMPTED, PlatformClient
from ..two_clusters.worker import AGENT_NAMESPACE, Person, Worker
from .control_plane import ControlPlane, engines, running, unfit

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

PACKAGED, MODEL = "smollm2-135m-instruct", "west-smollm2"
PATIENCE = 300
SCRIPT = """\
import os, pathlib, time
print("began", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.2)
time.sleep(8)
os.makedirs("output", exist_ok=True)
pathlib.Path("output/result.txt").write_text(pathlib.Path("go").read_text())
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def lab() -> Lab:
    """A test cluster without a platform of its own, whose namespaces the worker's would be."""
    found = next((lab for lab in (Lab(1), Lab(0)) if "kubelet" in running_processes(lab)), Lab(0))
    if why := unfit(found):
        pytest.skip(why)
    return found


@pytest.fixture(scope="module")
def control_plane(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(lab, tmp_path_factory.mktemp("machine") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def owner(control_plane: ControlPlane) -> Person:
    return Person(control_plane.home, f"http://{control_plane.address}", control_plane.api_key)


@pytest.fixture(scope="module")
def worker(lab: Lab, owner: Person) -> Iterator[Worker]:
    made = Worker(lab, "gpu-west", "llmariner-jobs")
    try:
        made.join(owner, work=True)
        with engines(lab):
            yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def cluster_id(control_plane: ControlPlane, worker: Worker) -> str:
    _, listed = control_plane.call("GET", "/clusters")
    return next(str(each["id"]) for each in listed["data"] if each["name"] == worker.name)


@pytest.fixture
def client(control_plane: ControlPlane, cluster_id: str) -> Iterator[PlatformClient]:
    """With the model registered, which may run on the worker cluster alone."""
    control_plane.register(MODEL, overlay.weights(PACKAGED), cluster_ids=[cluster_id])
    client = PlatformClient(control_plane)
    yield client
    client.close()


def test_a_model_wakes_there_streams_is_counted_survives_its_agent_and_is_not_woken_once_drained(
    client: PlatformClient, control_plane: ControlPlane, owner: Person, worker: Worker, cluster_id: str
) -> None:
    answer = client.stream(MODEL, PARIS, wait=PATIENCE)
    print(f"\nfirst token {answer.first_token} s, phases {answer.phases}, {answer.messages}")
    assert answer.error is None, answer.error
    assert "Paris" in answer.text
    row = client.row(answer.request_id)
    assert row["completion_tokens"] == answer.usage["completion_tokens"] == client.counted(MODEL, GENERATED)
    assert row["prompt_tokens"] == answer.usage["prompt_tokens"] == client.counted(MODEL, PROMPTED)
    _, shown = control_plane.call("GET", f"/models/{MODEL}")
    assert shown["serving"]["clusters"] == [{"id": cluster_id, "name": worker.name, "phase": "ready"}]

    before = client.counted(MODEL)
    began = time.monotonic()
    broken = _stream_while_the_agent_is_killed(client, worker)
    print(f"the stream ended {time.monotonic() - began:.1f} s after its start: {broken}")
    again = client.whole(MODEL, PARIS, wait=PATIENCE)  # waits for the next agent
    assert again.status == 200, again.body
    assert "Paris" in again.text
    row = client.row(broken["request_id"])
    # A failed request costs what was reported before; what its engine made until it noticed, nobody pays.
    assert row["outcome"] == "failed"
    assert row["completion_tokens"] >= broken["parts"] > 0
    assert client.row(again.request_id)["completion_tokens"] == again.usage["completion_tokens"]
    unpaid = client.counted(MODEL) - before - row["completion_tokens"] - again.usage["completion_tokens"]
    print(f"{unpaid} tokens were made and not received")
    assert 0 <= unpaid < 200

    between = client.counted(MODEL)
    costs = [client.row(client.stream(MODEL, PARIS, max_tokens=20).request_id)["completion_tokens"] for _ in range(3)]
    assert sum(costs) == client.counted(MODEL) - between

    owner.done("llma", "admin", "clusters", "drain", worker.name)
    assert client.whole(MODEL, PARIS, max_tokens=1).status == 200  # no other cluster takes it, so it stays
    client.sleep(MODEL)
    refused = client.whole(MODEL, PARIS, wait=2)
    assert refused.error is not None
    assert "No cluster takes the model now" in refused.error["message"], refused.error
    owner.done("llma", "admin", "clusters", "drain", worker.name, "--undo")


def _stream_while_the_agent_is_killed(client: PlatformClient, worker: Worker) -> dict[str, Any]:
    """The id of the request whose stream ended with an error, and how many parts of it had text."""
    connection = client.send(MODEL, "Tell a long story.", stream=True, max_tokens=3000, ignore_eos=True)
    response = connection.getresponse()
    events = []
    for line in response:
        if line.startswith(b"data: {"):
            events.append(json.loads(line[6:]))
            if len(events) == 5:
                worker.kill_agent()
    connection.close()
    *parts, end = events
    assert "broke off" in end["error"]["message"], end
    with_text = [each for each in parts if any(choice["delta"].get("content") for choice in each["choices"])]
    return {"request_id": str(response.headers["x-request-id"]), "parts": len(with_text)}


def test_a_job_runs_there_shows_its_output_runs_programs_and_leaves_files_while_the_agent_is_away(
    control_plane: ControlPlane, owner: Person, worker: Worker, cluster_id: str, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    jobs = ("llma", "batch", "jobs")
    words = ("--image", "python", "--command", "python3 scripts/run.py", "--from-file", str(script))
    made = json.loads(owner.done(*jobs, "create", *words, "--cluster", cluster_id, "-o", "json"))
    job_id = str(made["id"])
    until(
        "the job's output",
        lambda: None if "began" in owner.run(*jobs, "logs", job_id).stdout else _shown(owner, job_id),
    )
    began = time.monotonic()
    until("the job is shown as running", lambda: _not_running(owner, job_id), seconds=60)
    print(f"\nshown as running {time.monotonic() - began:.1f} s after its output")
    until("its agent has named it", lambda: _not_named(control_plane, job_id), seconds=60)
    program = "import os, pathlib; pathlib.Path('go').write_text('written by exec'); print(sorted(os.listdir('.')))"
    assert "'scripts'" in owner.done(*jobs, "exec", job_id, "--", "python3", "-c", program)

    _scale_agent(worker, 0)
    until("the cluster is away", lambda: _connected(control_plane, cluster_id), seconds=120)
    time.sleep(float(os.environ.get("LLMARINER_AWAY_SECONDS", "0")))
    pods = get(worker.lab, "pods", "-n", JOBS_NAMESPACE)["items"]
    assert [each["status"]["phase"] for each in pods] == ["Succeeded"]
    _scale_agent(worker, 1)
    until("the job has ended", lambda: _not_succeeded(owner, job_id), seconds=180)
    shown = json.loads(owner.done(*jobs, "get", job_id, "-o", "json"))
    assert shown["cluster_id"] == cluster_id
    assert not shown.get("restarts")
    assert owner.done(*jobs, "logs", job_id) == "began\ndone\n"
    owner.done(*jobs, "output", "download", job_id, "--folder", str(tmp_path / "results"))
    assert (tmp_path / "results" / "result.txt").read_text() == "written by exec"
    owner.done(*jobs, "delete", job_id, "--force")
    until("nothing of it is left", lambda: _left(worker.lab), seconds=90)


def _shown(owner: Person, job_id: str) -> str:
    shown = json.loads(owner.done("llma", "batch", "jobs", "get", job_id, "-o", "json"))
    return f"{shown['status']}: {shown.get('queue')} {shown.get('error')}"


def _not_running(owner: Person, job_id: str) -> str | None:
    return None if (shown := _shown(owner, job_id)).startswith("running") else shown


def _not_named(control_plane: ControlPlane, job_id: str) -> str | None:
    """None: an event says that the agent named the job. The sweep writes none."""
    _, listed = control_plane.call("GET", "/events?limit=100")
    of_job = [each["data"] for each in listed["data"] if each["subject"] == f"batch_jobs/{job_id}"]
    return None if any(each.get("change") == "reported" for each in of_job) else f"{of_job}"


def _not_succeeded(owner: Person, job_id: str) -> str | None:
    return None if (shown := _shown(owner, job_id)).startswith("succeeded") else shown


def _left(lab: Lab) -> str | None:
    items = get(lab, "jobs,pods,secrets", "-n", JOBS_NAMESPACE)["items"]
    return ", ".join(each["metadata"]["name"] for each in items) or None


def _scale_agent(worker: Worker, replicas: int) -> None:
    kubectl(worker.lab, "scale", "deployment", "llmariner-agent", "-n", AGENT_NAMESPACE, f"--replicas={replicas}")


def _connected(control_plane: ControlPlane, cluster_id: str) -> str | None:
    _, shown = control_plane.call("GET", f"/clusters/{cluster_id}")
    return None if shown["status"] == "disconnected" else str(shown["status"])
