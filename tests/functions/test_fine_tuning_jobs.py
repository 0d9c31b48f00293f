"""/v1/fine_tuning: the shapes of jobs, events and checkpoints; what a body may say; the routes of jobs' processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import delete, update

from llmariner.errors import PermissionDenied
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.jobs import load_job
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.http.event_streams import event_stream
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation

ROW = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Arrr!"}]}


@pytest.fixture(scope="module")
def training_file(installation: Installation) -> str:
    files, new = installation.context.files, NewFile("train.jsonl", Purpose.FINE_TUNE, "application/jsonl")
    with files.receive(installation.owner, purpose=None, size_bytes=0, limit_bytes=10_000) as content:
        content.write(b"\n".join([json.dumps(ROW).encode()] * 12))
        return files.save(installation.owner, new, content).id


@pytest.fixture
def call(ask: Ask, admin: dict[str, str], installation: Installation) -> Iterator[Any]:
    """Send a request as the administrator: `call("GET", "/ftjob-1")`."""
    yield lambda method, path="", body=None, query="": ask(
        "fine_tuning_jobs", HttpRequest(method, f"/v1/fine_tuning/jobs{path}", body, dict(admin), query=query)
    )
    with installation.context.database.write() as session:
        session.run(delete(fine_tuning_jobs).where(fine_tuning_jobs.c.id != "ftjob-worker"))


def test_a_job_has_openais_and_upstreams_fields(call: Any, installation: Installation, training_file: str) -> None:
    said = {
        "model": "tiny",
        "training_file": training_file,
        "suffix": "pirate",
        "seed": 7,
        "metadata": {"team": "a"},
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "beta": 0.2}}},
    }
    made = call("POST", body=said)
    assert made.status == 200, made.body
    job = made.json
    assert job["id"].startswith("ftjob-")
    numbers = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": job["created_at"],
        "error": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "hyperparameters": numbers,
        "model": "tiny",
        "organization_id": installation.owner.organization_id,
        "result_files": [],
        "seed": 7,
        "status": "validating_files",
        "trained_tokens": None,
        "training_file": training_file,
        "validation_file": None,
        "estimated_finish": None,
        "integrations": [],
        "metadata": {"team": "a"},
        "method": {"type": "dpo", "dpo": {"hyperparameters": {**numbers, "beta": 0.2}}},
        "training_type": {"type": "lora"},
        "suffix": "pirate",
        "project_id": installation.owner.project_id,
        "project_title": job["project_title"],
        "organization_title": job["organization_title"],
        "resources": {"gpu_count": 0, "worker_count": 1},
        "kubernetes_namespace": "",
        "cluster_id": "",
        "cluster_name": "",
        "queue": {"place": None, "reason": ""},
        "estimate": {"tokens": None, "seconds": None, "cost_usd": None, "seconds_left": None, "gate": None},
        "cost_usd": 0.0,
        "progress": {"step": 0, "total_steps": None, "trained_tokens": 0},
        "promotion": None,
        "pause_requested": False,
    }
    assert job["project_title"]
    assert job["organization_title"]
    assert call("GET", f"/{job['id']}").json == job
    listed = call("GET").json
    assert (listed["object"], listed["has_more"], listed["total_items"] >= 1) == ("list", False, True)
    assert job in listed["data"]
    first, *_ = events = call("GET", f"/{job['id']}/events").json["data"]
    assert [event["message"] for event in events] == [
        f"Validating training file: {training_file}",
        f"Created fine-tuning job: {job['id']}",
    ]
    assert first == {
        "id": first["id"],
        "object": "fine_tuning.job.event",
        "created_at": first["created_at"],
        "level": "info",
        "message": first["message"],
        "type": "message",
        "data": {},
    }
    page = call("GET", f"/{job['id']}/events", query=f"limit=1&after={first['id']}").json
    assert (page["data"], page["has_more"]) == (events[1:], False)
    none = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    assert call("GET", f"/{job['id']}/checkpoints").json == none
    assert call("POST", f"/{job['id']}/cancel").json["status"] == "cancelled"
    assert_error(call("POST", f"/{job['id']}/pause"), 409, code="invalid_job_status")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"hyperparameters": {"n_epochs": "3"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 2.5}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 10**30}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"epochs": 2}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"early_stopping_patience": 2}}, "hyperparameters.early_stopping_patience"),
        ({"hyperparameters": {"early_stopping_patience": 0}}, "hyperparameters.early_stopping_patience"),
        ({"hyperparameters": {"early_stopping_patience": "auto"}}, "hyperparameters.early_stopping_patience"),
        ({"hyperparameters": {"learning_rate_multiplier": -1}}, "hyperparameters.learning_rate_multiplier"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}},
            "method.dpo.hyperparameters.beta",
        ),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.reinforcement.grader.type"),
        ({"method": {"type": "dpo", "supervised": {"hyperparameters": {}}}}, "method.supervised"),
        (
            {
                "hyperparameters": {"n_epochs": 1},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            },
            "hyperparameters",
        ),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"resources": {"gpu_count": 1}}, "resources.gpu_count"),
        ({"metadata": {"resources.gpu": "1"}}, "resources.gpu_count"),
        ({"metadata": {"resources.gpu": "many"}}, "metadata"),
        ({"metadata": {"resources.gpu": "0"}, "resources": {"gpu_count": 0}}, "resources"),
        ({"resources": {"worker_count": 0}}, "resources.worker_count"),
        ({"resources": {"worker_count": 9}}, "resources.worker_count"),
        ({"resources": {"worker_count": "2"}}, "resources.worker_count"),
        ({"training_type": {"type": "Full"}, "method": {"type": "dpo"}}, "training_type.type"),
        ({"training_type": {"type": ["full"]}}, "training_type.type"),
        ({"training_type": "full"}, "training_type"),
        ({"training_type": {"type": "qlora4"}}, "training_type.type"),
        ({"training_type": {"type": "ia3"}}, "training_type.type"),
        ({"promotion": {"alias": "a/b"}}, "alias"),
        ({"promotion": {"alias": "bot", "gate": {"type": "validation_loss"}}}, "promotion.gate"),
        ({"promotion": {"alias": "bot", "gate": {"type": "vote", "maximum": 1}}}, "promotion.gate.type"),
        ({"promotion": {"alias": "bot", "gate": {"type": "grader", "maximum": 1}}}, "promotion.gate.maximum"),
        ({"promotion": {"alias": "bot", "gate": {"type": "validation_loss", "maximum": -1}}}, "promotion.gate.maximum"),
        (
            {"promotion": {"alias": "bot", "gate": {"type": "validation_loss", "maximum": "1"}}},
            "promotion.gate.maximum",
        ),
        ({"promotion": {"alias": "bot", "gate": {"type": "validation_loss", "maximum": 1.5}}}, "validation_file"),
        ({"promotion": {"gate": None}}, "promotion.alias"),
        ({"seed": "7"}, "seed"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_a_wrong_field_is_named(call: Any, training_file: str, change: dict[str, Any], param: str) -> None:
    answer = call("POST", body={"model": "tiny", "training_file": training_file, **change})
    assert answer.status in (400, 404), answer.body
    assert answer.error["param"].startswith(param)
    assert not [job for job in call("GET").json["data"] if job["id"] != "ftjob-worker"]


def test_an_adapter_of_4_bits_is_a_type_of_every_method(call: Any, training_file: str) -> None:
    body = {"model": "tiny", "training_file": training_file, "training_type": {"type": "QLoRA"}}
    made = call("POST", body={**body, "method": {"type": "dpo"}})
    assert (made.status, made.json["training_type"]) == (200, {"type": "qlora"}), made.body


def test_a_key_by_which_a_job_could_not_work_is_refused(
    ask: Ask, installation: Installation, training_file: str
) -> None:
    body = {"model": "tiny", "training_file": training_file}
    keys, owner = installation.context.keys, installation.owner
    tuning = frozenset({"api.fine_tuning.jobs.write", "api.files.read"})
    bound = NewKey("bound", tuning | {"api.files.write"}, allowed_sources=("127.0.0.0/8", "::1/128"))
    for new, code in ((NewKey("without files", tuning), "missing_scope"), (bound, "source_not_allowed")):
        _, secret = keys.create(owner, new)
        request = HttpRequest("POST", "/v1/fine_tuning/jobs", body, {"authorization": f"Bearer {secret}"})
        assert_error(ask("fine_tuning_jobs", request), 403, code=code)


def test_the_process_of_a_job_asks_and_reports(
    call: Any, ask: Ask, installation: Installation, training_file: str
) -> None:
    registry = installation.context.registry
    registry.create(NewModel("trainable", SourceRepository.LOCAL, "/weights/trainable"))
    registry.mark_loaded("trainable", folder="/weights/trainable", size_bytes=1000, task=Task.GENERATE)
    job_id = call("POST", body={"model": "trainable", "training_file": training_file}).json["id"]
    installation.context.fine_tuning.reconciler.reconcile(job_id)
    token = installation.jobs.submitted[f"{job_id}-0"].environment["LLMARINER_TRAINING_TOKEN"]
    path, headers = f"/v1/fine_tuning/workers/{job_id}", {"authorization": f"Bearer {token}"}

    def send(method: str, what: str, body: Any = None, **changes: Any) -> Any:
        request = HttpRequest(method, f"{path}/{what}", body, headers)
        return ask("fine_tuning_workers", replace(request, **changes))

    plan = send("GET", "plan").json
    assert (plan["stage"], plan["method"], plan["validation_file"]) == ("check", "supervised", None)
    assert f"/v1/files/{training_file}/content?link=" in plan["training_file"]
    assert f"/v1/files/{training_file}/content?link=" in send("GET", "links/training_file").json["url"]
    for name in ("validation_file", "checkpoint", "seed", "x" * 99):
        assert_error(send("GET", f"links/{name}"), 404, code="not_found")
    upload = {"kind": "metrics", "bytes": 3, "sha256": "0" * 64}
    assert "/v1/files:upload?link=" in send("POST", "uploads", upload).json["url"]
    assert_error(send("POST", "uploads", {**upload, "bytes": -1}), 400, code="invalid_value")
    for other in ({}, {"authorization": f"Bearer {installation.keys.admin}"}, {"authorization": f"Basic {token}"}):
        assert_error(send("GET", "plan", headers=other), 401, code="invalid_api_key")
    assert_error(send("GET", "plan", path="/v1/fine_tuning/workers/ftjob-none/plan"), 401, code="invalid_api_key")
    record = {"type": "checked", "training_file": {"examples": 12, "tokens": 60}}
    assert send("POST", "reports", {"records": [record]}).json == {"action": "continue"}
    assert_error(send("POST", "reports", {"records": [record]}), 409, code="attempt_ended")
    job = call("GET", f"/{job_id}").json
    assert (job["status"], job["estimate"]["tokens"], job["progress"]["total_steps"]) == ("queued", 480, 24)
    assert job["hyperparameters"] == {"n_epochs": 8, "batch_size": 4, "learning_rate_multiplier": 1.0}
    with installation.context.database.write() as session:
        session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id).values(released=True))


def test_guesses_from_a_machine_hold_up_none_of_its_new_processes(
    ask: Ask, call: Any, installation: Installation, training_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.context.secret_lookups, "_failed_attempts", FailedAttemptLimiter(3))
    job_id = call("POST", body={"model": "tiny", "training_file": training_file}).json["id"]
    with installation.context.database.read() as session:
        job = load_job(session, installation.owner.project_id, job_id)
    token = installation.context.fine_tuning.worker_tokens.issue(job)
    path = f"/v1/fine_tuning/workers/{job_id}/plan"

    def plan(said: str) -> HttpResponse:
        return ask("fine_tuning_workers", HttpRequest("GET", path, None, {"authorization": f"Bearer {said}"}))

    assert [plan(f"guess-{number}").status for number in range(5)] == [401, 401, 401, 429, 429]
    mine = plan(token)
    assert mine.status == 200, mine.body
    link = urlsplit(mine.json["training_file"])
    assert ask("files", HttpRequest("GET", link.path, query=link.query)).status == 200
    upload = {"kind": "metrics", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    headers = {"authorization": f"Bearer {token}"}
    asked = ask("fine_tuning_workers", HttpRequest("POST", path.replace("plan", "uploads"), upload, headers))
    link = urlsplit(asked.json["url"])
    assert ask("files", HttpRequest("PUT", link.path, b"abc", query=link.query)).status == 200


def test_events_are_streamed_oldest_first_until_the_job_ends(call: Any, training_file: str) -> None:
    job_id = call("POST", body={"model": "tiny", "training_file": training_file}).json["id"]
    call("POST", f"/{job_id}/cancel")
    listed = call("GET", f"/{job_id}/events").json["data"][::-1]
    answer = call("GET", f"/{job_id}/events", query="stream=true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert _streamed(answer.body) == [*((event["id"], event) for event in listed), (None, "[DONE]")]
    rest = call("GET", f"/{job_id}/events", query=f"stream=true&after={listed[0]['id']}")
    assert _streamed(rest.body) == [*((event["id"], event) for event in listed[1:]), (None, "[DONE]")]
    assert_error(call("GET", "/ftjob-none/events", query="stream=true"), 404, code="not_found")
    for query in ("stream=maybe", "stream=true&after=file-1"):
        assert call("GET", f"/{job_id}/events", query=query).status == 400


def _streamed(body: bytes) -> list[tuple[str | None, Any]]:
    """(Id, object) of each event of a stream; its comments are left out."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append(
                (fields.get("id"), fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"]))
            )
    return found


def test_a_stream_tells_that_it_lives_and_why_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.http.event_streams._CHECK_SECONDS", -1.0)
    answers = iter([None, None, PermissionDenied("You lost the right.")])

    def allowed() -> None:
        if (error := next(answers)) is not None:
            raise error

    async def parts() -> AsyncGenerator[list[dict[str, Any]]]:
        yield [{"id": "ftevent-1"}, {"id": "ftevent-2"}]
        yield []
        yield [{"id": "ftevent-3"}]

    async def read() -> list[str]:
        return [str(text) async for text in event_stream(parts(), allowed).body_iterator]

    head, first, heartbeat, last = asyncio.run(read())
    assert (head, heartbeat) == (": open\n\n", ": heartbeat\n\n")
    assert first == 'id: ftevent-1\ndata: {"id": "ftevent-1"}\n\nid: ftevent-2\ndata: {"id": "ftevent-2"}\n\n'
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "You lost the right."


def test_jobs_are_listed_by_their_metadata(call: Any, training_file: str) -> None:
    made = [
        call("POST", body={"model": "tiny", "training_file": training_file, "metadata": metadata}).json["id"]
        for metadata in ({"team": "a", "run": "1"}, {"team": "a"}, {"team": "b"}, None)
    ]
    for query, expected in {
        "metadata[team]=a": made[1::-1],
        "metadata%5Bteam%5D=a&metadata%5Brun%5D=1": made[:1],
        "metadata[run]=2": [],
        "metadata[TEAM]=a": [],
        "metadata[team]=A": [],
        "metadata[team]=a%25": [],
        "metadata[team]=a&limit=1": made[1:2],
        f"metadata[team]=a&after={made[1]}": made[:1],
        "metadata=null": made[3:],
    }.items():
        found = call("GET", query=query).json
        # Jobs of other tests have none.
        assert [job["id"] for job in found["data"] if job["id"] in made] == expected, query
        assert found["has_more"] == ("limit=1" in query)
    assert call("GET", query="metadata[team]=a&limit=1").json["total_items"] == 2
    many = "&".join(f"metadata[k{number}]=v" for number in range(17))
    for query in (
        "metadata=team",
        "metadata=null&metadata[team]=a",
        "metadata[team]=a&metadata[team]=b",
        many,
    ):
        refused = call("GET", query=query)
        assert_error(refused, 400, code="invalid_value")
        assert refused.error["param"] == "metadata"
