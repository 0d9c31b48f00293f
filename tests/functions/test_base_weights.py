"""/v1/fine_tuning/workers/{id}/weights: the weights of a copied base model, as a job's pod fetches them with its token."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from llmariner.context import Context
from llmariner.fine_tuning.jobs import load_job
from llmariner.fine_tuning.program import WEIGHTS_COMMAND, archive
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.copies.slices import SliceLimits
from llmariner.models.copies.tables import model_blob_chunks
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.weight_loads import load_weights
from llmariner.models.weights import StorageUriFetcher
from llmariner.platform.events.cloudevents import Event
from llmariner.settings import ModelSettings, S3Settings
from llmariner.tenancy.principal import KeyOwner

from .http_calls import HttpRequest, HttpResponse, assert_error, send_over_http
from .served_function import served_function
from .training_jobs import training_job

_tiny = importlib.import_module("..standalone.tiny_model_files", __package__)
if TYPE_CHECKING:
    from standalone import model_server as _server
else:
    _server = importlib.import_module("..standalone.model_server", __package__)

CHUNK = 64 << 10
FILES = {
    "config.json": _tiny.CONFIG,
    "tokenizer.json": b"{}",
    "model.safetensors": _tiny.safetensors(10 * CHUNK + 777),
    "README.md": b"not of a model",
}
READ = {name: content for name, content in FILES.items() if name != "README.md"}


@dataclass
class Served:
    """The function in a process of its own, and the platform behind it."""

    context: Context
    port: int
    owner: KeyOwner
    hub: str

    def job(self, job_id: str, stage: str = "train") -> str:
        """The token of a new job whose base model of the same name is copied into the store."""
        registry, database = self.context.registry, self.context.database
        model = registry.create(NewModel(job_id, SourceRepository.HUGGING_FACE, "org/m"))
        fetcher = CopyingFetcher(
            database,
            lambda: self.context.objects,
            ModelSettings(hub=self.hub),
            S3Settings(),
            StorageUriFetcher(),
            limits=SliceLimits(chunk_bytes=CHUNK),
        )
        load_weights(registry, fetcher, Event("evt_1", "x", f"models/{job_id}", 1.0, {"id": model.id}))
        assert registry.get(model.id).folder.startswith("model-copy://")
        of_model = {"model": job_id, "model_id": model.id, "model_created_at": model.created_at, "stage": stage}
        with database.write() as session:
            session.add(fine_tuning_jobs, **{**training_job(job_id, self.owner), **of_model})
            job = load_job(session, self.owner.project_id, job_id)
        return self.context.fine_tuning.worker_tokens.issue(job)

    def get(self, job_id: str, what: str, token: str) -> HttpResponse:
        path, _, query = what.partition("?")
        head = {"authorization": f"Bearer {token}"}
        request = HttpRequest("GET", f"/v1/fine_tuning/workers/{job_id}/{path}", None, head, query=query)
        return send_over_http(self.port, request)

    def fetch(self, job_id: str, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run what the first container of the job's pod runs, in an empty Python environment."""
        (folder / "scripts").mkdir(exist_ok=True)
        (name, content), *_ = archive().items()
        (folder / "scripts" / name).write_bytes(content)
        (folder / "python3").unlink(missing_ok=True)
        (folder / "python3").symlink_to(sys.executable)
        variables = {
            "LLMARINER_TRAINING_URL": f"http://127.0.0.1:{self.port}/v1/fine_tuning/workers/{job_id}",
            "LLMARINER_TRAINING_TOKEN": token,
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        (folder / "models").mkdir(exist_ok=True)
        command = ["/bin/sh", "-c", WEIGHTS_COMMAND, "sh", str(folder / "models")]
        return subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    function = served_function("fine_tuning_workers", tmp_path_factory.mktemp("weights"))
    with _server.running_server() as hub, function as made:
        hub.repositories = {"org/m": FILES}
        yield Served(*made, hub.url)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").iterdir()}


def test_a_pod_has_the_files_of_a_copied_model_and_fetches_again_what_is_damaged(
    served: Served, tmp_path: Path
) -> None:
    token = served.job("ftjob-whole")
    done = served.fetch("ftjob-whole", token, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path) == READ
    whole, damaged = tmp_path / "models/config.json", tmp_path / "models/model.safetensors"
    kept = whole.stat()
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert served.fetch("ftjob-whole", token, tmp_path).returncode == 0
    assert contents(tmp_path) == READ
    assert whole.stat().st_ino == kept.st_ino, "what is there is not fetched again"


def test_the_check_of_files_has_no_weights(served: Served, tmp_path: Path) -> None:
    token = served.job("ftjob-check", stage="check")
    assert served.fetch("ftjob-check", token, tmp_path).returncode == 0
    assert contents(tmp_path).keys() == {"config.json", "tokenizer.json"}


def test_a_model_that_is_deleted_meanwhile_ends_it_with_the_reason(served: Served, tmp_path: Path) -> None:
    token = served.job("ftjob-gone")
    assert (
        served.get("ftjob-gone", "weights/model.safetensors?start=0", token).body == READ["model.safetensors"][:CHUNK]
    )
    served.context.registry.delete("ftjob-gone", project_id=None)
    assert_error(served.get("ftjob-gone", "weights/model.safetensors?start=0", token), 409, code="base_model_deleted")
    done = served.fetch("ftjob-gone", token, tmp_path)
    assert done.returncode == 1
    assert "was deleted" in done.stderr.splitlines()[-1]


def test_a_damaged_copy_is_no_model(served: Served, tmp_path: Path) -> None:
    token = served.job("ftjob-damaged")
    listed = {each["path"]: each for each in json.loads(served.get("ftjob-damaged", "weights", token).body)["data"]}
    assert sum(listed["model.safetensors"]["pieces"]) == len(READ["model.safetensors"])
    with served.context.database.read() as session:
        row = session.rows(model_blob_chunks.select().where(model_blob_chunks.c.start == CHUNK))[0]
    before = b"".join(served.context.objects.read(row.object_key))
    with served.context.objects.writer(row.object_key) as writer:
        writer.write(bytes(row.size))
        writer.commit()
    done = served.fetch("ftjob-damaged", token, tmp_path)
    assert done.returncode == 1
    assert "another content" in done.stderr
    assert contents(tmp_path).keys() == {"config.json", "tokenizer.json"}
    served.context.objects.delete([row.object_key])
    error = served.get("ftjob-damaged", f"weights/model.safetensors?start={CHUNK}", token)
    assert_error(error, 409, code="weights_unavailable")
    with served.context.objects.writer(row.object_key) as writer:
        writer.write(before)
        writer.commit()


def test_a_token_opens_the_weights_of_its_own_job_and_pieces_alone(served: Served) -> None:
    token, other = served.job("ftjob-mine"), served.job("ftjob-other")
    for wrong in ("", "guess", other):
        assert_error(served.get("ftjob-mine", "weights", wrong), 401, code="invalid_api_key")
    for what in (
        "config.json?start=1",
        "model.safetensors?start=-1",
        "README.md",
        "none.json",
        "config.json?start=9e9",
    ):
        status = 400 if "9e9" in what else 404
        assert served.get("ftjob-mine", f"weights/{what}", token).status == status, what
    assert_error(served.get("ftjob-mine", "weights/config.json?version=%0d%0a", token), 400, code="invalid_value")
    big = served.get("ftjob-mine", f"weights/config.json?start={10**30}", token)
    assert 400 <= big.status < 500, big.body
    ended = update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == "ftjob-mine").values(status="cancelled")
    with served.context.database.write() as session:
        session.run(ended)
    assert_error(served.get("ftjob-mine", "weights", token), 409, code="attempt_ended")
