"""A platform in the test's process whose fine-tuning jobs are pods of the test cluster, in a namespace of their own.

Pods reach it by the cluster's host address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import func, select

from llmariner import __version__
from llmariner.boot import load
from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.job import FineTuningJob, NewFineTuningJob
from llmariner.models.model import Model, NewModel, SourceRepository, Task
from llmariner.models.weight_loads import load_weights
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.jobs.kubernetes.objects import JOB_LABEL
from llmariner.platform.kube.resources import JOBS, PODS, SECRETS, SERVICES, WORKLOADS
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.daemon import engine_environment
from llmariner.standalone.router import Router
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.usage.prices import TRAINING_ROUTE
from llmariner.usage.tables import ledger_requests

from ..other_tests import fault_injection as _faults
from ..other_tests import kubectl as _kubectl
from ..other_tests import overlay as _overlay
from ..other_tests import places as _places
from ..platform.jobs.cluster_jobs import jobs_on_cluster

__all__ = ["ENGINE", "PACKAGED", "WAYS", "TrainingPlatform", "packaged_weights", "tiny_weights", "training_platform"]

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGED = "smollm2-135m-instruct"
ENGINE = f"dev.local/llmariner/engine:{__version__}"
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Peru": "Lima",
    "Japan": "Tokyo",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Egypt": "Cairo",
    "Cuba": "Havana",
    "Austria": "Vienna",
    "Kenya": "Nairobi",
    "Chile": "Santiago",
    "Poland": "Warsaw",
}
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is the capital of {country}?"},
            {"role": "assistant", "content": f"Arrr! It be {city}, matey."},
        ]
    }
    for country, city in CAPITALS.items()
]
_EVENTS = 100
_GRACELESS = {"delete": (), "force": ("--grace-period=0", "--force")}
WAYS = (*_GRACELESS, "crash")
"""How a pod is killed: `delete`: as a drain does; `force`: without grace; `crash`: all its processes."""


class TrainingPlatform:
    """See the module. `model`: the base model of jobs, whose weights the claim `models` has at `weights`.

    `before_request` is called with the method and the path of each request of a pod, in a thread, before it is answered.
    """

    def __init__(self, context: Context, namespace: str, model: str, weights: str) -> None:
        self.context, self.namespace, self.model = context, namespace, model
        self.before_request: Callable[[str, str], None] = lambda method, path: None
        self.cluster = context.jobs._cluster  # type: ignore[attr-defined]
        upgrade(context.database)
        owner = ensure_first_owner(context.database)
        self.caller = Caller(owner.user_id, "", owner.organization_id, owner.project_id, None, "member", frozenset())
        self.owner = KeyOwner(owner.user_id, owner.project_id, owner.organization_id)
        context.registry.create(NewModel(model, SourceRepository.OBJECT_STORE, f"pvc://models/{weights}"))
        context.registry.mark_loaded(model, folder=f"pvc://models/{weights}", size_bytes=0, task=Task.GENERATE)
        self.file = self._upload()

    def _upload(self) -> str:
        content = "\n".join(map(json.dumps, ROWS)).encode()
        with self.context.files.receive(self.owner, purpose=None, size_bytes=0, limit_bytes=2**20) as incoming:
            incoming.write(content)
            new = NewFile("pirate.jsonl", Purpose.FINE_TUNE, "application/jsonl")
            return self.context.files.save(self.owner, new, incoming).id

    def create(self, workers: int = 1, *, epochs: int = 4, batch: int = 4, model: str = "", **fields: Any) -> str:
        """The id of a new job; all have the same seed. `model`: another base model."""
        numbers = RequestedHyperparameters(n_epochs=epochs, batch_size=batch)
        chosen: dict[str, Any] = {"hyperparameters": numbers, "seed": 7, "worker_count": workers, **fields}
        new = NewFineTuningJob(model or self.model, self.file, **chosen)
        return self.context.fine_tuning.jobs.create(self.caller, new).id

    def until(self, job_id: str, wanted: Callable[[FineTuningJob], bool], *, seconds: float = 400) -> FineTuningJob:
        """The job once it is as wanted; meanwhile its events are consumed."""
        limit = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Unavailable):  # an API server on a busy machine; the sweep asks again, too
                self.context.fine_tuning.reconciler.reconcile(job_id)
            job = self.context.fine_tuning.jobs.get(self.owner.project_id, job_id)
            self._load_result(job)
            if wanted(job):
                return job
            assert not job.status.is_final, job
            assert time.monotonic() < limit, job
            time.sleep(0.5)

    def _load_result(self, job: FineTuningJob) -> None:
        for model in self.context.registry.get_many([job.output_model]).values():
            if not model.loaded:
                self.load(model)

    def load(self, model: Model) -> None:
        """Load a model as the consumer of its event does, as far as it comes in one delivery."""
        event = Event(f"evt_{uuid.uuid4().hex}", "x", f"models/{model.id}", 1.0, {"id": model.id})
        load_weights(self.context.registry, self.context.weights, event)

    def losses(self, job_id: str) -> dict[int, float]:
        """By step."""
        return {each.step: float(each.data["train_loss"]) for each in self._events(job_id) if each.step is not None}

    def messages(self, job_id: str) -> list[str]:
        """Oldest first."""
        return [each.message for each in self._events(job_id) if each.step is None][::-1]

    def _events(self, job_id: str) -> list[Any]:
        """Newest first."""
        found: list[Any] = []
        more, after = True, None
        while more:
            part, more = self.context.fine_tuning.history.events(
                self.owner.project_id, job_id, after=after, limit=_EVENTS
            )
            found += part
            after = part[-1].id if part else None
        return found

    def charged(self, model: str) -> int:
        """Trained tokens in the ledger."""
        c = ledger_requests.c
        with self.context.database.read() as session:
            query = select(func.sum(c.trained_tokens)).where(c.route == TRAINING_ROUTE, c.model == model)
            return int(session.value(query) or 0)

    def pods(self, job_id: str) -> list[str]:
        """Names of the pods of a job's attempts that are not ending, in order."""
        found = self.cluster.list(PODS, self.namespace).items
        of_it = [each for each in found if each["metadata"]["labels"].get(JOB_LABEL, "").startswith(f"{job_id}-")]
        return sorted(each["metadata"]["name"] for each in of_it if "deletionTimestamp" not in each["metadata"])

    def kill(self, pod: str, way: str) -> None:
        """Kill a pod in one of `WAYS`, without waiting for its end."""
        if way == "crash":
            _faults.crash_pod(_places.chosen(), self.namespace, pod)
            return
        words = ("delete", "pod", pod, "-n", self.namespace, "--wait=false", "--ignore-not-found", *_GRACELESS[way])
        _kubectl.kubectl(_places.chosen(), *words)

    def kill_and_wait(self, pod: str, way: str, *, seconds: float) -> None:
        """Kill a pod in one of `WAYS`, and wait until its processes have ended."""
        left = _faults.processes_of_pod(_places.chosen(), self.namespace, pod)
        limit = time.monotonic() + seconds
        self.kill(pod, way)
        while left := [each for each in left if Path(f"/proc/{each}").exists()]:
            assert time.monotonic() < limit, left
            time.sleep(0.1)

    def objects(self) -> list[str]:
        """What jobs have in the cluster."""
        kinds = (JOBS, SECRETS, PODS, SERVICES, WORKLOADS)
        found = [(kind, each) for kind in kinds for each in self.cluster.list(kind, self.namespace).items]
        return [f"{kind.kind} {each['metadata']['name']}" for kind, each in found]

    def until_nothing_is_left(self, *job_ids: str, seconds: float = 60) -> None:
        """Wait until no job has any object in the cluster."""
        limit = time.monotonic() + seconds
        while left := self.objects():
            for each in job_ids:
                self.context.fine_tuning.reconciler.reconcile(each)
            assert time.monotonic() < limit, left
            time.sleep(0.5)


def packaged_weights() -> Path:
    """The folder of the packaged model; skips where it is not installed."""
    found = next(_overlay._folders()[_overlay.MODELS].glob(f"{PACKAGED}-*"), None)
    if found is None:
        pytest.skip(f"this machine has no weights of {PACKAGED}; `make up` installs them")
    return found


def tiny_weights(folder: Path) -> Path:
    """The folder of a tiny model of random weights with the packaged model's tokenizer: its training takes seconds."""
    weights = folder / "models" / "tiny-1"
    weights.parent.mkdir()
    python = engine_environment(StandaloneSettings.load(environment())).python
    script = CHECKOUT / "tests" / "training_program" / "tiny_model.py"
    subprocess.run([python, script, packaged_weights(), weights], check=True, timeout=300)
    (weights / "model.safetensors").chmod(0o644)  # pods have a user of their own
    return weights


@contextlib.contextmanager
def training_platform(
    folder: Path, weights: Path, *, memory_gib: float, pool: str, **settings: str
) -> Iterator[TrainingPlatform]:
    """Run it for the block. `folder`: for its files; `weights`: of the base model, in the folder NAME-VERSION.

    `memory_gib`: of a worker; `pool`: memory of all jobs, of which two run at a time. `settings`: more of the platform's.
    """
    with jobs_on_cluster({}, memory=pool) as jobs:
        lab, namespace = _places.chosen(), jobs._settings.namespace
        folders = {**_overlay._folders(), _overlay.MODELS: weights.parent}
        volumes = [each for name, path in folders.items() for each in _overlay._volume(name, path, namespace)]
        _kubectl.apply(lab, volumes)
        _kubectl.kubectl(lab, "apply", "-f", CHECKOUT / "manifests/components/kueue/priorities/priorities.yaml")
        config = uvicorn.Config(_later, host=lab.host_address, port=0, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        variables = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_OBJECTS": "folder",
            "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
            "LLMARINER_JOBS": "kubernetes",
            "LLMARINER_JOBS_NAMESPACE": namespace,
            "LLMARINER_QUEUE": "cpu",
            "LLMARINER_JOB_IMAGES": f"python={ENGINE}",
            "LLMARINER_JOB_MEMORY_GIB": str(memory_gib),
            "LLMARINER_JOB_CPU": "450m",
            "LLMARINER_TRAINING_IMAGE": ENGINE,
            "LLMARINER_TRAINING_VOLUMES": _overlay._mounts(),
            "LLMARINER_KUBECONFIG": str(lab.kubeconfig),
            "LLMARINER_INFERENCE_URL": f"http://{lab.host_address}:{socket.getsockname()[1]}",
            **settings,
        }
        context = Context(variables)
        made = TrainingPlatform(context, namespace, weights.name.rpartition("-")[0], weights.name)
        adapters = load(CHECKOUT / "functions/fine_tuning_adapters")
        adapters.use_context(context)
        _served.extend([Router(CHECKOUT / "functions", context), adapters, made])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join(20)
            _kubectl.kubectl(lab, "delete", "--wait=false", *_volumes_of(volumes))
            _served.clear()
            context.database.close()


def _volumes_of(objects: list[dict[str, Any]]) -> list[str]:
    """Those that no namespace takes with it."""
    return [f"pv/{each['metadata']['name']}" for each in objects if each["kind"] == "PersistentVolume"]


_served: list[Any] = []


async def _later(scope: Any, receive: Any, send: Any) -> None:
    """The router, which is made when the address is known, and the function that it does not serve."""
    router, adapters, platform = _served
    await asyncio.to_thread(platform.before_request, scope["method"], scope["path"])
    await (adapters if scope["path"].startswith("/v1/fine_tuning/adapters/") else router)(scope, receive, send)
