"""Batch jobs of a cluster: GPUs and workers, and the links by which their pods fetch data files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmariner.batch_jobs.data_links import DataLinks
from llmariner.errors import InvalidRequest, NotFound, PermissionDenied
from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.links import FileLinks
from llmariner.files.purposes import Purpose
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.jobs import Job
from llmariner.platform.jobs.kubernetes.settings import load_cluster_settings
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import Secret
from llmariner.tenancy.principal import KeyOwner

from ..team import Team
from .scripted_jobs import BatchJobDesk

CLUSTER: dict[str, Any] = {"adapter": "kubernetes", "images": ("pytorch-2.1",), "has_gpus": True}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"gpu_count": -1}, "resources.gpu_count"),
        ({"gpu_count": 17}, "resources.gpu_count"),
        ({"worker_count": 0}, "kind.pytorch.worker_count"),
        ({"worker_count": 65}, "kind.pytorch.worker_count"),
    ],
)
def test_more_than_a_cluster_gives_a_job_is_refused(
    database: Database, owner: KeyOwner, fields: dict[str, Any], param: str
) -> None:
    desk = BatchJobDesk(database, owner, **CLUSTER)
    with pytest.raises(InvalidRequest) as raised:
        desk.create(**fields)
    assert raised.value.param == param


def test_a_job_gets_its_image_gpus_and_workers(database: Database, owner: KeyOwner) -> None:
    desk = BatchJobDesk(database, owner, **CLUSTER)
    job_id = desk.create(gpu_count=2, worker_count=3)
    desk.reconciled(job_id)
    sent = desk.scripted.jobs[job_id]
    assert (sent.image, sent.gpu_count, sent.worker_count) == ("pytorch-2.1", 2, 3)
    without = BatchJobDesk(database, owner, **{**CLUSTER, "has_gpus": False})
    with pytest.raises(InvalidRequest) as raised:
        without.create(gpu_count=1)
    assert raised.value.code == "no_gpu"


def test_a_data_file_comes_by_a_link_in_the_name_of_who_made_the_job(
    database: Database, owner: KeyOwner, team: Team, tmp_path: Path
) -> None:
    desk = BatchJobDesk(database, owner, **CLUSTER)
    desk.caller = team.admin
    store = Files(database, FolderObjects(tmp_path), FileSettings(link_seconds=3600))
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(b"hello")
        file = store.save(owner, NewFile("a.txt", Purpose.USER_DATA, "text/plain"), content)
    desk.files.found = {file.id: file}
    job_id = desk.create(data_files=[file.id])
    desk.reconciled(job_id)
    links = FileLinks(database, store, (Secret("s" * 64),))
    (made,) = DataLinks(database, lambda: links, "http://files.llmariner")(desk.scripted.jobs[job_id])
    assert made.name == "a.txt"
    assert made.url.startswith(f"http://files.llmariner/v1/files/{file.id}/content?link=")
    token = made.url.partition("link=")[2]
    assert links.open(token, file.id).maker.user_id == team.admin.user_id
    with pytest.raises(PermissionDenied):
        links.open(token, "file-other")
    with pytest.raises(NotFound):
        DataLinks(database, lambda: links, "")(Job("bj-none", owner.project_id, "true"))


def test_images_of_a_cluster_have_references() -> None:
    env = {
        "LLMARINER_JOBS": "kubernetes",
        "LLMARINER_JOB_IMAGES": "pytorch-2.1=pytorch/pytorch:2.1.2, plain, own=localhost:5000/own@sha256:00",
        "LLMARINER_JOBS_NAMESPACE": "jobs",
        "LLMARINER_QUEUE": "nvidia",
        "LLMARINER_ACCELERATOR": "nvidia",
        "LLMARINER_JOB_CPU": "500m",
        "LLMARINER_JOB_MEMORY_GIB": "2",
    }
    settings = JobSettings.load(env)
    assert settings.images == ("pytorch-2.1", "own")
    made = load_cluster_settings(env, settings)
    assert made.images == {"pytorch-2.1": "pytorch/pytorch:2.1.2", "own": "localhost:5000/own@sha256:00"}
    assert (made.namespace, made.queue, made.gpu_resource) == ("jobs", "nvidia", "nvidia.com/gpu")
    assert (made.cpu, made.memory_bytes) == ("500m", 2 << 30)
    assert JobSettings.load({**env, "LLMARINER_JOBS": ""}).images == ("pytorch-2.1", "plain", "own")
    for wrong in ({"LLMARINER_JOB_IMAGES": "a=b c"}, {"LLMARINER_JOB_IMAGES": "a="}, {"LLMARINER_JOB_CPU": "much"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            JobSettings.load({**env, **wrong})
