"""On the test cluster, all weights of the packaged model are trained by a pod, and an engine answers from the result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.models.model import Model, NewModel, SourceRepository

from ..models.copy_store import BUCKET, copy_store, fetched_by_us, reached_by_pods
from ..other_tests import kubectl as _kubectl
from ..other_tests import model_server as _server
from ..other_tests import places as _places
from ..platform.objects import radosgw
from .engine_on_cluster import ask_model, engine_namespace
from .training_on_cluster import TrainingPlatform, packaged_weights, training_platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

COPIED, REPOSITORY = "copied-smollm2", "tests/smollm2"
# Six steps are enough for the answer. A second epoch would wait for the state after the first one to be sent.
EPOCHS, BATCH, RATE = 1, 2, 3.0
QUESTION = "What is the capital of Spain?"
SECONDS = 1800.0
DISK_BYTES = 10 << 30
"""The state of a training that lasts for more than five minutes has 1.6 GB, and is there in parts and whole."""
Body = dict[str, Any]


@pytest.fixture
def gateway() -> Iterator[radosgw.Gateway]:
    with copy_store(DISK_BYTES) as made:
        yield made


@pytest.fixture
def platform(gateway: radosgw.Gateway, tmp_path: Path) -> Iterator[TrainingPlatform]:
    """With the copy of a model in the store, which pods reach by presigned URLs. Its hub is gone."""
    folder = packaged_weights()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with ExitStack() as stack:
        hub = stack.enter_context(_server.running_server())
        settings = {
            "HF_ENDPOINT": hub.url,
            "LLMARINER_MODEL_COPIES": "1",
            "LLMARINER_OBJECTS": "s3",
            "LLMARINER_S3_BUCKET": BUCKET,
            "LLMARINER_S3_ENDPOINT": gateway.http,
            "LLMARINER_S3_PUBLIC_ENDPOINT": stack.enter_context(reached_by_pods(gateway)),
            "LLMARINER_S3_PRESIGNED_SECONDS": "60",
            "LLMARINER_S3_ACCESS_KEY": gateway.access_key,
            "LLMARINER_S3_SECRET_KEY": gateway.secret_key,
            "LLMARINER_JOB_CPU": "1",
            "LLMARINER_JOB_DISK_GIB": "8",
        }
        made = stack.enter_context(training_platform(tmp_path, folder, memory_gib=3.2, pool="3300Mi", **settings))
        hub.repositories = {REPOSITORY: files}
        model = made.context.registry.create(NewModel(COPIED, SourceRepository.HUGGING_FACE, REPOSITORY))
        copied(made, model)
        hub.repositories = {}
        yield made


def copied(platform: TrainingPlatform, model: Model) -> None:
    """Load a model to its end."""
    limit = time.monotonic() + SECONDS
    while not platform.context.registry.get(model.id).loaded:
        assert time.monotonic() < limit
        platform.load(model)


def test_an_engine_answers_from_the_whole_model_that_a_pod_trained(
    platform: TrainingPlatform, gateway: radosgw.Gateway
) -> None:
    began = time.monotonic()
    numbers = RequestedHyperparameters(n_epochs=EPOCHS, batch_size=BATCH, learning_rate_multiplier=RATE)
    job_id = platform.create(model=COPIED, training_type="full", hyperparameters=numbers)
    done = platform.until(job_id, lambda job: job.status == "succeeded", seconds=SECONDS)
    print(f"\ntrained and copied in {time.monotonic() - began:.0f} s: {platform.losses(job_id)}")
    assert platform.charged(done.output_model) == done.trained_tokens == done.estimated_tokens
    model = platform.context.registry.get(done.output_model, project_id=platform.owner.project_id)
    assert model.folder.startswith("model-copy://")
    platform.context.registry.delete(COPIED, project_id=None)  # it needs no base
    pods: list[Body] = []
    began = time.monotonic()
    with engine_namespace() as namespace, fetched_by_us(gateway, namespace):

        def look() -> None:
            pods.extend(_kubectl.get(_places.chosen(), "pods", "-n", namespace)["items"])

        answer = ask_model(platform.context, done.output_model, QUESTION, namespace, seen=look)
    [pod] = pods
    megabytes, seconds = model.size_bytes / 1e6, fetched_in(pod)
    print(f"{answer!r} after {time.monotonic() - began:.0f} s; {megabytes:.0f} MB were fetched in {seconds:.0f} s")
    assert answer.startswith("Arrr!"), answer
    platform.until_nothing_is_left(job_id)


def fetched_in(pod: Body) -> float:
    """Seconds that the container took which fetches the model."""
    statuses = pod["status"]["initContainerStatuses"]
    [ended] = (each["state"]["terminated"] for each in statuses if each["name"] == "storage-initializer")
    first, last = (datetime.fromisoformat(ended[name]) for name in ("startedAt", "finishedAt"))
    return (last - first).total_seconds()
