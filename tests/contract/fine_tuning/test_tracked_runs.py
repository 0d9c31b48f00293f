"""What is sent to an integration, and when: servers that are away, processes that are killed, credentials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.fine_tuning.credentials import Credentials, NewCredential
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.tables import fine_tuning_credentials, fine_tuning_runs
from llmariner.fine_tuning.tracked_runs import TrackedRuns
from llmariner.platform.database import Database
from llmariner.platform.trackers import (
    Credential,
    NewRun,
    Outcome,
    Point,
    Run,
    TrackingRefused,
    TrackingUnavailable,
)
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tracking_settings import TrackingSettings

from ..killed_process import Killed
from ..stored_files import Shelf
from .training_desk import SECRET, TrainingDesk, step

URL, OTHER = "http://mlflow.example:5000", "http://other.example/mlflow"
TRACKING = TrackingSettings(mlflow_servers=(URL, OTHER))
SAID = Integration("mlflow", {"experiment": "pirates"})


class RecordingTracker:
    """A server that keeps what it gets. `fault` is raised by every call, or by those of one method."""

    max_points = 2
    takes_files = True

    def __init__(self) -> None:
        self.credentials: list[tuple[str, Credential | None]] = []
        self.runs: dict[str, NewRun] = {}
        self.points: dict[tuple[str, int], Point] = {}
        self.files: dict[str, bytes] = {}
        self.ended: list[Outcome] = []
        self.calls = 0
        self.fault: BaseException | None = None
        self.faulty = ""
        self.meanwhile: Callable[[], object] = lambda: None

    def make(self, type_: str, url: str, credential: Credential | None) -> RecordingTracker:
        self.credentials.append((url, credential))
        return self

    def _called(self, name: str) -> None:
        self.calls += 1
        if self.fault is not None and self.faulty in ("", name):
            raise self.fault

    def begin(self, run: NewRun) -> Run:
        self._called("begin")
        self.runs[run.key] = run
        return Run(f"id-{run.key}", f"{URL}/{run.key}", "place")

    def log(self, run: Run, points: Sequence[Point]) -> None:
        self.points.update({(run.id, point.number): point for point in points})
        self.meanwhile()
        self._called("log")

    def upload(self, run: Run, name: str, size_bytes: int, parts: Iterable[bytes]) -> None:
        self._called("upload")
        self.files[name] = b"".join(parts)

    def end(self, run: Run, outcome: Outcome, at: float, points: int) -> None:
        self._called("end")
        assert points == len(self.points)
        self.ended.append(outcome)


class TrackingDesk(TrainingDesk):
    """Jobs whose integrations go to a recording server."""

    def __init__(self, database: Database, owner: KeyOwner, folder: Path) -> None:
        super().__init__(database, owner, folder, TRACKING)
        self.tracker = RecordingTracker()
        self.credentials = self.tuning.credentials
        self.sender = self.sending(TRACKING)

    def sending(self, settings: TrackingSettings) -> TrackedRuns:
        return TrackedRuns(
            self.database, self.registry, lambda: self.files, self.credentials, settings, self.tracker.make
        )

    def warnings(self, job_id: str) -> list[str]:
        events, _ = self.history.events(self.project_id, job_id, after=None, limit=100)
        return [event.message for event in events if event.level == "warn"][::-1]

    def run(self, job_id: str) -> Any:
        with self.database.read() as session:
            return session.first(select(fine_tuning_runs).where(fine_tuning_runs.c.job_id == job_id))

    def change(self, job_id: str, **values: Any) -> None:
        with self.database.write() as session:
            session.run(update(fine_tuning_runs).where(fine_tuning_runs.c.job_id == job_id).values(**values))

    def requests(self, job_id: str) -> int:
        return self.outbox(job_id).count("tracking_requested")

    def steps(self) -> list[int]:
        return [self.tracker.points[key].step for key in sorted(self.tracker.points)]


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrackingDesk:
    return TrackingDesk(database, owner, tmp_path)


def test_one_request_waits_at_a_time_and_none_is_lost(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    assert desk.requests(job_id) == 1, "of the creation, the check and the start"
    desk.sender.send(job_id)
    desk.report(job_id, 1, step(1))
    desk.report(job_id, 1, step(2), step(3))
    assert desk.requests(job_id) == 2
    desk.sender.send(job_id)
    assert (desk.steps(), desk.requests(job_id)) == ([1, 2, 3], 2)
    calls = desk.tracker.calls
    desk.sender.send(job_id)
    desk.sender.wake()
    assert (desk.tracker.calls, desk.requests(job_id)) == (calls, 2), "there is nothing to send"
    assert desk.training() != job_id
    assert desk.outbox(desk.training()).count("tracking_requested") == 0, "without integrations nothing is requested"
    # What is reported while a process sends is for the next slice, which that process requests at its end.
    desk.report(job_id, 1, step(4))
    desk.tracker.meanwhile = lambda: desk.report(job_id, 1, step(5))
    desk.sender.send(job_id)
    assert desk.requests(job_id) == 4


def test_a_killed_process_leaves_the_rest_to_the_next(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    desk.report(job_id, 1, *(step(number) for number in range(1, 6)))
    for method in ("begin", "log"):
        desk.tracker.fault, desk.tracker.faulty = Killed(), method
        with pytest.raises(Killed):
            desk.sender.send(job_id)
        calls = desk.tracker.calls
        desk.sender.send(job_id)
        assert desk.tracker.calls == calls, "the lease of the killed process holds"
        desk.change(job_id, leased_until=1.0, asked_at=1.0)
        before = desk.requests(job_id)
        desk.sender.wake()
        assert desk.requests(job_id) == before + 1
        desk.sender.wake()
        assert desk.requests(job_id) == before + 1, "it was requested a moment ago"
    desk.tracker.fault = None
    desk.sender.send(job_id)
    assert desk.steps() == [1, 2, 3, 4, 5]
    assert (list(desk.tracker.runs), desk.run(job_id).sent_points) == ([f"{job_id}-0"], 5)


def test_a_process_that_lost_its_lease_records_nothing(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    desk.sender.send(job_id)
    desk.report(job_id, 1, step(1))
    desk.tracker.meanwhile = lambda: desk.change(job_id, leased_until=time.time() + 60)
    desk.sender.send(job_id)
    row = desk.run(job_id)
    assert (row.sent_step, row.sent_points, row.requested > row.served) == (-1, 0, True)


def test_a_server_that_is_away_holds_up_nothing_and_loses_nothing(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    desk.tracker.fault = TrackingUnavailable("MLflow is away")
    for number in range(1, 4):
        desk.sender.send(job_id)
        row = desk.run(job_id)
        assert (row.failures, row.retry_at > time.time() + 10 * 2**number) == (number, True)
        desk.sender.send(job_id)
        assert desk.run(job_id).failures == number, "it is not tried before its time"
        desk.report(job_id, 1, step(number))
        desk.change(job_id, retry_at=1.0, asked_at=1.0)
    assert desk.warnings(job_id) == [
        "The integration 'mlflow' waits: MLflow is away. It is tried again; the job continues."
    ]
    requests = desk.requests(job_id)
    desk.sender.wake()
    assert desk.requests(job_id) == requests + 1
    desk.tracker.fault = None
    desk.sender.send(job_id)
    assert desk.steps() == [1, 2, 3]
    assert desk.run(job_id).failures == 0
    # The server asks for an hour.
    desk.report(job_id, 1, step(4))
    desk.tracker.fault = TrackingUnavailable("MLflow is busy", 3000.0)
    desk.sender.send(job_id)
    assert desk.run(job_id).retry_at > time.time() + 2000
    # Its credential was set again and again, and each time it is tried at once.
    desk.change(job_id, retry_at=1.0, failures=5000)
    desk.sender.send(job_id)
    assert desk.run(job_id).failures == 5001
    # For three days it was away.
    desk.change(job_id, retry_at=1.0, failing_since=time.time() - 3 * 86_400 - 60)
    desk.sender.send(job_id)
    assert desk.run(job_id).state == "failed"
    assert (
        desk.warnings(job_id)[-1] == "Nothing more is sent to the integration 'mlflow': MLflow is busy, for three days."
    )
    assert desk.finish(job_id).status is Status.SUCCEEDED


def test_what_is_refused_ends_the_integration_and_not_the_job(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    desk.tracker.fault = TrackingRefused("MLflow says that the run was deleted")
    desk.sender.send(job_id)
    assert desk.run(job_id).state == "failed"
    warning = "Nothing more is sent to the integration 'mlflow': MLflow says that the run was deleted."
    assert desk.warnings(job_id) == [warning]
    before = desk.requests(job_id)
    assert desk.finish(job_id).status is Status.SUCCEEDED
    desk.sender.send(job_id)
    assert (desk.requests(job_id), desk.tracker.ended) == (before, [])
    # An operator took the server from the list.
    other = desk.training(integrations=(SAID,))
    calls = desk.tracker.calls
    desk.sending(TrackingSettings(mlflow_servers=(OTHER,))).send(other)
    assert (desk.tracker.calls, desk.run(other).state) == (calls, "failed")
    assert "does not allow" in desk.warnings(other)[0]


def test_a_server_that_takes_no_adapter_gets_the_end(desk: TrackingDesk) -> None:
    job_id = desk.training(integrations=(SAID,))
    desk.finish(job_id)
    desk.sender.send(job_id)
    assert desk.tracker.ended == [Outcome.FINISHED]
    assert desk.warnings(job_id) == ["The adapter is not at the integration 'mlflow': it is no safetensors file."]
    assert desk.run(job_id).state == "ended"
    full = desk.training(integrations=(SAID,), training_type="full")
    desk.finish(full)
    desk.tracker.points.clear()
    desk.sender.send(full)
    assert desk.warnings(full) == ["The model is not at the integration 'mlflow', which gets adapters alone."]
    deleted = desk.training(integrations=(SAID,))
    desk.finish(deleted)
    desk.registry.delete(desk.get(deleted).output_model, project_id=desk.project_id)
    desk.tracker.points.clear()
    desk.sender.send(deleted)
    assert desk.warnings(deleted) == ["The adapter is not at the integration 'mlflow': it was deleted."]
    assert desk.tracker.ended == [Outcome.FINISHED] * 3


def test_a_credential_goes_to_its_server_and_project_alone(
    desk: TrackingDesk, database: Database, other_owner: KeyOwner
) -> None:
    def put(caller: Caller, secret: str, **fields: Any) -> str:
        return desk.credentials.put(caller, NewCredential("mlflow", Secret(secret), **fields)).id

    them = Shelf(database, other_owner).caller
    first = put(desk.caller, "s3cret", username="ann")
    assert put(desk.caller, "s3cret-2", username="bob", server=URL + "/") == first, "it is replaced"
    put(them, "theirs", server=OTHER)
    job_id = desk.training(integrations=(SAID, Integration("mlflow", {"experiment": "e", "tracking_uri": OTHER})))
    desk.sender.send(job_id)
    (url, found), other = desk.tracker.credentials
    assert found is not None
    assert (url, found.username, found.secret.reveal()) == (URL, "bob", "s3cret-2")
    assert other == (OTHER, None)
    stored = desk.credentials.all(desk.project_id)
    assert [(each.id, each.server, each.username) for each in stored] == [(first, URL, "bob")]
    with database.read() as session:
        everything = repr(session.rows(select(fine_tuning_credentials))) + repr(session.rows(select(audit_log)))
        audited = [row.type for row in session.rows(select(audit_log).order_by(audit_log.c.id))]
    assert "s3cret" not in everything
    assert audited.count("fine_tuning_credential.set") == 3
    with pytest.raises(NotFound):
        desk.credentials.delete(them, first)
    desk.credentials.delete(desk.caller, first)
    with pytest.raises(NotFound):
        desk.credentials.delete(desk.caller, first)
    assert desk.credentials.find(desk.project_id, "mlflow", URL) is None


def test_wrong_credentials_are_refused(desk: TrackingDesk) -> None:
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "another type": ({"type": "comet"}, "type"),
        "another server": ({"server": "http://169.254.169.254"}, "server"),
        "the server with a path": ({"server": URL + "/x"}, "server"),
        "an empty secret": ({"secret": Secret("")}, "secret"),
        "a line break": ({"secret": Secret("a\r\nx: y")}, "secret"),
        "a long secret": ({"secret": Secret("x" * 4097)}, "secret"),
        "a colon": ({"username": "a:b"}, "username"),
        "an empty name": ({"username": ""}, "username"),
    }
    for name, (fields, param) in refused.items():
        with pytest.raises(InvalidRequest) as raised:
            desk.credentials.put(desk.caller, NewCredential(**{"type": "mlflow", "secret": Secret("s"), **fields}))
        assert raised.value.param == param, name
    assert desk.credentials.all(desk.project_id) == []


def test_credentials_outlive_a_new_service_secret(desk: TrackingDesk, database: Database) -> None:
    desk.credentials.put(desk.caller, NewCredential("mlflow", Secret("s3cret")))
    new, lost = Secret("n" * 64), Secret("l" * 64)
    both = Credentials(database, TRACKING, [new, SECRET])
    found = both.find(desk.project_id, "mlflow", URL)
    assert found is not None
    assert found.secret.reveal() == "s3cret"
    both.renew()
    alone = Credentials(database, TRACKING, [new]).find(desk.project_id, "mlflow", URL)
    assert alone is not None
    assert alone.secret.reveal() == "s3cret"
    # A secret that is gone: the job waits for another credential.
    Credentials(database, TRACKING, [lost]).renew()
    job_id = desk.training(integrations=(SAID,))
    forgetful = TrackedRuns(
        database,
        desk.registry,
        lambda: desk.files,
        Credentials(database, TRACKING, [lost]),
        TRACKING,
        desk.tracker.make,
    )
    forgetful.send(job_id)
    assert "set another with POST /v1/fine_tuning/credentials" in desk.warnings(job_id)[0]
    assert desk.run(job_id).retry_at > time.time()
    again = Credentials(database, TRACKING, [lost])
    again.put(desk.caller, NewCredential("mlflow", Secret("s4cret")))
    assert desk.run(job_id).retry_at == 0
    forgetful.send(job_id)
    assert list(desk.tracker.runs) == [f"{job_id}-0"]
    with database.write() as session:
        session.run(update(fine_tuning_credentials).values(project_id="proj_gone"))
    again.delete_orphans()
    assert again.all("proj_gone") == []


def test_wrong_integrations_are_refused(desk: TrackingDesk) -> None:
    def mlflow(**settings: Any) -> tuple[Integration, ...]:
        return (Integration("mlflow", {"experiment": "e", **settings}),)

    refused: dict[str, tuple[tuple[Integration, ...], str]] = {
        "another type": ((Integration("comet", {}),), "integrations[0].type"),
        "nothing": ((Integration("mlflow", {}),), "integrations[0].mlflow.experiment"),
        "a blank name": (mlflow(experiment=" "), "integrations[0].mlflow.experiment"),
        "a control character": (mlflow(run_name="a\nb"), "integrations[0].mlflow.run_name"),
        "a long name": (mlflow(experiment="x" * 129), "integrations[0].mlflow.experiment"),
        "many tags": (mlflow(tags={str(number): "" for number in range(21)}), "integrations[0].mlflow.tags"),
        "a tag of MLflow": (mlflow(tags={"mlflow.user": "root"}), "integrations[0].mlflow.tags"),
        "a tag of the platform": (mlflow(tags={"llmariner.run": "x"}), "integrations[0].mlflow.tags"),
        "a quote in a tag": (mlflow(tags={"a`b": ""}), "integrations[0].mlflow.tags"),
        "a long tag": (mlflow(tags={"a": "x" * 501}), "integrations[0].mlflow.tags"),
        "another server": (mlflow(tracking_uri="http://127.0.0.1:22"), "integrations"),
        "a server below": (mlflow(tracking_uri=f"{URL}/../x"), "integrations"),
        "the same twice": (mlflow() * 2, "integrations[1]"),
        "too many": (sum((mlflow(run_name=str(number)) for number in range(5)), ()), "integrations"),
    }
    for name, (integrations, param) in refused.items():
        with pytest.raises(InvalidRequest) as raised:
            desk.create(integrations=integrations)
        assert raised.value.param == param, name
    assert desk.jobs.count(desk.project_id) == 0
