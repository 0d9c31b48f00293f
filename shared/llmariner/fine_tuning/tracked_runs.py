"""Sends the metrics of jobs to their integrations: one run for each, begun when the training begins.

The stored events of a job are what is sent, so a server that is away holds up no training and loses nothing. The work is
done in slices, each leased by one process; one that is killed leaves what it had not recorded to the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, or_, select, update

from llmariner.errors import ModelNotFound, NotFound, Unavailable
from llmariner.files.files import Files
from llmariner.fine_tuning.adapter_file import InvalidAdapter, adapter_configuration
from llmariner.fine_tuning.credentials import Credentials
from llmariner.fine_tuning.events import TRACKING_REQUESTED, add_job_event, add_message
from llmariner.fine_tuning.file_locations import file_of
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import FineTuningJob, Status, TrainingType
from llmariner.fine_tuning.jobs import select_jobs
from llmariner.fine_tuning.tables import fine_tuning_events, fine_tuning_jobs, fine_tuning_runs
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.encryption import Undecipherable
from llmariner.platform.trackers import (
    Credential,
    NewRun,
    Outcome,
    Point,
    Run,
    Tracker,
    TrackingRefused,
    TrackingUnavailable,
)
from llmariner.tracking_settings import TrackingSettings

__all__ = ["MakeTracker", "TrackedRuns"]

MakeTracker = Callable[[str, str, Credential | None], Tracker]
"""Makes the tracker of a type for a server and a credential."""

_SLICE_SECONDS = 20.0
# A slice, one request that began at its end, and an upload.
_LEASE_SECONDS = 180.0
_BATCH = 200
# After which the sweep takes a request to be lost.
_WAKE_SECONDS = 30.0
_FIRST_WAIT_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 900.0
_GIVE_UP_SECONDS = 3 * 86_400.0
_MAX_ADAPTER_BYTES = 256 * 1024 * 1024
_NO_METRICS = frozenset({"step", "total_steps"})
_OUTCOMES = {Status.SUCCEEDED: Outcome.FINISHED, Status.FAILED: Outcome.FAILED, Status.CANCELLED: Outcome.KILLED}


class TrackedRuns:
    """See the module. `files` raises Unavailable in an installation without them. All methods block."""

    def __init__(
        self,
        database: Database,
        registry: ModelRegistry,
        files: Callable[[], Files],
        credentials: Credentials,
        settings: TrackingSettings,
        make_tracker: MakeTracker,
    ) -> None:
        self._database = database
        self._registry = registry
        self._files = files
        self._credentials = credentials
        self._settings = settings
        self._make_tracker = make_tracker

    def wake(self) -> None:
        """Request the sending of what was not sent, because of a killed process or a server that was away. For the sweep."""
        c = fine_tuning_runs.c
        with self._database.read() as session:
            now = session.now()
            unserved = and_(c.state == "active", c.requested > c.served, _is_over(c.leased_until, now))
            due = and_(unserved, c.retry_at <= now, c.asked_at <= now - _WAKE_SECONDS)
            rows = session.rows(select(c.job_id).where(due).order_by(c.retry_at).limit(_BATCH))
        for job_id in {row.job_id for row in rows}:
            self._database.transact(partial(_request_again, job_id=job_id))

    def send(self, job_id: str) -> None:
        """Send what happened in a job, as far as a slice gets; an event continues it. Idempotent."""
        until = time.monotonic() + _SLICE_SECONDS
        self._credentials.renew()
        with self._database.read() as session:
            query = select(fine_tuning_runs.c.number).where(fine_tuning_runs.c.job_id == job_id)
            numbers = [row.number for row in session.rows(query.order_by(fine_tuning_runs.c.number))]
        for number in numbers:
            leased = self._database.transact(partial(_lease, job_id=job_id, number=number))
            if leased is None:
                continue
            job, run = leased
            try:
                complete = self._send_run(job, run, until)
            except TrackingUnavailable as error:
                self._finish(run, _failed_values(run, error), warning=_retried(run, error))
            except TrackingRefused as error:
                why = f"Nothing more is sent to the integration '{run.type}': {error}."
                self._finish(run, {"state": "failed"}, warning=why)
            else:
                served = run.requested if complete else run.served
                self._finish(run, {"served": served, "failures": 0, "failing_since": None, "retry_at": 0.0})

    def _send_run(self, job: FineTuningJob, run: Row[Any], until: float) -> bool:
        """Send what is missing; returns whether all of it was sent, of what `job` and `run` know."""
        tracker = self._tracker(job, run)
        if run.run_id is None:
            if job.started_at is None:
                self._end(run, job)
                return True
            begun = self._begin(tracker, job, run)
        else:
            begun = Run(run.run_id, run.run_url, run.run_place)
        sent = run.sent_points
        last = run.sent_step
        while points := self._points(job.id, last, sent, tracker.max_points):
            tracker.log(begun, points)
            last, sent = points[-1].step, sent + len(points)
            self._record(run, sent_step=last, sent_points=sent)
            if time.monotonic() > until:
                return False
        if job.status.is_final:
            if job.status is Status.SUCCEEDED and tracker.takes_files:
                self._upload(tracker, begun, job, run)
            tracker.end(begun, _OUTCOMES[job.status], job.finished_at or time.time(), sent)
            self._end(run, job)
        return True

    def _tracker(self, job: FineTuningJob, run: Row[Any]) -> Tracker:
        if run.server not in self._settings.servers(run.type):
            raise TrackingRefused(f"the installation does not allow {run.server} any more")
        try:
            credential = self._credentials.find(job.project_id, run.type, run.server)
        except Undecipherable as error:
            raise TrackingUnavailable(
                f"the project's credential for {run.server} can't be read: set another with "
                "POST /v1/fine_tuning/credentials"
            ) from error
        return self._make_tracker(run.type, run.server, credential)

    def _begin(self, tracker: Tracker, job: FineTuningJob, run: Row[Any]) -> Run:
        said = job.integrations[run.number]
        begun = tracker.begin(_new_run(job, said, run.number))
        message = f"Run of '{said.type}' created: {begun.url}"

        def save(session: WriteSession) -> None:
            locked = _lock_job(session, job.id)
            if locked is not None and _set(session, run, run_id=begun.id, run_url=begun.url, run_place=begun.place):
                add_message(
                    session, locked, message, data={"integration": said.type, "run_id": begun.id, "url": begun.url}
                )

        self._database.transact(save)
        return begun

    def _points(self, job_id: str, after: int, sent: int, most: int) -> list[Point]:
        c = fine_tuning_events.c
        query = select(c.step, c.created_at, c.data).where(c.job_id == job_id, c.step > after).order_by(c.step)
        with self._database.read() as session:
            rows = session.rows(query.limit(most))
        return [
            Point(sent + number, row.step, row.created_at, _metrics(json.loads(row.data)))
            for number, row in enumerate(rows)
        ]

    def _upload(self, tracker: Tracker, begun: Run, job: FineTuningJob, run: Row[Any]) -> None:
        """Send the adapter; that a server takes none is reported and ends nothing. A model of all weights is not sent."""
        if job.training_type is TrainingType.FULL:
            self._warn(run, f"The model is not at the integration '{run.type}', which gets adapters alone.")
            return
        try:
            self._send_adapter(tracker, begun, job)
        except (TrackingRefused, InvalidAdapter) as error:
            self._warn(run, f"The adapter is not at the integration '{run.type}': {error}.")
        except Unavailable as error:
            raise TrackingUnavailable(f"the adapter can't be read: {error.message}") from error
        except (NotFound, ModelNotFound):
            self._warn(run, f"The adapter is not at the integration '{run.type}': it was deleted.")

    def _send_adapter(self, tracker: Tracker, begun: Run, job: FineTuningJob) -> None:
        # The result may be the adapter of an earlier step: what its model has.
        model = self._registry.get(job.output_model, project_id=job.project_id)
        place = file_of(model.model_file_location, job.project_id)
        if place is None:
            raise TrackingRefused("its model has another file")
        files = self._files()
        file = files.get(*place)
        if file.size_bytes > _MAX_ADAPTER_BYTES:
            raise TrackingRefused(f"it has more than {_MAX_ADAPTER_BYTES >> 20} MiB")
        config = adapter_configuration(files.read(file), job.model)
        tracker.upload(begun, "adapter/adapter_config.json", len(config), [config])
        tracker.upload(begun, "adapter/adapter_model.safetensors", file.size_bytes, files.read(file))

    def _record(self, run: Row[Any], **values: Any) -> None:
        with self._database.write() as session:
            _set(session, run, **values)

    def _end(self, run: Row[Any], job: FineTuningJob) -> None:
        """Nothing follows for a job that has ended."""
        if job.status.is_final:
            self._record(run, state="ended")

    def _warn(self, run: Row[Any], message: str) -> None:
        def write(session: WriteSession) -> None:
            if (job := _lock_job(session, run.job_id)) is not None:
                add_message(session, job, message, "warn")

        self._database.transact(write)

    def _finish(self, run: Row[Any], values: dict[str, Any], *, warning: str = "") -> None:
        """Release the lease; request another slice if there is more to send and the server is not failing."""

        def write(session: WriteSession) -> None:
            job = _lock_job(session, run.job_id)
            if job is None or not _set(session, run, **values, leased_until=0.0):
                return
            if warning:
                add_message(session, job, warning, "warn")
            c = fine_tuning_runs.c
            this = select(fine_tuning_runs).where(c.job_id == run.job_id, c.number == run.number, c.state == "active")
            left = session.first(this)
            if left is not None and left.failures == 0 and left.requested > left.served:
                _request(session, job)

        self._database.transact(write)


def _lease(session: WriteSession, job_id: str, number: int) -> tuple[FineTuningJob, Row[Any]] | None:
    """The job and its run; None if another process sends it, the next attempt is later, or nothing is to be sent."""
    c, now = fine_tuning_runs.c, session.now()
    free = and_(c.state == "active", c.requested > c.served, _is_over(c.leased_until, now))
    this = and_(c.job_id == job_id, c.number == number)
    # No two leases end at the same time, so the end names the holder.
    if not session.run(
        update(fine_tuning_runs).where(this, free, c.retry_at <= now).values(leased_until=now + _LEASE_SECONDS)
    ):
        return None
    row = session.first(select_jobs().where(fine_tuning_jobs.c.id == job_id))
    run = session.first(select(fine_tuning_runs).where(this))
    return None if row is None or run is None else (FineTuningJob.from_row(row), run)


def _is_over(until: ColumnElement[float], now: float) -> ColumnElement[bool]:
    """Whether a lease is over; one that ends far beyond its length was taken before the clock was set back."""
    return or_(until <= now, until > now + 2 * _LEASE_SECONDS)


def _set(session: WriteSession, run: Row[Any], **values: Any) -> int:
    """Change the run if it is leased to this process still."""
    c = fine_tuning_runs.c
    this = and_(c.job_id == run.job_id, c.number == run.number, c.leased_until == run.leased_until)
    return session.run(update(fine_tuning_runs).where(this).values(**values))


def _lock_job(session: WriteSession, job_id: str) -> Row[Any] | None:
    """The row of a job. It is locked before its runs are, as everywhere."""
    query = select_jobs().where(fine_tuning_jobs.c.id == job_id)
    return session.first(query.with_for_update(of=fine_tuning_jobs))


def _request_again(session: WriteSession, job_id: str) -> None:
    if (job := _lock_job(session, job_id)) is not None:
        _request(session, job)


def _request(session: WriteSession, job: Row[Any]) -> None:
    """Ask for another slice of what was requested before."""
    session.run(update(fine_tuning_runs).where(fine_tuning_runs.c.job_id == job.id).values(asked_at=session.now()))
    add_job_event(session, TRACKING_REQUESTED, job)


def _failed_values(run: Row[Any], error: TrackingUnavailable) -> dict[str, Any]:
    now = time.time()
    since = run.failing_since if run.failures else now
    if now - since > _GIVE_UP_SECONDS:
        return {"state": "failed"}
    wait = max(error.retry_after, min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(run.failures, 9)))
    return {"failures": run.failures + 1, "failing_since": since, "retry_at": now + wait}


def _retried(run: Row[Any], error: TrackingUnavailable) -> str:
    """The warning of the first failure and of the last one; the others say nothing new."""
    if _failed_values(run, error).get("state") == "failed":
        return f"Nothing more is sent to the integration '{run.type}': {error}, for three days."
    if run.failures:
        return ""
    return f"The integration '{run.type}' waits: {error}. It is tried again; the job continues."


def _metrics(data: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in data.items() if name not in _NO_METRICS}


def _new_run(job: FineTuningJob, said: Integration, number: int) -> NewRun:
    numbers = {} if job.hyperparameters is None else dict(vars(job.hyperparameters))
    fields: Sequence[tuple[str, Any]] = (
        ("job_id", job.id),
        ("model", job.model),
        ("fine_tuned_model", job.output_model),
        ("method", job.method.value),
        ("training_file", job.training_file),
        ("validation_file", job.validation_file),
        ("seed", job.seed),
        ("suffix", job.suffix),
        ("examples", job.examples),
        ("total_steps", job.total_steps),
        *numbers.items(),
    )
    return NewRun(
        key=f"{job.id}-{number}",
        project=said.project,
        name=said.name or job.suffix or job.id,
        started_at=job.started_at or time.time(),
        entity=said.entity,
        tags=said.tags,
        parameters={name: value for name, value in fields if value is not None},
    )
