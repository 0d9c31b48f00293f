"""The rules of fine-tuning jobs: what is refused at creation, tenants, and what may follow what."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, PlatformError, Unavailable
from llmariner.files.file import file_from_row
from llmariner.files.tables import files
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.references import FineTuningReferences
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.traits import ModelTraits
from llmariner.platform.database import Database
from llmariner.platform.jobs import JobStatus, Phase
from llmariner.tenancy.principal import KeyOwner

from .desk import BASE, FineTuningDesk, add_base_model


@pytest.fixture
def desk(database: Database, owner: KeyOwner) -> FineTuningDesk:
    desk = FineTuningDesk(database, owner)
    add_base_model(desk.registry)
    return desk


@pytest.fixture
def other_desk(database: Database, other_owner: KeyOwner) -> FineTuningDesk:
    return FineTuningDesk(database, other_owner)


def parameters(**fields: Any) -> dict[str, Any]:
    return {"hyperparameters": RequestedHyperparameters(**fields)}


REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no grader": ({"method": "reinforcement"}, "method.reinforcement.grader", "invalid_value"),
    "an unknown method": ({"method": "magic"}, "method.type", "invalid_value"),
    "no epoch": (parameters(n_epochs=0), "hyperparameters.n_epochs", "invalid_value"),
    "many epochs": (parameters(n_epochs=51), "hyperparameters.n_epochs", "invalid_value"),
    "a negative batch": (parameters(batch_size=-1), "hyperparameters.batch_size", "invalid_value"),
    "a multiplier of zero": (
        parameters(learning_rate_multiplier=0.0),
        "hyperparameters.learning_rate_multiplier",
        "invalid_value",
    ),
    "no number": (parameters(batch_size="many"), "hyperparameters.batch_size", "invalid_value"),
    "beta without preferences": (parameters(beta=0.1), "hyperparameters.beta", "invalid_value"),
    "a large beta": ({"method": "dpo", **parameters(beta=3.0)}, "hyperparameters.beta", "invalid_value"),
    "an empty suffix": ({"suffix": ""}, "suffix", "invalid_value"),
    "a suffix with a slash": ({"suffix": "../x"}, "suffix", "invalid_value"),
    "a suffix with a colon": ({"suffix": "a:b"}, "suffix", "invalid_value"),
    "a long suffix": ({"suffix": "x" * 65}, "suffix", "invalid_value"),
    "a negative seed": ({"seed": -1}, "seed", "invalid_value"),
    "a large seed": ({"seed": 2**31}, "seed", "invalid_value"),
    "many pairs": ({"metadata": {f"k{number}": "" for number in range(17)}}, "metadata", None),
    "a long value": ({"metadata": {"k": "x" * 513}}, "metadata", None),
    "a NUL in a value": ({"metadata": {"k": "\0"}}, "metadata", None),
    "a GPU": ({"gpu_count": 1}, "resources.gpu_count", "no_gpu"),
    "negative GPUs": ({"gpu_count": -1}, "resources.gpu_count", None),
    "an integration": (
        {"integrations": (Integration("wandb", {"project": "p"}),)},
        "integrations",
        "unsupported_integration",
    ),
}


def test_what_no_job_may_have_is_refused(desk: FineTuningDesk) -> None:
    for name, (fields, param, code) in REFUSED.items():
        with pytest.raises(InvalidRequest) as raised:
            desk.create(**fields)
        assert (raised.value.param, raised.value.code) == (param, code or raised.value.code), name
    file_id = desk.file()
    with pytest.raises(InvalidRequest, match="another file"):
        desk.create(training_file=file_id, validation_file=file_id)
    assert desk.jobs.count(desk.project_id) == 0


def test_a_model_that_cannot_be_trained_is_refused_with_the_reason(desk: FineTuningDesk, owner: KeyOwner) -> None:
    registry, local = desk.registry, SourceRepository.LOCAL
    registry.create(NewModel("vectors", local, "/models/v"))
    registry.mark_loaded("vectors", folder="/models/v", size_bytes=1, task=Task.EMBED)
    registry.create(NewModel("loading", local, "/models/l"))
    registry.create(NewModel("ft:smol:x", local, "/a", base_model_id=BASE, project_id=owner.project_id))
    registry.create(NewModel("small", local, "/models/s"))
    quantized = ModelTraits(quantization="gptq")
    registry.mark_loaded("small", folder="/models/s", size_bytes=1, task=Task.GENERATE, traits=quantized)
    reasons = (("vectors", "generate text"), ("loading", "not loaded"), ("ft:smol:x", "its base model"))
    for model, reason in (*reasons, ("small", r"quantized already \(gptq\)")):
        with pytest.raises(InvalidRequest, match=reason) as raised:
            desk.create(model=model)
        assert (raised.value.param, raised.value.code) == ("model", "model_not_trainable")
    with pytest.raises(ModelNotFound):
        desk.create(model="none")
    small = FineTuningDesk(desk.database, owner, memory_bytes=2**20)
    with pytest.raises(InvalidRequest, match="a job may use 1 MiB"):
        small.create()
    enough = FineTuningDesk(desk.database, owner, memory_bytes=4 * 270_000_000)
    with pytest.raises(InvalidRequest, match="by 2 workers needs about 2059 MiB of memory, and a job may use 1029 MiB"):
        enough.create(worker_count=2)
    enough.create()
    registry.mark_loaded("small", folder="pvc://models/s", size_bytes=270_000_000, task=Task.GENERATE)
    pods = FineTuningDesk(desk.database, owner, memory_bytes=4 * 270_000_000, adapter="kubernetes")
    pods.create(model="small", worker_count=8)


def test_files_are_the_projects_and_for_this_purpose(desk: FineTuningDesk, other_desk: FineTuningDesk) -> None:
    for missing in (other_desk.file(), "file-none", desk.file(expires_at=1)):
        for param in ("training_file", "validation_file"):
            with pytest.raises(NotFound) as raised:
                desk.create(**{param: missing})
            assert (raised.value.param, missing in raised.value.message) == (param, True)
    with pytest.raises(InvalidRequest, match="upload it with 'fine-tune'") as wrong:
        desk.create(training_file=desk.file(purpose="assistants"))
    assert wrong.value.code == "invalid_file_purpose"


def test_a_job_is_refused_where_nothing_runs_it(desk: FineTuningDesk) -> None:
    desk.scripted.problem = "The kernel has no namespaces."
    with pytest.raises(Unavailable, match="no namespaces"):
        desk.create()
    desk.port = None
    with pytest.raises(Unavailable):
        desk.create()
    assert desk.jobs.count(desk.project_id) == 0


def test_a_new_job_says_what_was_asked_and_checks_its_files(desk: FineTuningDesk) -> None:
    training, validation = desk.file(), desk.file()
    job = desk.get(
        desk.create(
            training_file=training,
            validation_file=validation,
            suffix="pirate",
            seed=7,
            metadata={"team": "ä"},
            **parameters(n_epochs=2),
        )
    )
    assert (job.status, job.seed, job.suffix, job.metadata) == (Status.VALIDATING_FILES, 7, "pirate", {"team": "ä"})
    assert (job.training_file, job.validation_file) == (training, validation)
    assert (job.requested.n_epochs, job.requested.batch_size, job.hyperparameters) == (2, "auto", None)
    assert job.output_model.startswith(f"ft:{BASE}:")
    assert f":pirate:{job.id[-8:]}" in job.output_model
    assert job.fine_tuned_model is None, "it does not exist yet"
    assert (job.estimated_tokens, job.seconds_left) == (None, None)
    assert sorted(desk.outbox(job.id)) == ["change_requested", "created"]
    assert desk.messages(job.id) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {training}",
    ]
    assert desk.get(desk.create()).seed != desk.get(desk.create()).seed


def test_files_stay_until_the_job_has_ended(desk: FineTuningDesk, database: Database) -> None:
    training, validation = desk.file(), desk.file()
    job_id = desk.create(training_file=training, validation_file=validation)
    with database.read() as session:
        found = [
            file_from_row(row) for row in session.rows(select(files).where(files.c.id.in_([training, validation])))
        ]

        def users() -> list[list[str]]:
            return [[use.user for use in FineTuningReferences().in_use_by(session, file)] for file in found]

        assert users() == [[f"the fine-tuning job {job_id}"]] * 2
    desk.jobs.cancel(desk.caller, job_id)
    with database.read() as session:
        assert users() == [[], []]


def test_a_job_of_another_project_is_unknown(desk: FineTuningDesk, other_desk: FineTuningDesk) -> None:
    job_id = desk.create()
    said = set()
    for each in (job_id, "ftjob-none"):
        for call in (
            lambda each=each: other_desk.get(each),
            lambda each=each: other_desk.jobs.cancel(other_desk.caller, each),
            lambda each=each: other_desk.jobs.pause(other_desk.caller, each),
            lambda each=each: other_desk.jobs.resume(other_desk.caller, each),
            lambda each=each: other_desk.history.events(other_desk.project_id, each, after=None, limit=9),
            lambda each=each: other_desk.history.checkpoints(other_desk.project_id, each, after=None, limit=9),
        ):
            with pytest.raises(NotFound) as raised:
                call()
            said.add(raised.value.message.replace(each, "ID"))
    assert len(said) == 1
    assert other_desk.jobs.page(other_desk.project_id, after=None, limit=9) == ([], False)
    assert desk.get(job_id).status is Status.VALIDATING_FILES


def test_a_project_has_a_number_of_jobs_at_a_time(database: Database, owner: KeyOwner) -> None:
    desk = FineTuningDesk(database, owner, project_jobs=2)
    add_base_model(desk.registry)
    first, second = desk.create(), desk.create()
    with pytest.raises(Conflict) as raised:
        desk.create()
    assert raised.value.code == "too_many_jobs"
    set_status(desk, second, Status.PAUSED)
    desk.create()
    with pytest.raises(Conflict):
        desk.jobs.resume(desk.caller, second)
    desk.jobs.cancel(desk.caller, first)
    desk.jobs.resume(desk.caller, second)


def test_lists_are_paged_newest_first(desk: FineTuningDesk) -> None:
    ids = [desk.create() for _ in range(3)][::-1]
    page, more = desk.jobs.page(desk.project_id, after=None, limit=2)
    assert ([job.id for job in page], more, desk.jobs.count(desk.project_id)) == (ids[:2], True, 3)
    page, more = desk.jobs.page(desk.project_id, after=ids[1], limit=2)
    assert ([job.id for job in page], more) == (ids[2:], False)
    first, more = desk.history.events(desk.project_id, ids[0], after=None, limit=1)
    rest, none = desk.history.events(desk.project_id, ids[0], after=first[0].id, limit=1)
    assert (more, none, first[0].id > rest[0].id) == (True, False, True)


def set_status(desk: FineTuningDesk, job_id: str, status: Status, **values: Any) -> None:
    """What the reconciler and the job's process write."""
    row = fine_tuning_jobs.c.id == job_id
    with desk.database.write() as session:
        session.run(update(fine_tuning_jobs).where(row).values(status=status.value, **values))


OUTCOMES = {
    # status: after cancel, pause, resume; None: Conflict.
    Status.VALIDATING_FILES: (Status.CANCELLED, None, Status.VALIDATING_FILES),
    Status.QUEUED: (Status.CANCELLED, Status.PAUSED, Status.QUEUED),
    Status.RUNNING: (Status.CANCELLED, Status.RUNNING, Status.RUNNING),
    Status.PAUSED: (Status.CANCELLED, Status.PAUSED, Status.QUEUED),
    Status.SUCCEEDED: (Status.SUCCEEDED, None, None),
    Status.FAILED: (Status.FAILED, None, None),
    Status.CANCELLED: (Status.CANCELLED, None, None),
}


def test_what_may_follow_what(desk: FineTuningDesk) -> None:
    for before, outcomes in OUTCOMES.items():
        for name, after in zip(("cancel", "pause", "resume"), outcomes, strict=True):
            job_id = desk.create()
            set_status(desk, job_id, before)
            call = getattr(desk.jobs, name)
            for _ in range(2):
                if after is None:
                    with pytest.raises(Conflict) as raised:
                        call(desk.caller, job_id)
                    assert raised.value.code == "invalid_job_status"
                else:
                    assert call(desk.caller, job_id).status is after, (before, name)


def test_a_running_job_pauses_later_and_can_be_asked_to_continue(desk: FineTuningDesk) -> None:
    job_id = desk.create()
    set_status(desk, job_id, Status.RUNNING)
    assert desk.jobs.pause(desk.caller, job_id).pause_requested_at is not None
    asked = desk.get(job_id).pause_requested_at
    assert desk.jobs.pause(desk.caller, job_id).pause_requested_at == asked
    assert desk.jobs.resume(desk.caller, job_id).pause_requested_at is None


def test_a_cancelled_job_has_ended_at_once(desk: FineTuningDesk) -> None:
    job_id = desk.create()
    job = desk.jobs.cancel(desk.caller, job_id)
    assert job.finished_at is not None
    assert desk.messages(job_id)[-1] == "The job was cancelled."
    assert desk.jobs.cancel(desk.caller, job_id).finished_at == job.finished_at
    assert desk.outbox(job_id).count("status_changed") == 1


def test_the_result_has_a_name_that_a_model_may_have(desk: FineTuningDesk, database: Database) -> None:
    long = "m" * 150
    add_base_model(desk.registry, long)
    with pytest.raises(InvalidRequest, match="shorter suffix"):
        desk.create(model=long, suffix="s" * 60)
    name = desk.get(desk.create(suffix="s" * 64)).output_model
    NewModel(f"{name}:ckpt-step-1000000", SourceRepository.FINE_TUNING, "file-1")


def test_a_place_in_line_is_that_of_the_jobs_port(desk: FineTuningDesk) -> None:
    job_id = desk.create()
    assert desk.get(job_id).place is None
    desk.scripted.statuses[f"{job_id}-0"] = JobStatus(Phase.QUEUED, 1.0, place=3, reason="Jobs run before it.")
    assert (desk.get(job_id).place, desk.get(job_id).reason) == (3, "Jobs run before it.")
    desk.port = None
    assert desk.get(job_id).place is None
    with pytest.raises(PlatformError):
        desk.get("ftjob-none")
