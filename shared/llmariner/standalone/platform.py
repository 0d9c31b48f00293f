"""Assembles the standalone platform: folders, secrets, database, engines, functions, timer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmariner.boot import load
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.machine import machine_inventory
from llmariner.context import Context
from llmariner.errors import PlatformError
from llmariner.job_settings import JobSettings
from llmariner.models.formats import read_json
from llmariner.models.inspection import folder_traits
from llmariner.models.model import ActivationStatus, Model, NewModel, SourceRepository, Task
from llmariner.models.placed_serving import placed_serving
from llmariner.models.queries import ModelSelector
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.models.source_credentials import SourceCredential
from llmariner.models.traits import ModelTraits
from llmariner.platform.database.schema import schema_mismatch
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.notebooks.local_processes import ProcessNotebooks
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.command_line import engine_environment
from llmariner.platform.serving.local_processes.launcher_client import kill_orphans
from llmariner.platform.serving.local_processes.settings import ProcessSettings
from llmariner.platform.serving.local_processes.sockets import remove_stale_folders
from llmariner.platform.serving.log_files import rotate
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.quotas.rules import ProjectRules
from llmariner.settings import (
    Environment,
    ModelSettings,
    S3Settings,
    SecretSettings,
    ServingSettings,
    StandaloneSettings,
)
from llmariner.showback.allocations import Allocations
from llmariner.showback.gpu_exporter import GpuExporter
from llmariner.showback.machine_use import add_core_seconds
from llmariner.showback.recorder import AllocationRecorder
from llmariner.standalone.capacity import MachineCapacity
from llmariner.standalone.dispatcher import Dispatcher, delivery_timeouts, subscriptions
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel
from llmariner.standalone.engine.tool_model import TRAINING_MILLICORES
from llmariner.standalone.engine_states import engine_states
from llmariner.standalone.jobs import EngineMemory, job_amounts, make_jobs
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.standalone.notebooks import make_notebooks
from llmariner.standalone.router import Router
from llmariner.standalone.weights import VOLUME_SCHEME, LocalWeights
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

__all__ = ["HomeFolder", "StandalonePlatform", "checkout_root", "write_private"]

_log = logging.getLogger(__name__)
_MILVUS_LOG = "milvus-lite.log"
_TICK_SECONDS = 30
_TICK = "ai.llmariner.platform.tick.v1"


def checkout_root() -> Path:
    """The folder with functions/ and eventing/: the package is installed in place from a checkout."""
    return Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class HomeFolder:
    """Paths below the home folder."""

    root: Path

    @property
    def logs(self) -> Path:
        """Folder of the logs of platform, launcher and engines."""
        return self.root / "logs"

    @property
    def engines(self) -> Path:
        """Folder of the engines' sockets."""
        return self.root / "engines"

    @property
    def vectors(self) -> Path:
        """Folder of the vector index."""
        return self.root / "vectors"

    @property
    def admin_key(self) -> Path:
        """File with the administrator's API key, which `llma` reads; the database has only its hash."""
        return self.root / "admin.key"

    def environment(self, env: Environment) -> dict[str, str]:
        """The environment of the functions: `env` with this home's database and secrets."""
        return {
            **env,
            "LLMARINER_DATABASE_URL": env.get("LLMARINER_DATABASE_URL")
            or f"sqlite:///{quote(str(self.root / 'platform.db'))}",
            "LLMARINER_OBJECTS_FOLDER": env.get("LLMARINER_OBJECTS_FOLDER") or str(self.root / "objects"),
            "LLMARINER_PEPPER_FILE": str(self.root / "pepper"),
            "LLMARINER_SERVICE_SECRET_FILE": str(self.root / "service-secret"),
            # May be those of a cluster in a developer's shell: events and calls would go there.
            "LLMARINER_BROKER_URL": "",
            "LLMARINER_CONTROL_URL": "",
            "LLMARINER_SERVING": "processes",
        }

    def create(self) -> None:
        """Create missing folders and secrets, readable by their owner only. Idempotent."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for name in ("pepper", "service-secret"):
            if not (self.root / name).exists():
                write_private(self.root / name, SecretSettings.generate())


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only."""
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _served_here(model: EngineModel) -> EngineModel:
    """A model as this machine's engines need it: weights that worker clusters alone have start none."""
    may_run_here = not model.allowed_clusters or LOCAL_CLUSTER_ID in model.allowed_clusters
    if model.folder.startswith(VOLUME_SCHEME) and may_run_here and not model.blocked:
        why = f"Its weights are in a volume of worker clusters: allow those alone, without '{LOCAL_CLUSTER_ID}'."
        return replace(model, blocked=why)
    return model


class StandalonePlatform:
    """The platform of one machine in one process: call `prepare`, `start`, serve the returned router, `stop`."""

    def __init__(self, settings: StandaloneSettings, env: Environment, environment: EngineEnvironment) -> None:
        self.folder = HomeFolder(settings.root)
        self._cache = settings.cache
        self._engines = environment
        self.folder.create()
        # Background work calls the token path of this process.
        self.context = Context({**self.folder.environment(env), "LLMARINER_INFERENCE_URL": settings.base_url})
        self._serving_settings = ServingSettings.load(env)
        self._job_settings = JobSettings.load(env)
        self.jobs: ProcessJobs | None = None
        self._url = settings.base_url
        self._gpu_exporter = settings.gpu_exporter
        self._notebooks: ProcessNotebooks | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._dispatcher: Dispatcher | None = None
        self.serving: ProcessServing | None = None
        self._allocations: AllocationRecorder | None = None
        self._weights = LocalWeights(
            self.folder.root / "models",
            environment,
            self._read_file,
            ModelSettings.load(env),
            S3Settings.load(env),
            credential_of=self._credential_of,
        )
        self._milvus_lite = MilvusLiteProcess(self.folder.vectors, self.folder.logs / _MILVUS_LOG)
        if not env.get("LLMARINER_MILVUS_URI"):
            self.context.vectors = MilvusIndex(self._milvus_lite.settings)

    def prepare(self) -> str | None:
        """Migrate the database, create the first administrator, register packaged models. Idempotent.

        Returns the administrator's API key if it was just created. Raises ValueError for a database of a later release.
        """
        if found := schema_mismatch(self.context.database):
            if not found.upgradable:
                raise ValueError(found.reason)
            from llmariner.platform.database.migrate import upgrade

            upgrade(self.context.database)
        owner = ensure_first_owner(self.context.database)
        # Only this process writes to the ledger: entries that are open at its start were interrupted.
        self.context.ledger.interrupt(unseen_for=0)
        for model in PACKAGED:
            if model.folder(self._cache).is_dir():
                self._register(model)
        if self.folder.admin_key.exists():
            return None
        number = len(self.context.keys.of_project(owner))
        _, secret = create_bootstrap_key(self.context.keys, owner, "admin" if number == 0 else f"admin-{number}")
        write_private(self.folder.admin_key, secret)
        return secret

    async def start(self) -> Router:
        """Start launcher, functions, dispatcher and timer; returns the application. Wakes models that are active."""
        kill_orphans(self.folder.logs)
        remove_stale_folders(self.folder.engines)
        self._allocations = self._make_recorder()
        self.serving = self._process_serving(self._allocations)
        self.context.serving = placed_serving(self.context, self.serving)
        self.context.weights = self._weights
        self._weights.memory = EngineMemory(self.serving, asyncio.get_running_loop(), TRAINING_MILLICORES)
        self.context.serving.subscribe(lambda model_id, _: self.context.gateway.invalidate(model_id))
        self._start_jobs()
        home = self.folder.root
        self._notebooks = make_notebooks(self.context, self.serving, home=home, cache=self._cache, url=self._url)
        self.context.notebooks.servers = self._notebooks
        root = checkout_root()
        router = Router(root / "functions", self.context)
        self._dispatcher = self._make_dispatcher(root / "eventing")
        self.serving.warm_up()
        self._tasks = [asyncio.create_task(self._dispatcher.run()), asyncio.create_task(self._run_timer())]
        # Rows may say that jobs run which ended with an earlier process.
        self._tasks.append(asyncio.create_task(asyncio.to_thread(self._reconcile_jobs)))
        await self._wake_active()
        return router

    async def stop(self) -> None:
        """Stop everything in order: events, token path, engines, vector index, database."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._dispatcher is not None:
            await self._dispatcher.close()
        self._weights.close()
        if self.jobs is not None:
            await asyncio.to_thread(self.jobs.close)
        if self._notebooks is not None:
            await asyncio.to_thread(self._notebooks.close)
        await self.context.gateway.close()
        if self.serving is not None:
            await self.context.serving.close()
        if self._allocations is not None:
            await asyncio.to_thread(self._allocations.close)
        await asyncio.to_thread(self._milvus_lite.close)
        self.context.database.close()

    def _register(self, packaged: PackagedModel) -> None:
        registry = self.context.registry
        with contextlib.suppress(PlatformError):  # it is registered already
            registry.create(
                NewModel(
                    id=packaged.id,
                    source_repository=SourceRepository.LOCAL,
                    model_file_location=str(packaged.folder(self._cache)),
                    task=Task(packaged.task),
                )
            )
        folder = packaged.folder(self._cache)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        found = registry.get(packaged.id)
        if not found.approved and found.model_file_location == str(folder) and not found.config.extra_args:
            registry.approve(packaged.id)  # an earlier release created it
        if found.folder != str(folder) or found.traits == ModelTraits():
            traits = folder_traits(folder, read_json(folder / "config.json"))
            task = Task(packaged.task)
            registry.mark_loaded(packaged.id, folder=str(folder), size_bytes=size, task=task, traits=traits)

    def _make_recorder(self) -> AllocationRecorder:
        database = self.context.database
        exporter = GpuExporter(self._gpu_exporter, database) if self._gpu_exporter else None
        return AllocationRecorder(
            Allocations(database),
            take_times=lambda: {} if self.serving is None else self.serving.times.take(),
            add_times=partial(add_core_seconds, database),
            look=exporter.look if exporter is not None else lambda: None,
        )

    def _process_serving(self, allocations: AllocationRecorder) -> ProcessServing:
        settings = self._serving_settings
        environment = {**engine_environment(settings.threads), "VLLM_CACHE_ROOT": str(self._engines.vllm_cache)}
        process_settings = ProcessSettings(
            python=self._engines.python,
            logs=self.folder.logs,
            environment=environment,
            budget=settings.memory_bytes,
            idle_seconds=settings.idle_seconds,
            warm=settings.warm,
        )
        lookup = RegistryModelLookup(self.context.registry, self.context.ledger)
        rules = ProjectRules(self.context.database)

        async def find(model_id: str) -> EngineModel:
            return _served_here(await lookup.find(model_id))

        return ProcessServing(process_settings, find, lookup.record_wake, rules.of, allocations.record)

    def _read_file(self, project_id: str, file_id: str) -> Iterator[bytes]:
        return self.context.files.read(self.context.files.get(project_id, file_id))

    def _credential_of(self, model: Model) -> SourceCredential | None:
        return self.context.source_credentials.of_model(model)

    def _start_jobs(self) -> None:
        assert self.serving is not None
        amounts, loop = job_amounts(self._job_settings, self.serving), asyncio.get_running_loop()
        self.context.capacity = MachineCapacity(self.serving, loop, self._waiting_jobs, amounts)
        self.context.clusters.machine = partial(machine_inventory, self.context.capacity)
        self.context.clusters.engines = partial(engine_states, self.serving, loop, self.folder.logs)
        if self._job_settings.adapter == "off":
            return
        home, python = self.folder.root, self._engines.python
        self.jobs = make_jobs(self.context, self._job_settings, self.serving, home=home, python=python)
        self.jobs.start()
        self.context.jobs = self.jobs

    def _waiting_jobs(self) -> Mapping[str, int]:
        return {} if self.jobs is None else self.jobs.waiting_by_project()

    def _make_dispatcher(self, eventing: Path) -> Dispatcher:
        consumers: Any = {}
        for folder in sorted(path.parent for path in eventing.glob("*/trigger.yaml")):
            consumers[folder.name] = load(folder)
            consumers[folder.name].use_context(self.context)
        deliveries = Deliveries(self.context.database, subscriptions(eventing))
        return Dispatcher(deliveries, consumers, delivery_timeouts(eventing))

    async def _run_timer(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                await asyncio.to_thread(self._write_tick)
            except Exception:  # no error may stop the timer
                _log.exception("no tick")

    def _reconcile_jobs(self) -> None:
        try:
            self.context.batch_job_reconciler.reconcile_all(seconds=_TICK_SECONDS)
            self.context.fine_tuning.reconciler.reconcile_all(seconds=_TICK_SECONDS)
            self.context.notebooks.reconciler.reconcile_all(seconds=_TICK_SECONDS)
        except Exception:  # the sweep does it again
            _log.exception("jobs were not reconciled")

    def _write_tick(self) -> None:
        for name in ("platform.log", "launcher.log", _MILVUS_LOG):
            rotate(self.folder.logs / name)
        with self.context.database.write() as session:
            outbox.add(session, _TICK, "platform", {"every_seconds": _TICK_SECONDS})

    async def _wake_active(self) -> None:
        assert self.serving is not None
        page = await asyncio.to_thread(
            self.context.registry.page, ModelSelector(None, include_loading=False), after=None, limit=500
        )
        for model in page:
            if model.activation_status is ActivationStatus.ACTIVE:
                await self.context.serving.wake(model.id)
