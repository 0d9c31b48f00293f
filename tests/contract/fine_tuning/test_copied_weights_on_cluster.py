"""Training of all weights on the test cluster: pods fetch a copied model by a token of their job, and send whole ones.

They are killed while they send a file in parts: nothing of the training is lost.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from llmariner.files.tables import files, upload_parts, uploads
from llmariner.fine_tuning.job import FineTuningJob
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.model import NewModel, SourceRepository
from llmariner.platform.jobs.kubernetes.weights import WEIGHTS_CONTAINER
from llmariner.platform.kube.resources import PODS
from llmariner.platform.model_files.object_copy import download

from ..other_tests import model_server as _server
from .training_on_cluster import TrainingPlatform, tiny_weights, training_platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COPIED = "copied"
PART_BYTES = 4 << 20
EPOCHS, STEPS = 2, 6
PART = re.compile(r"/v1/fine_tuning/workers/([^/]+)/uploads/([^/]+)/parts/[^/]+")
END_SECONDS = 60.0


def copy_into_store(platform: TrainingPlatform) -> None:
    """Register the model of the hub, which is copied."""
    made = platform.context.registry.create(NewModel(COPIED, SourceRepository.HUGGING_FACE, "org/tiny"))
    platform.load(made)
    assert platform.context.registry.get(COPIED).folder.startswith("model-copy://")


@dataclass(frozen=True)
class Kill:
    """A worker's pod is killed once, before the second part of a file arrives. `step`: of the state that the job has."""

    way: str
    worker: int
    filename: str
    step: int | None


class Kills:
    """Kills pods as `wanted` says, by job; `done` are those that happened."""

    def __init__(self, platform: TrainingPlatform, wanted: Mapping[str, Kill]) -> None:
        self._platform, self._wanted = platform, wanted
        self.done: set[str] = set()

    def __call__(self, method: str, path: str) -> None:
        """Before a request of a pod is answered."""
        found = PART.fullmatch(path)
        if method != "PUT" or found is None:
            return
        job_id, upload_id = found.groups()
        wanted = self._wanted.get(job_id)
        if wanted is None or job_id in self.done or not self._is_second(upload_id, wanted.filename):
            return
        c, platform = fine_tuning_jobs.c, self._platform
        with platform.context.database.read() as session:
            if session.value(select(c.state_step).where(c.id == job_id)) != wanted.step:
                return
        self.done.add(job_id)
        platform.kill_and_wait(platform.pods(job_id)[wanted.worker], wanted.way, seconds=END_SECONDS)

    def _is_second(self, upload_id: str, filename: str) -> bool:
        named = (uploads.c.id == upload_id) & uploads.c.filename.endswith(filename)
        of_it = select(func.count()).select_from(upload_parts).where(upload_parts.c.upload_id == upload_id)
        with self._platform.context.database.read() as session:
            return bool(session.value(select(func.count()).where(named))) and session.value(of_it) == 1


def digest(platform: TrainingPlatform, job_id: str) -> str:
    """SHA-256 of the last model of a job."""
    ids = select(files.c.id).where(files.c.filename == f"{job_id}-model.tar").order_by(files.c.id.desc())
    with platform.context.database.read() as session:
        file_id = str(session.value(ids.limit(1)))
    stored = platform.context.files
    return hashlib.sha256(b"".join(stored.read(stored.get(platform.owner.project_id, file_id)))).hexdigest()


def left(platform: TrainingPlatform) -> list[str]:
    """The names of states, and of uploads that have not ended."""
    states = select(files.c.filename).where(files.c.filename.endswith("state.safetensors"))
    pending = select(uploads.c.filename).where(uploads.c.status == "pending")
    with platform.context.database.read() as session:
        return [row.filename for query in (states, pending) for row in session.rows(query)]


def until_all_succeeded(platform: TrainingPlatform, *jobs: str) -> set[str]:
    """The names of the containers that their pods had before those of the jobs."""
    seen: set[str] = set()
    limit = time.monotonic() + 800

    def is_known(job: FineTuningJob) -> bool:
        for name in platform.pods(job.id):
            if (pod := platform.cluster.get(PODS, platform.namespace, name)) is not None:
                seen.update(each["name"] for each in pod["spec"].get("initContainers", ()))
        return True

    while any(platform.until(each, is_known).status != "succeeded" for each in jobs):
        assert time.monotonic() < limit
        time.sleep(0.5)
    return seen


def test_pods_train_a_copied_model_and_send_whole_ones_back_though_they_are_killed_meanwhile(tmp_path: Path) -> None:
    folder = tiny_weights(tmp_path)
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    with _server.running_server() as hub:
        hub.repositories = {"org/tiny": contents}
        settings = {
            "HF_ENDPOINT": hub.url,
            "LLMARINER_MODEL_COPIES": "1",
            "LLMARINER_UPLOAD_PART_BYTES": str(PART_BYTES),
        }
        with training_platform(tmp_path, folder, memory_gib=1.0, pool="3300Mi", **settings) as platform:
            copy_into_store(platform)
            hub.repositories = {}  # nobody fetches from it any more
            two = platform.create(model=COPIED, epochs=EPOCHS, workers=2, training_type="full")
            one, plain = (platform.create(model=COPIED, epochs=EPOCHS, training_type="full") for _ in range(2))
            whole = (plain, one, two)
            platform.before_request = kills = Kills(
                platform,
                {
                    two: Kill("force", 1, "state.safetensors", None),
                    one: Kill("crash", 0, "model.tar", STEPS // EPOCHS),
                },
            )
            assert until_all_succeeded(platform, *whole) == {WEIGHTS_CONTAINER}
            assert kills.done == {one, two}
            assert any("continue after step 3" in said for said in platform.messages(one)), platform.messages(one)
            assert any("continues after step" in said for said in platform.messages(two)), platform.messages(two)
            check(platform, *whole)
            project = platform.owner.project_id
            made = platform.context.fine_tuning.jobs.get(project, two).output_model
            copy = platform.context.registry.get(made, project_id=project).folder
            assert copy.startswith("model-copy://")
            download(copy, tmp_path / "whole", platform.context.objects)
            platform.until_nothing_is_left(*whole)
            assert left(platform) == []
    for path in (tmp_path / "whole").iterdir():
        assert (path.read_bytes() == contents[path.name]) is (path.name != "model.safetensors"), path.name
        assert path.stat().st_size == len(contents[path.name])


def check(platform: TrainingPlatform, plain: str, one: str, two: str) -> None:
    """Nothing was lost of any: `plain` was not disturbed, and `one` had one worker, too."""
    undisturbed = platform.losses(plain)
    for each in (plain, one, two):
        losses = platform.losses(each)
        assert sorted(losses) == list(range(1, STEPS + 1))
        assert losses == pytest.approx(undisturbed, abs=1e-5)
        job = platform.context.fine_tuning.jobs.get(platform.owner.project_id, each)
        assert platform.charged(job.output_model) == job.trained_tokens == job.estimated_tokens
        print(each, losses, platform.messages(each))
    assert digest(platform, plain) == digest(platform, one)
