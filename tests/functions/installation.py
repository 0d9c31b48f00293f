"""The installation of a test session: database, secrets, keys, models and an engine, in environment variables."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update

from llmariner.batch_jobs.tables import batch_jobs
from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.external_objects import ExternalObjects
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.tables import api_keys, organization_users, organizations, project_users, projects, users

from .planned_capacity import PlannedCapacity
from .processes import CHECKOUT
from .queued_jobs import QueuedJobs
from .queued_notebooks import QueuedServers
from .training_jobs import GRADER, training_job
from .tuned_models import token_of, tuned_model

__all__ = ["SERVICE_SECRET", "Installation", "IssuedKeys", "every_bucket"]

_PEPPER = "0123456789abcdef" * 4
SERVICE_SECRET = "fedcba9876543210" * 4


@dataclass(frozen=True)
class IssuedKeys:
    """Secrets of keys: one with all scopes, one without scopes, one of another organization, three invalid ones."""

    admin: str
    scopeless: str
    outsider: str
    expired: str
    revoked: str
    superseded: str


def every_bucket(folder: Path) -> ExternalObjects:
    """The bucket `walk`, which every project may name: a folder of that name."""
    return ExternalObjects(["s3://walk/"], lambda bucket: FolderObjects(folder / bucket))


class Installation:
    """The environment of functions, and their applications in this process."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": _PEPPER,
            "LLMARINER_SERVICE_SECRET": SERVICE_SECRET,
            "LLMARINER_SERVING": "static",
            "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
            # Nothing listens there.
            "LLMARINER_MILVUS_URI": "http://127.0.0.1:9",
            "LLMARINER_MLFLOW_SERVERS": "http://127.0.0.1:9",
            "LLMARINER_WANDB_SERVER": "http://127.0.0.1:9",
            # The tests use many invalid keys from one address.
            "LLMARINER_UNKNOWN_KEYS_PER_MINUTE": "1000000",
            # So do those that make every object for every caller.
            "LLMARINER_PROJECT_NOTEBOOKS": "1000",
            "LLMARINER_SERVING_STATIC": f'{{"tiny": "{engine}", "vectors": "{engine}"}}',
        }
        self.context = Context(self.environment)
        self.jobs = self.context.jobs = QueuedJobs()
        self.context.notebooks.servers = QueuedServers()
        self.capacity = self.context.capacity = PlannedCapacity()
        self.context.external_objects = every_bucket(folder / "external")
        upgrade(self.context.database)
        self.owner = ensure_first_owner(self.context.database)
        self.keys = self._make_keys()
        for name, task in (("tiny", Task.GENERATE), ("vectors", Task.EMBED)):
            self.register(name, task=task)
        self.register("theirs", project_id="proj_2")
        self._applications: dict[str, Any] = {}
        self._tokens = ServiceTokens(SERVICE_SECRET, issuer="function", audience="internal_gateway")

    def token_path(self, control: str) -> dict[str, str]:
        """The environment of a function on the token path, without database and engines."""
        said = {name: self.environment[name] for name in ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET")}
        return {**said, "LLMARINER_CONTROL_URL": control}

    def application(self, name: str) -> Any:
        """The application of one function in this process."""
        if name not in self._applications:
            application = self._applications[name] = load(CHECKOUT / "functions" / name)
            application.use_context(self.context)
        return self._applications[name]

    def register(self, name: str, *, task: Task = Task.GENERATE, project_id: str | None = None) -> None:
        """Register a model whose weights are loaded."""
        location = f"/weights/{name}"
        self.context.registry.create(NewModel(name, SourceRepository.LOCAL, location, project_id=project_id))
        self.context.registry.mark_loaded(name, folder=location, size_bytes=1, task=task)

    @property
    def service_token(self) -> str:
        """A token of a function on the token path for the control plane, valid for at least half a minute."""
        return self._tokens.token()

    def credential(self, function: str) -> str:
        """What a function takes from a caller with every right: the administrator's key, or a token of another kind."""
        if function == "internal_gateway":
            return self.service_token
        if function == "fine_tuning_adapters":
            return self.adapter_token
        if function == "clusters_agent":
            return self.registration_key
        if function == "batch_jobs_results":
            return self.job_token
        return self.worker_token if function == "fine_tuning_workers" else self.keys.admin

    @cached_property
    def registration_key(self) -> str:
        """The key of the agent of a cluster of the administrator's."""
        admin = self.context.authenticator.authenticate(self.keys.admin)
        assert admin is not None
        return self.context.clusters.store.register(admin, "walked")[1]

    @cached_property
    def adapter_token(self) -> str:
        """The token of the engine of a tuned model of the administrator's project."""
        self.register("tuned-base")
        model = tuned_model(self.context, self.owner, "ft:tuned-base:x", "tuned-base")
        return token_of(self.context, model)

    @cached_property
    def worker_token(self) -> str:
        """The token of the process of a fine-tuning job of the administrator's, `ftjob-worker`, which trains."""
        with self.context.database.write() as session:
            session.add(
                fine_tuning_jobs,
                **training_job("ftjob-worker", self.owner),
                grader=json.dumps(GRADER),
                grades_left=10_000,
            )
            job = session.first(select(fine_tuning_jobs).where(fine_tuning_jobs.c.id == "ftjob-worker"))
        assert job is not None
        return self.context.fine_tuning.worker_tokens.issue(job)

    @property
    def job_token(self) -> str:
        """The token of the pod of a batch job of the administrator's, `bj-pod`, which runs."""
        lists = {"script_names": "[]", "data_files": "[]"}
        texts = {"image": "pytorch-2.1", "command": "true", "envs": "{}", "scripts": "{}", "environment": "A pod."}
        place = {"organization_id": self.owner.organization_id, "project_id": self.owner.project_id}
        maker = {"user_id": self.owner.user_id, **place}
        with self.context.database.write() as session:
            # A sweep of another test ends it: nothing runs it.
            session.run(delete(batch_jobs).where(batch_jobs.c.id == "bj-pod"))
            session.add(batch_jobs, id="bj-pod", **maker, **lists, **texts, status="running", created_at=1)
        return self.context.batch_job_tokens.issue("bj-pod")

    @cached_property
    def spare_project(self) -> str:
        """The id of a project of the administrator's organization that tests may change."""
        with self.context.database.write() as session:
            row = {"id": "proj_spare", "organization_id": self.owner.organization_id, "title": "Spare"}
            session.add(projects, **row, is_default=False, created_at=1)
        return "proj_spare"

    @cached_property
    def outsider(self) -> KeyOwner:
        """The owner of keys in another organization."""
        with self.context.database.write() as session:
            session.add(users, id="user_2", email="eve@example.org", created_at=1)
            session.add(organizations, id="org_2", title="Others", is_default=False, created_at=1)
            row = {"id": "proj_2", "organization_id": "org_2", "title": "Theirs"}
            session.add(projects, **row, is_default=False, created_at=1)
            joined = {"user_id": "user_2", "organization_id": "org_2", "role": "owner", "created_at": 1}
            session.add(organization_users, **joined)
            session.add(project_users, project_id="proj_2", **joined)
        return KeyOwner("user_2", "proj_2", "org_2")

    def _make_keys(self) -> IssuedKeys:
        keys = self.context.keys
        _, admin = create_bootstrap_key(keys, self.owner, "admin")
        _, scopeless = keys.create(self.owner, NewKey("scopeless", frozenset()))
        _, outsider = create_bootstrap_key(keys, self.outsider, "theirs")
        expired_key, expired = create_bootstrap_key(keys, self.owner, "expired")
        rotated, superseded = create_bootstrap_key(keys, self.owner, "rotated")
        keys.rotate(self.owner, rotated.id, overlap=60)
        revoked_key, revoked = create_bootstrap_key(keys, self.owner, "revoked")
        keys.revoke(self.owner, revoked_key.id)
        past = int(time.time()) - 60
        with self.context.database.write() as session:  # moves the expiry into the past
            session.run(update(api_keys).where(api_keys.c.id == expired_key.id).values(expires_at=past))
            session.run(update(api_keys).where(api_keys.c.id == rotated.id).values(previous_expires_at=past))
        return IssuedKeys(admin, scopeless, outsider, expired, revoked, superseded)
