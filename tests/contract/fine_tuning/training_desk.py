"""Fine-tuning jobs of one project with files that have contents, and processes that a test plays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.links import FileLinks
from llmariner.files.purposes import Purpose
from llmariner.files.upload_links import UploadLinks
from llmariner.files.uploads import Uploads
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.installation import FineTuning
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import FineTuningJob
from llmariner.fine_tuning.promotion import Promotion
from llmariner.fine_tuning.references import FineTuningReferences
from llmariner.fine_tuning.worker_tokens import Worker
from llmariner.inference_settings import InferenceSettings
from llmariner.job_settings import JobSettings
from llmariner.models.model import Task
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import Secret
from llmariner.tenancy.background_work import BackgroundTokens
from llmariner.tenancy.principal import KeyOwner
from llmariner.tracking_settings import TrackingSettings
from llmariner.usage.tables import prices
from llmariner.vector_stores.inference import InferenceClient

from ..team import Team
from .desk import NO_TRACKING, FineTuningDesk, add_base_model

__all__ = ["ROWS", "SECRET", "TrainingDesk", "emit_fine_tuning_events", "jsonl", "put_training_price", "step"]

SECRET = Secret("s" * 64)
ROWS = [
    {"messages": [{"role": "user", "content": f"Hello {number}"}, {"role": "assistant", "content": "Arrr!"}]}
    for number in range(12)
]
_TOKEN = "LLMARINER_TRAINING_TOKEN"


def jsonl(rows: Sequence[Any]) -> bytes:
    """Rows in JSON Lines."""
    return "\n".join(map(json.dumps, rows)).encode()


def put_training_price(database: Database, model: str, training: int) -> None:
    """Set a price of trained tokens, in nano-dollars per million, from the beginning of time; all else is free."""
    names = ("valid_from", "created_at", "prompt", "cached_prompt", "completion", "request")
    with database.write() as session:
        session.add(prices, id=f"price_{model}", model=model, training=training, **dict.fromkeys(names, 0))


def step(number: int, **fields: Any) -> dict[str, Any]:
    """The record of a step."""
    numbers = {"train_loss": 2.0 / number, "train_accuracy": 0.5, "learning_rate": 1e-3, "tokens_per_second": 100.0}
    return {"type": "step", "step": number, "trained_tokens": 10 * number, **numbers, **fields}


class TrainingDesk(FineTuningDesk):
    """See the module. Times and places are those of a test; the base model is registered."""

    def __init__(
        self,
        database: Database,
        owner: KeyOwner,
        folder: Path,
        tracking: TrackingSettings = NO_TRACKING,
        inference: InferenceClient | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(database, owner, tracking, **settings)
        self.owner = owner
        self.objects = FolderObjects(folder)
        self.files = Files(database, self.objects, FileSettings(), (FineTuningReferences(),))
        self.links = FileLinks(database, self.files, [SECRET])
        self.upload_links = UploadLinks(database, FileSettings(), [SECRET])
        self.uploads = Uploads(database, self.objects, FileSettings())
        self.tuning = FineTuning(
            database,
            self.registry,
            JobSettings(),
            [SECRET],
            jobs=self.running_jobs,
            files=lambda: self.files,
            links=lambda: (self.links, self.upload_links),
            uploads=lambda: self.uploads,
            url="http://platform",
            objects=lambda: self.objects,
            tracking=tracking,
            inference=lambda: inference or InferenceClient(InferenceSettings(), BackgroundTokens(SECRET)),
        )
        add_base_model(self.registry)

    def upload(self, content: bytes, new: NewFile | None = None) -> str:
        """The id of a new file."""
        new = new or NewFile("train.jsonl", Purpose.FINE_TUNE, "application/jsonl")
        with self.files.receive(self.owner, purpose=None, size_bytes=0, limit_bytes=2**30) as incoming:
            incoming.write(content)
            return self.files.save(self.owner, new, incoming).id

    def start(self, rows: Sequence[Any] = ROWS, **fields: Any) -> str:
        """The id of a new job, whose files have been checked for their form."""
        job_id = self.create(training_file=self.upload(jsonl(rows)), **fields)
        self.reconciled(job_id)
        return job_id

    def reconciled(self, job_id: str) -> FineTuningJob:
        """The job after a reconciliation."""
        self.tuning.reconciler.reconcile(job_id)
        return self.get(job_id)

    def token(self, job_id: str, attempt: int) -> str:
        """The token that the process of an attempt has."""
        return self.scripted.jobs[f"{job_id}-{attempt}"].environment[_TOKEN]

    def worker(self, job_id: str, attempt: int, process: str = "") -> Worker:
        """The process of an attempt, if its token is valid, with the id that it has chosen."""
        return self.tuning.worker_tokens.open(self.token(job_id, attempt), job_id, process)

    def report(self, job_id: str, attempt: int, *records: dict[str, Any]) -> str:
        """What the process of an attempt is to do after a report."""
        return self.tuning.workers.report(self.worker(job_id, attempt), records)

    def training(self, **fields: Any) -> str:
        """The id of a job that trains in its attempt 1, with 3 steps in each of 2 epochs."""
        job_id = self.start(**{"hyperparameters": RequestedHyperparameters(n_epochs=2), **fields})
        found = {"examples": 12, "tokens": 60, "longest": 5}
        held_out = {"validation_file": found} if fields.get("validation_file") else {}
        self.report(job_id, 0, {"type": "checked", "training_file": found, **held_out})
        self.reconciled(job_id)
        self.scripted.run(f"{job_id}-1")
        self.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 6})
        return job_id

    def result(self, job_id: str, attempt: int, kind: str, content: bytes) -> str:
        """The id of a file that a process uploaded."""
        digest = hashlib.sha256(content).hexdigest()
        url = self.tuning.workers.upload_link(self.worker(job_id, attempt), kind, len(content), digest)
        link = self.upload_links.open(parse_qs(urlsplit(url).query)["link"][0])
        with self.files.receive(self.owner, purpose=None, size_bytes=0, limit_bytes=2**20) as incoming:
            incoming.write(content)
            return self.files.save(self.owner, link.terms.new, incoming).id

    def finish(
        self,
        job_id: str,
        attempt: int = 1,
        *,
        adapter_content: bytes = b"",
        loss: float | None = None,
        base_loss: float | None = None,
        grade: float | None = None,
        base_grade: float | None = None,
        gate_problem: str | None = None,
    ) -> FineTuningJob:
        """The job after its process trained to the end and its model was loaded. Losses: on the whole validation file."""
        measured = _said(full_valid_loss=loss, full_valid_grade=grade, base_valid_grade=base_grade)
        adapter = self.result(job_id, attempt, "adapter", adapter_content or f"adapter {job_id}".encode())
        self.report(
            job_id,
            attempt,
            step(6, trained_tokens=120),
            {"type": "checkpoint", "step": 6, "file_id": adapter, **measured},
        )
        metrics = self.result(job_id, attempt, "metrics", b"step,train_loss\n")
        self.report(
            job_id,
            attempt,
            {
                "type": "finished",
                "step": 6,
                "trained_tokens": 120,
                "file_id": metrics,
                **_said(base_valid_loss=base_loss, gate_problem=gate_problem),
            },
        )
        self.load(self.get(job_id).output_model)
        return self.reconciled(job_id)

    def load(self, model: str) -> None:
        """Load a model, as the consumer does that fetches weights."""
        self.registry.mark_loaded(model, folder="/models/x", size_bytes=9, task=Task.GENERATE)


def _said(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def emit_fine_tuning_events(database: Database, owner: KeyOwner, folder: Path) -> None:
    """Make every event of fine-tuning jobs happen."""
    desk = TrainingDesk(database, owner, folder, TrackingSettings(mlflow_servers=("http://127.0.0.1:9",)))
    job_id = desk.start(integrations=(Integration("mlflow", {"experiment": "e"}),))
    desk.report(desk.training(), 1, step(1))
    held_out = desk.upload(jsonl(ROWS), NewFile("held_out.jsonl", Purpose.FINE_TUNE, "application/jsonl"))
    desk.caller = Team(database, owner).admin
    gate = Promotion("promoted", has_gate=True, maximum=1.2)
    desk.finish(desk.training(validation_file=held_out, promotion=gate), loss=1.5, base_loss=2.1)
    desk.report(job_id, 0, {"type": "invalid", "file": "training_file", "line": 3, "message": "it has 9000 tokens"})
