"""Jobs whose metrics go to Weights & Biases: as its own client sends them, to an endpoint that keeps what it gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.credentials import NewCredential
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.representation import job_object
from llmariner.platform.database import Database
from llmariner.platform.trackers import (
    Credential,
    NewRun,
    Outcome,
    Point,
    TrackingRefused,
    TrackingUnavailable,
)
from llmariner.platform.trackers.wandb import Wandb
from llmariner.settings import Secret
from llmariner.tenancy.principal import KeyOwner
from llmariner.tracking_settings import TrackingSettings

from .training_desk import TrainingDesk, step

KEY = "a" * 40
RECORDING = json.loads((Path(__file__).parent / "recordings" / "wandb-0.31.0.json").read_text())
"""What wandb 0.31.0 sent for the run of `test_the_calls_are_those_of_its_own_client`, without what is about its machine."""


class Endpoint(ThreadingHTTPServer):
    """Answers as the API does; `errors`: those of the next GraphQL answer; `bucket`: replaces the run in it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.received: list[dict[str, Any]] = []
        self.errors: list[Any] | None = None
        self.bucket: Any = None

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path != "/graphql":
            return {"exitcode": None, "limits": {}}
        if self.errors is not None:
            return {"data": {"upsertBucket": None}, "errors": self.errors}
        said = body["variables"]
        project = {"name": said["project"], "entity": {"name": said["entity"] or "ann"}}
        bucket = self.bucket or {"id": "UnVuOnYx", "name": said["name"], "project": project}
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}

    def lines(self) -> dict[int, dict[str, Any]]:
        """The metrics by their numbers, the last ones sent counting."""
        found = {}
        for request in self.received:
            history = request["body"].get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            found.update({history["offset"] + at: json.loads(line) for at, line in enumerate(history["content"])})
        return found


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        endpoint = self.server
        assert isinstance(endpoint, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        received = {"method": "POST", "path": self.path, "authorization": self.headers["authorization"], "body": body}
        endpoint.received.append(received)
        answer = json.dumps(endpoint.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path, endpoint: Endpoint) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path, TrackingSettings(wandb_server=endpoint.url))


def connected(endpoint: Endpoint) -> Wandb:
    return Wandb(endpoint.url, Credential("", Secret(KEY)))


def test_the_calls_are_those_of_its_own_client(endpoint: Endpoint) -> None:
    wandb, at = connected(endpoint), 1_760_000_000.0
    parameters: dict[str, str | int | float] = {"model": "smol", "seed": 7}
    run = wandb.begin(NewRun("ftjob-1-0", "proj", "first", at, "ent", {"a": "", "b": ""}, parameters))
    assert run.url == f"{endpoint.url}/ent/proj/runs/ftjob-1-0"
    wandb.log(run, [Point(0, 1, at + 1, {"train_loss": 2.0}), Point(1, 2, at + 2, {"train_loss": 1.0})])
    wandb.end(run, Outcome.FINISHED, at + 3, 2)
    begun, logged, ended = endpoint.received
    recorded_begun, recorded_stream = RECORDING
    for sent, recorded in ((begun, recorded_begun), (logged, recorded_stream), (ended, recorded_stream)):
        assert [sent[name] for name in ("method", "path", "authorization")] == [
            recorded[name] for name in ("method", "path", "authorization")
        ]
    said, recorded = begun["body"]["variables"], recorded_begun["body"]["variables"]
    assert json.loads(said.pop("config")) == json.loads(recorded["config"])
    assert said.items() <= recorded.items()
    given = {name: value for name, value in recorded.items() if value is not None and name != "config"}
    assert said == given
    for part in ("name: $name", "modelName: $project", "entityName: $entity", "config: $config", "tags: $tags"):
        assert part in begun["body"]["query"]
        assert part.replace(" ", "") in recorded_begun["body"]["query"], "its mutation has the same inputs"
    whole = {**logged["body"], **ended["body"], "files": logged["body"]["files"]}
    assert whole.keys() == recorded_stream["body"].keys() - {"uploaded"}
    assert (whole["complete"], whole["exitcode"]) == (True, 0)
    for name, file in recorded_stream["body"]["files"].items():
        mine = whole["files"][name]
        assert mine["offset"] == file["offset"]
        for line, theirs in zip(mine["content"], map(json.loads, file["content"]), strict=True):
            found = json.loads(line)
            assert found.keys() == theirs.keys() - {"_runtime", "_wandb"}
            assert (found["_step"], found["train_loss"]) == (theirs["_step"], theirs["train_loss"])


def test_a_job_is_a_run_to_its_end(desk: TrainingDesk, endpoint: Endpoint) -> None:
    settings = {"project": "pirates", "name": "first run", "entity": "crew", "tags": ["a", "ü"]}
    said = Integration("wandb", settings)
    with pytest.raises(InvalidRequest) as missing:
        desk.create(integrations=(said,))
    assert missing.value.code == "missing_credential"
    desk.tuning.credentials.put(desk.caller, NewCredential("wandb", Secret(KEY)))
    tracked, jobs = desk.tuning.tracked_runs, {}
    for end in ("finished", "failed", "cancelled"):
        jobs[end] = desk.training(integrations=(said,))
        tracked.send(jobs[end])
        begun = endpoint.received.pop()["body"]["variables"]
        assert (begun["project"], begun["displayName"], begun["entity"], begun["tags"]) == tuple(settings.values())
        endpoint.received.clear()
        desk.report(jobs[end], 1, step(1), step(2))
        tracked.send(jobs[end])
        desk.report(jobs[end], 1, step(3))
        tracked.send(jobs[end])
        tracked.send(jobs[end])
        assert {number: line["_step"] for number, line in endpoint.lines().items()} == {0: 1, 1: 2, 2: 3}
        assert len(endpoint.received) == 2, "nothing is sent twice"
    assert desk.finish(jobs["finished"]).status is Status.SUCCEEDED
    desk.report(jobs["failed"], 1, {"type": "failed", "message": "The loss is no number."})
    desk.jobs.cancel(desk.caller, jobs["cancelled"])
    for end, code in (("finished", 0), ("failed", 1), ("cancelled", 255)):
        tracked.send(jobs[end])
        assert (endpoint.received[-1]["body"]["complete"], endpoint.received[-1]["body"]["exitcode"]) == (True, code)
        events, _ = desk.history.events(desk.project_id, jobs[end], after=None, limit=100)
        assert not [event for event in events if event.level == "warn"]
        (shown,) = [event for event in events if "Run of" in event.message]
        assert shown.data["url"] == f"{endpoint.url}/crew/pirates/runs/{jobs[end]}-0"
    assert job_object(desk.get(jobs["finished"]))["integrations"] == [{"type": "wandb", "wandb": settings}]
    assert KEY not in json.dumps(job_object(desk.get(jobs["finished"])))


def test_wrong_answers_are_refused(endpoint: Endpoint) -> None:
    new = NewRun("ftjob-1-0", "proj", "first", 1.0)
    for errors in ([{"message": "permission denied"}], ["permission denied"], [7]):
        endpoint.errors = errors
        with pytest.raises(TrackingRefused, match=r"denied|7"):
            connected(endpoint).begin(new)
    endpoint.errors = None
    long = {"name": "p" * 500, "entity": {"name": "e"}}
    for bucket in (
        [1],
        {"project": {"name": "p"}},
        {"project": {"name": "..", "entity": {"name": "e"}}},
        {"project": long},
        {"project": {"name": "p", "entity": {"name": "\ud800"}}},
        {"project": {"name": "p\0", "entity": {"name": "e"}}},
    ):
        endpoint.bucket = bucket
        with pytest.raises(TrackingRefused, match="its answer has"):
            connected(endpoint).begin(new)
    endpoint.bucket = {"project": {"name": "a/../b?c", "entity": {"name": "é"}}}
    assert connected(endpoint).begin(new).place == "%C3%A9/a%2F..%2Fb%3Fc"
    with pytest.raises(TrackingUnavailable, match="no API key"):
        Wandb(endpoint.url, None)
    assert Wandb("https://api.wandb.ai", Credential("", Secret(KEY)))._pages == "https://wandb.ai"


def test_wrong_settings_are_refused(desk: TrainingDesk) -> None:
    desk.tuning.credentials.put(desk.caller, NewCredential("wandb", Secret(KEY)))
    refused: dict[str, dict[str, Any]] = {
        "project": {"project": "a/b"},
        "entity": {"entity": "../x"},
        "name": {"name": "a\nb"},
        "tags": {"tags": [""]},
    }
    for field, settings in refused.items():
        with pytest.raises(InvalidRequest) as raised:
            desk.create(integrations=(Integration("wandb", {"project": "p", **settings}),))
        assert raised.value.param == f"integrations[0].wandb.{field}"
    with pytest.raises(InvalidRequest, match="an API key alone"):
        desk.tuning.credentials.put(desk.caller, NewCredential("wandb", Secret(KEY), username="ann"))
