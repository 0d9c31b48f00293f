"""/v1/batch/jobs: the shapes of jobs and lists, and the output as a stream of text."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from llmariner.audit.tables import audit_log
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.job_settings import JobSettings

from .conftest import Ask
from .http_calls import HttpRequest, assert_error
from .installation import Installation

SCRIPT = base64.b64encode(b"echo \xff").decode()
NEW: dict[str, Any] = {
    "image": "pytorch-2.1",
    "command": "sh scripts/run.sh",
    "scripts": {"run.sh": SCRIPT},
    "resources": {"gpu_count": 0},
    "envs": {"LR": "0.1"},
    "data_files": [],
    "kind": {"pytorch": {"worker_count": 1}},
    "backoff_limit": 2,
}


@pytest.fixture
def call(ask: Ask, admin: dict[str, str], installation: Installation) -> Iterator[Any]:
    """Send a request as the administrator: `call("GET", "/bj-1")`; other tests' jobs are gone."""
    with installation.context.database.write() as session:
        session.run(delete(batch_jobs))
    yield lambda method, path="", body=None, query="": ask(
        "batch_jobs_exec" if path.endswith("/exec") else "batch_jobs",
        HttpRequest(method, f"/v1/batch/jobs{path}", body, dict(admin), query=query),
    )
    with installation.context.database.write() as session:
        session.run(delete(batch_jobs))


def test_a_job_has_upstreams_fields_and_more(call: Any, installation: Installation) -> None:
    made = call("POST", body=NEW)
    assert made.status == 200, made.body
    job = made.json
    assert job["id"].startswith("bj-")
    assert job == {
        "id": job["id"],
        "object": "batch.job",
        "created_at": job["created_at"],
        "started_at": 0,
        "finished_at": 0,
        "cancel_requested_at": 0,
        "pause_requested_at": 0,
        "status": "queued",
        "queue": {"place": None, "reason": ""},
        "error": None,
        "backoff_limit": 2,
        "restarts": 0,
        "image": "pytorch-2.1",
        "command": "sh scripts/run.sh",
        "scripts": ["run.sh"],
        "envs": {"LR": "0.1"},
        "data_files": [],
        "result_files": [],
        "results_error": None,
        "resources": {"gpu_count": 0},
        "kind": {"pytorch": {"worker_count": 1}},
        "environment": "Nowhere.",
        "project_id": installation.owner.project_id,
        "organization_id": installation.owner.organization_id,
        "kubernetes_namespace": "",
        "cluster_id": "",
        "cluster_name": "",
    }
    installation.context.batch_job_reconciler.reconcile(job["id"])
    assert installation.jobs.submitted[job["id"]].scripts == {"run.sh": b"echo \xff"}
    found = call("GET", f"/{job['id']}").json
    assert found["queue"]["reason"] == "Nothing runs."
    assert found["queue"]["place"] >= 1
    assert call("GET").json == {"object": "list", "jobs": [found], "has_more": False, "total_items": 1}
    asked = call("POST", f"/{job['id']}/cancel").json
    assert (asked["status"], asked["cancel_requested_at"] > 0) == ("queued", True)
    installation.context.batch_job_reconciler.reconcile(job["id"])
    assert call("GET", f"/{job['id']}").json["status"] == "canceled"
    assert call("DELETE", f"/{job['id']}").json["id"] == job["id"]
    operations = ("/cancel", "/pause", "/resume")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/logs"), *(("POST", each) for each in operations)):
        assert_error(call(method, f"/{job['id']}{path}"), 404, code="not_found")
    assert_error(call("POST", f"/{job['id']}/exec", {"command": ["ls"]}), 404, code="not_found")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"scripts": {"run.sh": "no Base64"}}, "scripts"),
        ({"scripts": {"run.sh": "ä"}}, "scripts"),
        ({"scripts": {"run.sh": 1}}, "scripts.run.sh"),
        ({"resources": {"gpu_count": "1"}}, "resources.gpu_count"),
        ({"resources": {"gpu_count": 10**30}}, "resources.gpu_count"),
        ({"kind": {"pytorch": {}}}, "kind.pytorch.worker_count"),
        ({"kind": {"mpi": {}}}, "kind.mpi"),
        ({"data_files": ["file-none"]}, "data_files"),
        ({"image": None}, "image"),
        ({"backoff_limit": -1}, "backoff_limit"),
        ({"backoff_limit": 11}, "backoff_limit"),
        ({"backoff_limit": 1.5}, "backoff_limit"),
        ({"command": "echo \ud800"}, "command"),
        ({"envs": {"NAME": "\udfff"}}, "envs"),
        ({"command": "\U0001f600" * 32_768}, "command"),
        ({"envs": {f"V{number}": "x" * 8192 for number in range(120)}}, "envs"),
    ],
)
def test_a_wrong_field_is_named(call: Any, change: dict[str, Any], param: str) -> None:
    answer = call("POST", body={**NEW, **change})
    assert answer.status in (400, 404), answer.body
    assert answer.error["param"] == param
    assert call("GET").json["jobs"] == []


def test_a_megabyte_of_scripts_is_accepted(call: Any) -> None:
    content = base64.b64encode(b"#" * 1_000_000).decode()
    assert call("POST", body={**NEW, "scripts": {"run.sh": content}}).status == 200
    content = base64.b64encode(b"#" * 1_000_001).decode()
    assert_error(call("POST", body={**NEW, "scripts": {"run.sh": content}}), 400, code="scripts_too_large")


def test_output_is_text_from_a_byte_on(call: Any, installation: Installation) -> None:
    job_id = call("POST", body=NEW).json["id"]
    installation.jobs.logs[job_id] = b"step 1\nstep 2\n\xff"
    whole = call("GET", f"/{job_id}/logs")
    assert (whole.status, whole.body) == (200, b"step 1\nstep 2\n\xff")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["x-log-start"] == "0"
    assert call("GET", f"/{job_id}/logs", query="start=7").body == b"step 2\n\xff"
    assert call("GET", f"/{job_id}/logs", query="start=99").body == b""
    assert_error(call("GET", f"/{job_id}/logs", query="start=-1"), 400, code="invalid_value")
    installation.jobs.cancel(job_id)
    call("POST", f"/{job_id}/cancel")
    installation.context.batch_job_reconciler.reconcile(job_id)
    assert call("GET", f"/{job_id}/logs", query="follow=true").body == b"step 1\nstep 2\n\xff", (
        "a job that has ended ends it"
    )


def test_a_job_is_paused_and_resumed(call: Any, installation: Installation) -> None:
    job_id = call("POST", body=NEW).json["id"]
    paused = call("POST", f"/{job_id}/pause").json
    assert (paused["status"], paused["pause_requested_at"] > 0) == ("queued", True)
    installation.context.batch_job_reconciler.reconcile(job_id)
    assert call("GET", f"/{job_id}").json["status"] == "paused"
    resumed = call("POST", f"/{job_id}/resume").json
    assert (resumed["status"], resumed["pause_requested_at"]) == ("queued", 0)
    call("POST", f"/{job_id}/cancel")
    for path in ("/pause", "/resume"):
        assert_error(call("POST", f"/{job_id}{path}"), 409, code="invalid_job_status")


def test_a_program_runs_in_a_job(call: Any, installation: Installation) -> None:
    job_id = call("POST", body=NEW).json["id"]
    assert_error(call("POST", f"/{job_id}/exec", {"command": ["ls"]}), 409, code="job_not_running")
    with installation.context.database.write() as session:
        session.run(update(batch_jobs).values(status="running"))
    installation.jobs.stopped.add(job_id)
    assert_error(call("POST", f"/{job_id}/exec", {"command": ["ls"]}), 409, code="job_not_running")
    installation.jobs.stopped.remove(job_id)
    for body, param in (
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["a\0"]}, "command"),
        ({"command": ["x"] * 1001}, "command"),
        ({"command": ["x" * 20_000]}, "command"),
        ({"command": "ls"}, "command"),
        ({"command": ["ls"], "stdin": "ä"}, "stdin"),
        ({"command": ["ls"], "stdin": base64.b64encode(bytes(1_000_001)).decode()}, "stdin"),
    ):
        answer = call("POST", f"/{job_id}/exec", body)
        assert (answer.status, answer.error["param"]) == (400, param)
    stdin = base64.b64encode(b"in").decode()
    for _ in range(20):  # more than may run at a time: each gives its place back
        done = call("POST", f"/{job_id}/exec", {"command": ["ls", "-l"], "stdin": stdin})
        assert done.status == 200, done.body
    assert done.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line.removeprefix(b"data: ")) for line in done.body.split(b"\n\n") if line]
    assert events == [
        {"type": "output", "stream": "stdout", "data": base64.b64encode(b"ls -l").decode()},
        {"type": "output", "stream": "stderr", "data": stdin},
        {"type": "exit", "exit_code": 3},
    ]
    with installation.context.database.read() as session:
        entry = session.rows(select(audit_log).order_by(audit_log.c.sequence.desc()).limit(1))[0]
    assert (entry.type, json.loads(entry.payload)["command"]) == ("batch_job.program_started", "ls -l")


def test_a_place_that_runs_no_jobs_says_so(call: Any, installation: Installation) -> None:
    installation.jobs.problem = "The kernel has no namespaces."
    try:
        answer = call("POST", body=NEW)
    finally:
        installation.jobs.problem = ""
    assert_error(answer, 503, code="no_job_runner")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("setting", "said"), [("off", "LLMARINER_JOBS=processes"), ("processes", "`llma up`")])
def test_an_installation_without_jobs_says_what_starts_them(
    installation: Installation, setting: str, said: str
) -> None:
    context = Context({**installation.environment, "LLMARINER_JOBS": setting})
    with pytest.raises(Unavailable, match=said) as raised:
        assert context.jobs
    assert raised.value.code == "no_job_runner"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLMARINER_JOBS", "docker"),
        ("LLMARINER_JOB_IMAGES", "a,b/c"),
        ("LLMARINER_JOB_SLOTS", "0"),
        ("LLMARINER_JOB_SECONDS", "soon"),
        ("LLMARINER_JOB_NETWORK", "some"),
        ("LLMARINER_JOB_DISK_GIB", "-1"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        JobSettings.load({name: value})
