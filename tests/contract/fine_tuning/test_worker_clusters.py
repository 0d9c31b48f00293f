"""Fine-tuning jobs on worker clusters: where they are placed, that they continue elsewhere, and are charged once."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from llmariner.fine_tuning.events import CHANGE_REQUESTED
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.installation import FineTuning
from llmariner.fine_tuning.job import FineTuningJob
from llmariner.fine_tuning.representation import job_object
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.job_placement.places import JobPlaces
from llmariner.job_settings import JobSettings
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database import Database
from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.kube.errors import Forbidden
from llmariner.showback.workloads import placed_workloads
from llmariner.tenancy.principal import KeyOwner

from ..worker_clusters import FULL, LOST, ClusterDesk
from .desk import NO_TRACKING
from .training_desk import SECRET, TrainingDesk, put_training_price, step

HUB = "hub"
SETTINGS = replace(JobSettings(), adapter="kubernetes", training_image="llmariner/engine:1")


class Trainings(TrainingDesk):
    """Jobs of one project, which is allowed to use all clusters. A process is played by the same calls wherever it runs."""

    def __init__(self, database: Database, owner: KeyOwner, folder: Path) -> None:
        super().__init__(database, owner, folder)
        self.clusters = ClusterDesk(database, owner)
        self.use(SETTINGS)
        self.registry.create(NewModel(HUB, SourceRepository.HUGGING_FACE, "org/hub", task=Task.GENERATE))
        self.registry.mark_loaded(HUB, folder="hf://org/hub", size_bytes=270_000_000, task=Task.GENERATE)

    def use(self, settings: JobSettings) -> None:
        self.tuning = FineTuning(
            self.database,
            self.registry,
            settings,
            [SECRET],
            jobs=self.running_jobs,
            files=lambda: self.files,
            links=lambda: (self.links, self.upload_links),
            uploads=lambda: self.uploads,
            url="http://platform",
            objects=lambda: self.objects,
            tracking=NO_TRACKING,
            inference=lambda: pytest.fail("no answer is graded here"),
            workers=lambda: self.clusters.workers,
            full_seconds=FULL,
        )
        self.jobs = self.tuning.jobs

    def token(self, job_id: str, attempt: int) -> str:
        name = f"{job_id}-{attempt}"
        ports = [self.scripted, *self.clusters.ports.values()]
        (found,) = [port.jobs[name] for port in ports if name in port.jobs]
        return found.environment["LLMARINER_TRAINING_TOKEN"]

    def training(self, **fields: Any) -> str:
        given = {"model": HUB, "hyperparameters": RequestedHyperparameters(n_epochs=2), **fields}
        job_id = self.start(**given)
        self.report(job_id, 0, {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}})
        self.reconciled(job_id)
        self.run_on(job_id, 1)
        return job_id

    def run_on(self, job_id: str, attempt: int, after: int = 0) -> None:
        """The process of an attempt begins where it was placed."""
        self.clusters.ports[str(self.row(job_id).cluster_id)].run(f"{job_id}-{attempt}")
        self.report(job_id, attempt, {"type": "training", "step": after, "total_steps": 6})

    def row(self, job_id: str) -> Any:
        with self.database.read() as session:
            return session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id))

    def submitted(self, cluster_id: str) -> list[str]:
        """The ids of what a cluster got to run."""
        return [name for what, name in self.clusters.ports[cluster_id].calls if what == "submit"]


@pytest.fixture
def here(database: Database, owner: KeyOwner, tmp_path: Path) -> Trainings:
    made = Trainings(database, owner, tmp_path)
    made.port = None
    return made


def test_home_comes_first_and_a_request_or_an_assignment_decides(here: Trainings) -> None:
    west, east = here.clusters.add("west"), here.clusters.add("east")
    here.port = here.scripted
    assert here.row(here.create(model=HUB)).cluster_id is None
    job_id = here.create(model=HUB, cluster_id=west)
    shown = job_object(here.get(job_id))
    assert (shown["cluster_id"], shown["cluster_name"]) == (west, "west")
    found, _ = here.jobs.page(here.owner.project_id, after=None, limit=2)
    assert [each.cluster_name for each in found] == ["west", None]
    here.clusters.assign(east)
    assert here.row(here.create(model=HUB)).cluster_id == east
    for unknown in (west, "cluster-local", "nonsense"):
        with pytest.raises(NotFound) as raised:
            here.create(model=HUB, cluster_id=unknown)
        assert raised.value.code == "cluster_not_found"


def test_a_job_runs_there_with_links_of_the_public_url_and_is_charged_once(here: Trainings) -> None:
    put_training_price(here.database, "*", 3_000_000)
    west = here.clusters.add("west")
    job_id = here.training()
    sent = here.clusters.ports[west].jobs[f"{job_id}-1"]
    public = f"https://{west}.example.org"
    assert sent.environment["LLMARINER_TRAINING_URL"] == f"{public}/v1/fine_tuning/workers/{job_id}"
    assert (sent.weights, sent.image, sent.readable_folders) == ("hf://org/hub", "", ())
    worker = here.worker(job_id, 1)
    assert here.tuning.workers.plan(worker)["training_file"].startswith(f"{public}/v1/files/")
    assert here.tuning.workers.upload_link(worker, "state", 1, "0" * 64).startswith(f"{public}/")
    assert set(placed_workloads(here.database)[west]) == {f"{job_id}-0", f"{job_id}-1"}
    done = here.finish(job_id)
    assert (done.status, done.trained_tokens, done.cost, done.cluster_id) == ("succeeded", 120, 360, west)
    here.reconciled(job_id)
    assert here.clusters.ports[west].calls[-1] == ("remove", f"{job_id}-1")
    assert here.row(job_id).released


def test_a_process_that_ended_is_noticed_once_its_cluster_names_it(here: Trainings) -> None:
    west, east = here.clusters.add("west"), here.clusters.add("east")
    job_id = here.training(cluster_id=west)
    names = [f"{job_id}-1"]
    for cluster_id, others in ((east, names), (west, [job_id, f"{job_id}-0", f"{job_id}-2"])):
        assert here.clusters.hear(cluster_id, others) == (True, [])
    here.clusters.ports[west].end(names[0], Phase.FAILED, "evicted", "Its node ended it.")
    assert here.clusters.hear(west, names) == (True, [(CHANGE_REQUESTED, job_id)])
    assert here.reconciled(job_id).status == "queued"
    assert here.row(job_id).attempt == 2


def test_a_lost_cluster_has_its_job_continue_elsewhere_from_its_last_state(here: Trainings) -> None:
    put_training_price(here.database, "*", 3_000_000)
    west = here.clusters.add("west")
    job_id = here.training()
    state = here.result(job_id, 1, "state", b"of step 3")
    here.report(job_id, 1, step(3, trained_tokens=60), {"type": "state", "step": 3, "file_id": state})
    late = here.worker(job_id, 1)
    east = here.clusters.add("east")
    here.clusters.lose(west, seconds=LOST / 2)
    assert here.reconciled(job_id).status == "running", "it may come back"
    here.clusters.lose(west)
    moved = here.reconciled(job_id)
    assert (moved.status, moved.cluster_id) == ("queued", east)
    assert here.messages(job_id)[-1].endswith("to continue after step 3")
    with pytest.raises(Conflict):
        here.tuning.workers.report(late, [step(4, trained_tokens=80)])
    with pytest.raises(Conflict):
        here.worker(job_id, 1)
    here.reconciled(job_id)
    assert here.submitted(east) == [f"{job_id}-2"]
    assert f"/{state}/" in here.tuning.workers.plan(here.worker(job_id, 2))["checkpoint"]
    here.run_on(job_id, 2, after=3)
    assert f"{job_id}-2" in placed_workloads(here.database)[east]
    here.tuning.reconciler.reconcile_all(seconds=10)
    assert here.clusters.leftovers() == [f"{job_id}-0", f"{job_id}-1"]
    here.clusters.come_back(west)
    here.tuning.reconciler.reconcile_all(seconds=10)
    assert here.clusters.ports[west].calls[-2:] == [("remove", f"{job_id}-0"), ("remove", f"{job_id}-1")]
    assert here.clusters.leftovers() == []
    done = here.finish(job_id, 2)
    assert (done.status, done.trained_tokens, done.cost) == ("succeeded", 120, 360)


def test_a_job_of_a_lost_cluster_whose_base_model_was_deleted_ends(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.start(model=HUB)
    here.clusters.lose(west)
    here.registry.delete(HUB, project_id=None)
    ended = here.reconciled(job_id)
    assert (ended.status, ended.error_code) == ("failed", "base_model_deleted")
    here.reconciled(job_id)
    assert here.row(job_id).released


def test_the_check_of_the_files_moves_too(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.start(model=HUB)
    east = here.clusters.add("east")
    here.clusters.lose(west)
    assert here.reconciled(job_id).status == "validating_files"
    here.reconciled(job_id)
    assert here.submitted(east) == [f"{job_id}-1"]


def test_what_no_worker_cluster_could_read_stays_home(here: Trainings) -> None:
    west = here.clusters.add("west")
    here.registry.create(NewModel("claimed", SourceRepository.OBJECT_STORE, "pvc://m/x", task=Task.GENERATE))
    here.registry.mark_loaded("claimed", folder="pvc://m/x", size_bytes=0, task=Task.GENERATE)
    with pytest.raises(Unavailable) as nowhere:
        here.create(model="claimed")
    assert nowhere.value.code == "no_job_runner"
    here.port = here.scripted
    assert here.row(here.create(model="claimed")).cluster_id is None
    with pytest.raises(Conflict, match="hf://") as raised:
        here.create(model="claimed", cluster_id=west)
    assert raised.value.code == "no_cluster"
    for changes, named in (
        ({"training_image": ""}, "LLMARINER_TRAINING_IMAGE"),
        ({"training_volumes": {"engine": "/opt"}}, "LLMARINER_TRAINING_VOLUMES"),
    ):
        here.use(replace(SETTINGS, **changes))
        with pytest.raises(Conflict, match=named):
            here.create(model=HUB, cluster_id=west)
    here.use(SETTINGS)
    people = here.clusters.add("people", work=False)
    with pytest.raises(Conflict, match="No cluster of your project"):
        here.create(model=HUB, cluster_id=people)


ONE_MACHINE = replace(SETTINGS, adapter="processes")


def test_what_a_machine_can_not_train_is_refused_where_a_worker_cluster_is_too_small(here: Trainings) -> None:
    west = here.clusters.add("west")
    here.port = here.scripted
    here.use(ONE_MACHINE)
    assert here.row(here.create(model="smol")).cluster_id is None
    assert here.row(here.create(model=HUB)).cluster_id == west, "this machine has no weights of it"
    assert here.row(here.create(model=HUB, training_type="full", worker_count=8)).cluster_id == west
    here.registry.mark_loaded(HUB, folder="hf://org/hub", size_bytes=(1 << 30) + 1, task=Task.GENERATE)
    with pytest.raises(InvalidRequest, match="weights at hf:// are fetched by worker clusters alone") as raised:
        here.create(model=HUB)
    assert raised.value.code == "model_not_trainable"
    with pytest.raises(Conflict, match="4096 MiB of memory, and each worker of a job there may use 4096 MiB"):
        here.create(model=HUB, cluster_id=west)
    here.use(replace(ONE_MACHINE, memory_bytes=16 << 30))
    assert here.row(here.create(model=HUB)).cluster_id == west
    with pytest.raises(Conflict, match="8192 MiB of disk, and each worker of a job there may use 4096 MiB"):
        here.create(model=HUB, training_type="full", cluster_id=west)


def test_all_weights_are_trained_there_and_continue_on_another_cluster(here: Trainings) -> None:
    put_training_price(here.database, "*", 3_000_000)
    west = here.clusters.add("west")
    here.use(ONE_MACHINE)
    job_id = here.training(training_type="full", worker_count=2)
    sent = here.clusters.ports[west].jobs[f"{job_id}-1"]
    assert (sent.weights, sent.worker_count, sent.image) == ("hf://org/hub", 2, "")
    assert here.tuning.workers.plan(here.worker(job_id, 1))["training_type"] == "full"
    state = in_parts(here, job_id, 1, "state", [b"of step", b" 3"])
    here.report(job_id, 1, step(3, trained_tokens=60), {"type": "state", "step": 3, "file_id": state})
    late, east = here.worker(job_id, 1), here.clusters.add("east")
    here.clusters.lose(west)
    assert here.reconciled(job_id).cluster_id == east
    with pytest.raises(Conflict):
        here.tuning.result_uploads.begin(late, "model", 9)
    here.reconciled(job_id)
    checkpoint = here.tuning.workers.plan(here.worker(job_id, 2))["checkpoint"]
    assert checkpoint.startswith(f"https://{east}.example.org/v1/files/{state}/")
    here.run_on(job_id, 2, after=3)
    model = in_parts(here, job_id, 2, "model", [b"all ", b"weights"])
    here.report(job_id, 2, step(6, trained_tokens=120), {"type": "checkpoint", "step": 6, "file_id": model})
    metrics = here.result(job_id, 2, "metrics", b"step\n")
    here.report(job_id, 2, {"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics})
    here.load(here.get(job_id).output_model)
    done = here.reconciled(job_id)
    assert (done.status, done.cluster_id, done.trained_tokens, done.cost) == ("succeeded", east, 120, 360)
    made = here.registry.get(str(done.fine_tuned_model), project_id=here.project_id)
    assert (made.base_model_id, made.model_file_location) == (None, model)


def in_parts(here: Trainings, job_id: str, attempt: int, kind: str, parts: list[bytes]) -> str:
    """The id of a file that the process of an attempt sends in parts."""
    uploads, whole = here.tuning.result_uploads, b"".join(parts)
    worker, digest = here.worker(job_id, attempt), hashlib.sha256(whole).hexdigest()
    upload, part_ids = uploads.begin(worker, kind, len(whole)), []
    for content in parts:
        with contextlib.closing(uploads.receive_part(worker, upload.id, hashlib.sha256(content).hexdigest())) as part:
            part.begin()
            part.write(content)
            part_ids.append(part.save().id)
    return uploads.complete(worker, upload.id, part_ids, digest)


def test_a_job_of_a_cluster_that_is_away_is_canceled_at_once_and_removed_later(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    here.clusters.lose(west, seconds=LOST / 2)
    assert here.jobs.cancel(here.caller, job_id).status == "cancelled"
    here.reconciled(job_id)
    assert not here.row(job_id).released, "it may come back"
    here.clusters.lose(west)
    here.reconciled(job_id)
    assert here.row(job_id).released
    assert here.clusters.leftovers() == [f"{job_id}-0", f"{job_id}-1"]


def test_a_job_that_is_paused_while_its_cluster_is_lost_is_resumed_elsewhere(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    east = here.clusters.add("east")
    here.clusters.lose(west)
    here.jobs.pause(here.caller, job_id)
    assert here.reconciled(job_id).status == "paused"
    here.reconciled(job_id)
    assert here.row(job_id).released
    resumed = here.jobs.resume(here.caller, job_id)
    assert (resumed.status, resumed.reason) == ("queued", "It is away.")
    for _ in range(2):
        here.reconciled(job_id)
    assert (here.row(job_id).cluster_id, here.submitted(east)) == (east, [f"{job_id}-3"])


def test_a_job_that_is_paused_while_it_is_moved_does_not_begin(
    here: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    east = here.clusters.add("east")
    here.clusters.lose(west)
    others = JobPlaces.others

    def late(places: JobPlaces, *looked_for: Any) -> Any:
        monkeypatch.undo()
        here.jobs.pause(here.caller, job_id)
        return others(places, *looked_for)

    monkeypatch.setattr(JobPlaces, "others", late)
    assert here.reconciled(job_id).status == "queued"
    assert here.reconciled(job_id).status == "paused"
    assert here.submitted(east) == []


def test_a_job_that_has_its_result_needs_its_cluster_no_more(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    metrics = here.result(job_id, 1, "metrics", b"step\n")
    adapter = here.result(job_id, 1, "adapter", b"adapter")
    here.report(job_id, 1, step(6, trained_tokens=120), {"type": "checkpoint", "step": 6, "file_id": adapter})
    here.report(job_id, 1, {"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics})
    here.clusters.lose(west)
    here.load(here.get(job_id).output_model)
    assert here.reconciled(job_id).status == "succeeded"


def test_a_job_that_asked_for_its_cluster_waits_for_it(here: Trainings) -> None:
    west = here.clusters.add("west")
    here.clusters.add("east")
    job_id = here.training(cluster_id=west)
    here.clusters.lose(west)
    assert here.reconciled(job_id).cluster_id == west
    here.clusters.come_back(west)
    assert here.reconciled(job_id).status == "running"
    here.clusters.lose(west)
    here.clusters.unregister(west)
    gone = here.reconciled(job_id)
    assert (gone.status, gone.error_code) == ("failed", "cluster_gone")
    here.reconciled(job_id)
    assert here.row(job_id).released


def test_a_job_whose_cluster_is_not_registered_any_more_waits_in_line_and_continues_on_another(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    here.clusters.lose(west)
    here.clusters.unregister(west)
    for _ in range(2):
        waiting = here.reconciled(job_id)
        assert (waiting.status, here.row(job_id).attempt) == ("queued", 2)
    with pytest.raises(PlatformError):
        here.report(job_id, 1, step(7))  # what still runs there
    assert "not registered any more" in here.messages(job_id)[-1]
    assert job_object(here.get(job_id))["cluster_name"] == ""
    east = here.clusters.add("east")
    for _ in range(2):
        here.reconciled(job_id)
    assert (here.row(job_id).cluster_id, here.submitted(east)) == (east, [f"{job_id}-3"])


def wait_in_line(here: Trainings, job_id: str, cluster_id: str) -> FineTuningJob:
    return here.reconciled(job_id)


def refuse(here: Trainings, job_id: str, cluster_id: str) -> FineTuningJob:
    here.clusters.ports[cluster_id].error = Forbidden("users is forbidden")
    job = here.reconciled(job_id)
    assert "forbidden" in job.reason
    return job


@pytest.mark.parametrize("cause", [wait_in_line, refuse])
def test_a_job_that_waits_too_long_goes_to_another_cluster(
    here: Trainings, cause: Callable[[Trainings, str, str], FineTuningJob]
) -> None:
    west = here.clusters.add("west")
    job_id = here.start(model=HUB)
    east = here.clusters.add("east")
    assert cause(here, job_id, west).cluster_id == west
    with here.database.write() as session:
        then = time.time() - FULL - 1
        this = update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id)
        session.run(this.values(placed_at=then, created_at=int(then)))
    assert here.reconciled(job_id).cluster_id == east
    here.reconciled(job_id)
    assert here.submitted(east) == [f"{job_id}-1"]


def test_a_job_that_ends_where_the_rights_were_taken_back_leaves_no_files(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    state = here.result(job_id, 1, "state", b"of step 3")
    here.report(job_id, 1, step(3, trained_tokens=60), {"type": "state", "step": 3, "file_id": state})
    here.clusters.ports[west].error = Forbidden("users is forbidden")
    here.jobs.cancel(here.caller, job_id)
    here.reconciled(job_id)
    assert not here.row(job_id).released, "the rights may come back"
    with here.database.write() as session:
        session.run(update(fine_tuning_jobs).values(finished_at=time.time() - FULL - 1))
    here.reconciled(job_id)
    assert here.row(job_id).released
    assert here.files.get_many(here.project_id, [state]) == {}
    assert here.clusters.leftovers() == [f"{job_id}-0", f"{job_id}-1"]


def test_jobs_of_a_deleted_project_leave_nothing_on_a_lost_cluster(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    here.clusters.lose(west)
    with here.database.write() as session:
        session.run(update(fine_tuning_jobs).values(project_id="proj_gone"))
    here.tuning.reconciler.reconcile_all(seconds=10)
    assert here.row(job_id) is None
    assert here.clusters.leftovers() == [f"{job_id}-0", f"{job_id}-1"]


def test_a_list_asks_a_cluster_that_is_away_once(here: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    west = here.clusters.add("west")
    for _ in range(3):
        here.create(model=HUB)
    asked = []

    def away(job_id: str) -> JobStatus | None:
        asked.append(job_id)
        raise Unavailable("It is away.")

    monkeypatch.setattr(here.clusters.ports[west], "status", away)
    found, _ = here.jobs.page(here.project_id, after=None, limit=10)
    assert [each.reason for each in found] == ["It is away."] * 3
    assert len(asked) == 1


def test_a_process_that_its_cluster_ended_begins_another_attempt_there(here: Trainings) -> None:
    west = here.clusters.add("west")
    job_id = here.training()
    here.clusters.ports[west].end(f"{job_id}-1", Phase.FAILED, "evicted", "The node was drained.")
    assert here.reconciled(job_id).status == "queued"
    here.reconciled(job_id)
    assert (here.row(job_id).cluster_id, here.submitted(west)[-1]) == (west, f"{job_id}-2")
