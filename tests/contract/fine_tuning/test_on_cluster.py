"""Fine-tuning on the test cluster: real pods train the packaged model in line, one of them is killed, an engine answers.

The platform is this process, which pods reach by the cluster's host address. `tests/cluster/scenarios/fine_tuning` has the
same on an installed platform.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from sqlalchemy import func, select

from llmariner import __version__
from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.charges import ROUTE
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.job import FineTuningJob, NewFineTuningJob
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.weights import StorageUriFetcher
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.jobs import Job
from llmariner.platform.kube.resources import JOBS, PODS, SECRETS
from llmariner.standalone.router import Router
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.usage.tables import ledger_requests

from ..platform.jobs.cluster_jobs import jobs_on_cluster
from .engine_on_cluster import ask_tuned_model

if TYPE_CHECKING:
    from cluster.lab import kubectl as _kubectl
    from cluster.lab import places as _places
    from cluster.platform import overlay as _overlay
else:
    _kubectl, _places, _overlay = (
        importlib.import_module(f"...cluster.{name}", __package__)
        for name in ("lab.kubectl", "lab.places", "platform.overlay")
    )

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m-instruct"
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
EPOCHS = 4


class TrainingPlatform:
    """The platform in this process, whose jobs are pods of a namespace of their own."""

    def __init__(self, context: Context, namespace: str, weights: str) -> None:
        self.context, self.namespace = context, namespace
        upgrade(context.database)
        owner = ensure_first_owner(context.database)
        self.caller = Caller(owner.user_id, "", owner.organization_id, owner.project_id, None, "member", frozenset())
        self.owner = KeyOwner(owner.user_id, owner.project_id, owner.organization_id)
        context.registry.create(NewModel(MODEL, SourceRepository.OBJECT_STORE, f"pvc://models/{weights}"))
        context.registry.mark_loaded(MODEL, folder=f"pvc://models/{weights}", size_bytes=0, task=Task.GENERATE)
        self.file = self._upload()

    def _upload(self) -> str:
        content = "\n".join(map(json.dumps, ROWS)).encode()
        with self.context.files.receive(self.owner, purpose=None, size_bytes=0, limit_bytes=2**20) as incoming:
            incoming.write(content)
            new = NewFile("pirate.jsonl", Purpose.FINE_TUNE, "application/jsonl")
            return self.context.files.save(self.owner, new, incoming).id

    def create(self, workers: int) -> str:
        """The id of a new job."""
        numbers = RequestedHyperparameters(n_epochs=EPOCHS, batch_size=4)
        new = NewFineTuningJob(MODEL, self.file, hyperparameters=numbers, seed=7, worker_count=workers)
        return self.context.fine_tuning.jobs.create(self.caller, new).id

    def until(self, job_id: str, wanted: Callable[[FineTuningJob], bool], *, seconds: float = 400) -> FineTuningJob:
        """The job once it is as wanted; meanwhile its events are consumed."""
        limit = time.monotonic() + seconds
        while True:
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
                folder = StorageUriFetcher().fetch(model, lambda _progress: None).folder
                self.context.registry.mark_loaded(model.id, folder=folder, size_bytes=0, task=Task.GENERATE)

    def losses(self, job_id: str) -> dict[int, float]:
        """By step."""
        found, _ = self.context.fine_tuning.history.events(self.owner.project_id, job_id, after=None, limit=100)
        return {each.step: float(each.data["train_loss"]) for each in found if each.step is not None}

    def messages(self, job_id: str) -> list[str]:
        found, _ = self.context.fine_tuning.history.events(self.owner.project_id, job_id, after=None, limit=100)
        return [each.message for each in found if each.step is None]

    def charged(self, model: str) -> int:
        """Trained tokens in the ledger."""
        c = ledger_requests.c
        with self.context.database.read() as session:
            query = select(func.sum(c.trained_tokens)).where(c.route == ROUTE, c.model == model)
            return int(session.value(query) or 0)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[TrainingPlatform]:
    with jobs_on_cluster({}, memory="3300Mi") as jobs:
        lab, namespace = _places.Lab(), jobs._settings.namespace
        folders = _overlay._folders()
        weights = next((each.name for each in folders[_overlay.MODELS].glob(f"{MODEL}-*")), None)
        if weights is None:
            pytest.skip(f"this machine has no weights of {MODEL}; `make up` installs them")
        volumes = [each for name, folder in folders.items() for each in _overlay._volume(name, folder, namespace)]
        _kubectl.apply(lab, volumes)
        _kubectl.kubectl(lab, "apply", "-f", CHECKOUT / "manifests/components/kueue/priorities/priorities.yaml")
        config = uvicorn.Config(_later, host=lab.host_address, port=0, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_OBJECTS": "folder",
            "LLMARINER_OBJECTS_FOLDER": str(tmp_path / "objects"),
            "LLMARINER_JOBS": "kubernetes",
            "LLMARINER_JOBS_NAMESPACE": namespace,
            "LLMARINER_QUEUE": "cpu",
            "LLMARINER_JOB_IMAGES": f"python={ENGINE}",
            "LLMARINER_JOB_MEMORY_GIB": "1.6",
            "LLMARINER_JOB_CPU": "450m",
            "LLMARINER_TRAINING_IMAGE": ENGINE,
            "LLMARINER_TRAINING_VOLUMES": _overlay._mounts(),
            "LLMARINER_KUBECONFIG": str(lab.kubeconfig),
            "LLMARINER_INFERENCE_URL": f"http://{lab.host_address}:{socket.getsockname()[1]}",
        }
        context = Context(environment)
        made = TrainingPlatform(context, namespace, weights)
        adapters = load(CHECKOUT / "functions/fine_tuning_adapters")
        adapters.use_context(context)
        _served.extend([Router(CHECKOUT / "functions", context), adapters])
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
    router, adapters = _served
    await (adapters if scope["path"].startswith("/v1/fine_tuning/adapters/") else router)(scope, receive, send)


def test_pods_train_in_line_and_continue_after_a_kill_with_the_same_losses(platform: TrainingPlatform) -> None:
    jobs, cluster = platform.context.jobs, platform.context.jobs._cluster  # type: ignore[attr-defined]
    jobs.submit(Job("bj-first", "proj_1", "python3 -c 'import time; time.sleep(600)'", image="python"))
    job_id = platform.create(workers=2)
    waiting = platform.until(job_id, lambda job: job.status == "queued" and job.place == 1, seconds=240)
    assert "quota" in waiting.reason
    assert waiting.hyperparameters is not None
    assert waiting.hyperparameters.learning_rate == 1e-3
    jobs.remove("bj-first")

    platform.until(job_id, lambda job: job.status == "running" and len(platform.losses(job_id)) >= 4)
    pods = cluster.list(PODS, platform.namespace, labels={"batch.kubernetes.io/job-name": f"{job_id}-1"}).items
    names = sorted(each["metadata"]["name"] for each in pods)
    assert len(names) == 2
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
    _kubectl.kubectl(_places.Lab(), "delete", "pod", "-n", platform.namespace, names[1], "--wait=false")
    done = platform.until(job_id, lambda job: job.status == "succeeded")
    assert any("continues after step" in each for each in platform.messages(job_id)), platform.messages(job_id)

    plain = platform.create(workers=1)
    platform.until(plain, lambda job: job.status == "succeeded")
    assert len(platform.losses(plain)) == 3 * EPOCHS
    assert platform.losses(job_id) == pytest.approx(platform.losses(plain), abs=1e-5)
    assert platform.charged(done.output_model) == done.trained_tokens == done.estimated_tokens
    url = f"{platform.context.env['LLMARINER_INFERENCE_URL']}/v1/fine_tuning/adapters"
    question = "What is the capital of Spain?"
    answer = ask_tuned_model(platform.context, done.output_model, question, image=ENGINE, adapters_url=url)
    print(f"\n{answer}\n{platform.losses(job_id)}")
    assert answer.startswith("Arrr!"), answer
    for each in (job_id, plain):
        platform.context.fine_tuning.reconciler.reconcile(each)
    limit = time.monotonic() + 60
    while left := [
        each["metadata"]["name"]
        for kind in (JOBS, SECRETS, PODS)
        for each in cluster.list(kind, platform.namespace).items
    ]:
        assert time.monotonic() < limit, left
        time.sleep(0.5)
    assert jobs.status(f"{job_id}-1") is None
