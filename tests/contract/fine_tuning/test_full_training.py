"""Jobs that train all weights: refused where they do not fit, and their results are models with weights of their own."""

from __future__ import annotations

import importlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from llmariner.errors import InvalidRequest, ModelNotFound, PermissionDenied
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.tables import files
from llmariner.fine_tuning.archive_source import archive_source
from llmariner.fine_tuning.jobs import FineTuningJobs
from llmariner.fine_tuning.representation import job_object
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.job_settings import JobSettings
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.copies.slices import SliceLimits
from llmariner.models.copies.tables import model_blobs
from llmariner.models.model import Model, NewModel, SourceRepository, Task
from llmariner.models.weight_loads import load_weights
from llmariner.models.weights import StorageUriFetcher
from llmariner.platform.database import Database
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.model_files.object_copy import download
from llmariner.settings import ModelSettings, S3Settings
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .desk import NO_TRACKING, FineTuningDesk
from .training_desk import TrainingDesk, step

_tiny = importlib.import_module("...standalone.tiny_model_files", __package__)
BYTES = 270_000_000
"""Of the weights of the base model."""


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def names(desk: TrainingDesk) -> list[str]:
    """The names of files that jobs made."""
    made = select(files.c.filename).where(files.c.purpose.like("fine-tune-%")).order_by(files.c.id)
    with desk.database.read() as session:
        return [row.filename.partition("-")[2].partition("-")[2] for row in session.rows(made)]


def test_the_result_is_a_model_with_weights_of_its_own(desk: TrainingDesk) -> None:
    job_id = desk.training(training_type="full")
    plan = desk.tuning.workers.plan(desk.worker(job_id, 1))
    assert (plan["training_type"], plan["checkpoint_seconds"]) == ("full", 300.0)
    assert plan["learning_rate"] == pytest.approx(1e-4), "a tenth of that of an adapter"
    assert "training_type" not in desk.tuning.workers.plan(desk.worker(desk.training(), 1))
    plan = desk.tuning.workers.plan(desk.worker(desk.training(training_type="qlora"), 1))
    assert (plan["training_type"], "checkpoint_seconds" in plan) == ("qlora", False)
    assert plan["learning_rate"] == pytest.approx(1e-3), "that of an adapter"
    made = []
    for number in (3, 6):
        made.append(desk.result(job_id, 1, "model", f"weights {number}".encode()))
        desk.report(job_id, 1, step(number), {"type": "checkpoint", "step": number, "file_id": made[-1]})
    metrics = desk.result(job_id, 1, "metrics", b"step\n")
    finished = {"type": "finished", "step": 6, "trained_tokens": 120, "file_id": metrics}
    for _ in range(2):
        desk.report(job_id, 1, finished)
    desk.load(desk.get(job_id).output_model)
    job = desk.reconciled(job_id)
    assert job_object(job)["training_type"] == {"type": "full"}
    model = desk.registry.get(str(job.fine_tuned_model), project_id=desk.project_id)
    assert (model.base_model_id, model.owned_by, model.approved) == (None, "user", True)
    assert (model.source_repository, model.model_file_location) == (SourceRepository.FINE_TUNING, made[-1])
    desk.registry.delete("smol", project_id=None)
    assert desk.registry.get(model.id).id == model.id, "it needs no base"


def test_the_models_of_the_last_two_epochs_are_kept_and_old_ones_take_no_room(desk: TrainingDesk) -> None:
    job_id = desk.training(training_type="full")
    with desk.database.write() as session:
        row = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job_id))
        assert row is not None
        numbers = {**json.loads(row.hyperparameters), "n_epochs": 4}
        same = fine_tuning_jobs.c.id == job_id
        session.run(update(fine_tuning_jobs).where(same).values(hyperparameters=json.dumps(numbers), total_steps=12))
    for number in (3, 6, 9):
        state = desk.result(job_id, 1, "state", b"state")
        model = desk.result(job_id, 1, "model", b"weights")
        checkpoint = {"type": "checkpoint", "step": number, "file_id": model}
        desk.report(job_id, 1, step(number), checkpoint, {"type": "state", "step": number, "file_id": state})
    found, _ = desk.history.checkpoints(desk.project_id, job_id, after=None, limit=9)
    assert [each.step for each in found] == [9, 6]
    assert sorted(names(desk)) == ["model.tar", "model.tar", "state.safetensors"]
    with pytest.raises(ModelNotFound):
        desk.registry.get(f"{desk.get(job_id).output_model}:ckpt-step-3", project_id=desk.project_id)
    desk.result(job_id, 1, "model", b"of an interrupted epoch")
    desk.jobs.cancel(desk.caller, job_id)
    desk.reconciled(job_id)
    assert names(desk) == ["model.tar", "model.tar"]


def test_what_does_not_fit_is_refused_with_its_numbers(database: Database, owner: KeyOwner) -> None:
    enough = FineTuningDesk(database, owner, memory_bytes=10 * BYTES)
    TrainingDesk(database, owner, Path("/nowhere"))  # registers the base model
    enough.create(training_type="full")
    small = FineTuningDesk(database, owner, memory_bytes=10 * BYTES - 1)
    small.create()
    with pytest.raises(
        InvalidRequest, match="of all weights needs about 2574 MiB of memory, and a job may use 2574"
    ) as no:
        small.create(training_type="full")
    assert (no.value.param, no.value.code) == ("model", "model_not_trainable")
    narrow = FineTuningDesk(database, owner, disk_bytes=8 * BYTES - 1)
    with pytest.raises(InvalidRequest, match="needs about 2059 MiB of disk, and a job may use 2059 MiB"):
        narrow.create(training_type="full")
    enough.create(worker_count=2)
    with pytest.raises(InvalidRequest, match="by 2 workers needs about 5149 MiB of memory"):
        enough.create(training_type="full", worker_count=2)
    roomy = FineTuningDesk(database, owner, disk_bytes=12 * BYTES)
    roomy.create(training_type="full", worker_count=2)
    with pytest.raises(InvalidRequest, match="needs about 4634 MiB of disk"):
        roomy.create(training_type="full", worker_count=3)
    limited = FineTuningJobs(database, JobSettings(), enough.registry, enough.running_jobs, NO_TRACKING, 6 * BYTES - 1)
    with pytest.raises(
        InvalidRequest, match="the state of a training of all weights has 1544 MiB, and a file may have 1544"
    ):
        limited.create(enough.caller, enough.new(training_type="full"))
    cluster = FineTuningDesk(database, owner, adapter="kubernetes", memory_bytes=10 * BYTES)
    enough.registry.create(NewModel("pod", SourceRepository.LOCAL, "pvc://a/b", task=Task.GENERATE))
    enough.registry.mark_loaded("pod", folder="pvc://a/b", size_bytes=BYTES, task=Task.GENERATE)
    cluster.create(model="pod")
    cluster.create(model="pod", training_type="full", worker_count=8)
    uncopied = FineTuningJobs(
        database,
        JobSettings(adapter="kubernetes"),
        enough.registry,
        cluster.running_jobs,
        NO_TRACKING,
        serves_whole_models=False,
    )
    with pytest.raises(InvalidRequest, match="LLMARINER_MODEL_COPIES=1"):
        uncopied.create(cluster.caller, cluster.new(model="pod", training_type="full"))


def test_another_project_may_use_it_without_its_base(desk: TrainingDesk, owner: KeyOwner) -> None:
    with desk.database.write() as session:
        row = {"id": "proj_b", "organization_id": owner.organization_id, "title": "b", "is_default": False}
        session.add(projects, **row, created_at=1)
    name = str(desk.finish(desk.training(training_type="full")).fine_tuned_model)
    desk.tuning.permissions.create(desk.caller, name, ["proj_b"])
    theirs = desk.registry.get(name, project_id="proj_b")
    assert (theirs.base_model_id, theirs.approved) == (None, True)


FILES = {
    "config.json": _tiny.CONFIG,
    "tokenizer_config.json": b"{}",
    "model.safetensors": _tiny.safetensors(200_000),
}


def finished(desk: TrainingDesk, content: bytes) -> Model:
    """The model that a job made, whose file has this content; nothing has loaded it yet."""
    job_id = desk.training(training_type="full")
    made = desk.result(job_id, 1, "model", content)
    desk.report(job_id, 1, step(6, trained_tokens=120), {"type": "checkpoint", "step": 6, "file_id": made})
    return desk.registry.get(desk.get(job_id).output_model, project_id=desk.project_id)


def test_a_cluster_copies_the_model_out_of_its_archive(desk: TrainingDesk, tmp_path: Path) -> None:
    fetcher = CopyingFetcher(
        desk.database,
        lambda: desk.objects,
        ModelSettings(),
        S3Settings(),
        StorageUriFetcher(),
        limits=SliceLimits(chunk_bytes=64 << 10),
        trained=lambda model: archive_source(model, lambda: desk.files),
    )
    model = finished(desk, tar(FILES))
    load_weights(desk.registry, fetcher, event(model))
    model = desk.registry.get(model.id)
    assert model.loaded, model.loading_failure_reason
    assert model.folder.startswith("model-copy://")
    assert model.size_bytes == len(FILES["model.safetensors"])
    assert model.traits.architecture == "LlamaForCausalLM"
    download(model.folder, tmp_path / "model", desk.objects)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == FILES
    desk.registry.delete(model.id, project_id=desk.project_id)
    with desk.database.write() as session:  # it may have been used until a moment ago
        session.run(update(model_blobs).values(held_until=0.0, touched_at=0.0))
    fetcher.discard(model.id, model.folder)
    assert not list(desk.objects.list("models/")), "the copy is gone, and the file stays"
    assert b"".join(desk.files.read(desk.files.get(desk.project_id, model.model_file_location))) == tar(FILES)
    for what, content, reason in (
        ("cut", tar(FILES)[:-20_000], "it ends early"),
        *((f"2**{power}", header("model.safetensors", 2**power), f"has {2**power} bytes") for power in (62, 80)),
        ("pickle", tar({**FILES, "pytorch_model.bin": b"x"}), "is none of a model"),
        ("weights", tar({**FILES, "model.safetensors": b"no weights"}), "model.safetensors"),
    ):
        refused = finished(desk, content)
        load_weights(desk.registry, fetcher, event(refused))
        assert reason in desk.registry.get(refused.id).loading_failure_reason, what
    gone = finished(desk, tar({**FILES, "config.json": b"{} "}))
    with desk.database.write() as session:  # as it could be before models kept their files
        session.run(delete(files).where(files.c.id == gone.model_file_location))
    load_weights(desk.registry, fetcher, event(gone))
    assert "was deleted" in desk.registry.get(gone.id).loading_failure_reason


def test_without_copies_the_model_says_what_is_missing(desk: TrainingDesk) -> None:
    model = finished(desk, b"weights")
    load_weights(desk.registry, StorageUriFetcher(), event(model))
    assert "LLMARINER_MODEL_COPIES=1" in desk.registry.get(model.id).loading_failure_reason


def test_no_caller_names_a_file_as_a_trained_model(desk: TrainingDesk) -> None:
    file_id = desk.upload(tar(FILES), NewFile("m.tar", Purpose.USER_DATA, "application/x-tar"))
    new = NewModel("mine", SourceRepository.FINE_TUNING, file_id, project_id=desk.project_id)
    with pytest.raises(PermissionDenied):
        desk.registry.create(new, actor=desk.caller)
    unapproved = replace(finished(desk, tar(FILES)), approved=False)
    assert archive_source(unapproved, lambda: desk.files) is None


def tar(files: dict[str, bytes]) -> bytes:
    """An archive of these files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def header(name: str, size: int) -> bytes:
    """The beginning of an archive, with a size as archives have it that are larger than 8 GiB."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def event(model: Model) -> Event:
    """The event by which a model is loaded."""
    return Event(f"evt_{model.id}", "x", f"models/{model.id}", 1.0, {"id": model.id})
