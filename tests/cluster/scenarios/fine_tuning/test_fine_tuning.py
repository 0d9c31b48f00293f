"""A file becomes a tuned model that answers: in line for the pool, by two pods of which one is killed, without a loss."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from llmariner.manifests.installation import JOBS_NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..documents.stores import NoGateway, platform_with_stores, running_stores
from ..jobs import test_jobs as batch_jobs
from ..platform_client import PlatformClient
from .trainings import QUESTION, Json, Trainings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

PACKAGED = "smollm2-135m-instruct"
# Two workers at a time: functions that jobs call need the rest of a node with two cores.
POOL_CPU, JOB = "1", {"LLMARINER_JOB_MEMORY_GIB": "2.5", "LLMARINER_JOB_CPU": "450m"}


def packaged_weights() -> str:
    """The folder of the packaged chat model, among those of this machine."""
    folder = StandaloneSettings.load(environment()).cache / "models"
    weights = next(folder.glob(f"{PACKAGED}-*"), None)
    if weights is None:
        pytest.skip(f"this machine has no weights of {PACKAGED}; `make up` installs them")
    return weights.name


@pytest.fixture(scope="module")
def trainings(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """The platform with an object store, and the packaged model."""
    weights = packaged_weights()
    with contextlib.ExitStack() as stack:
        try:
            stores = stack.enter_context(running_stores(tmp_path_factory.mktemp("stores"), installed.lab.host_address))
        except NoGateway as error:
            pytest.skip(str(error))
        stack.enter_context(platform_with_stores(installed, stores, **JOB))
        limit_pool(installed)
        installed.register(PACKAGED, weights)
        yield Trainings(stack.enter_context(contextlib.closing(PlatformClient(installed))))


def limit_pool(installed: Installed) -> None:
    """Until the overlay is applied again."""
    quota = "/spec/resourceGroups/0/flavors/0/resources/0"
    change = [
        {"op": "test", "path": f"{quota}/name", "value": "cpu"},
        {"op": "replace", "path": f"{quota}/nominalQuota", "value": POOL_CPU},
    ]
    kubectl(installed.lab, "patch", "clusterqueue", "llmariner-cpu", "--type=json", "-p", json.dumps(change))


def test_a_job_waits_trains_in_two_pods_survives_a_kill_and_its_model_answers(trainings: Trainings) -> None:
    client, installed = trainings.client, trainings.client.installed
    numbers: Json = {"n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 2}
    client.ticking("an empty pool", lambda: batch_jobs.admitted(installed))
    others = [batch_jobs.create(installed, REST="600") for _ in range(2)]
    with batch_jobs.deleted_at_end(installed, others):
        for each in others:
            batch_jobs.wait_for(installed, each, "running")
        file = trainings.upload()
        job_id = trainings.create(PACKAGED, file, workers=2, **numbers)

        def not_in_line() -> str | None:
            line = trainings.job(job_id)["queue"]
            return None if line and line["place"] == 1 and "quota" in line["reason"] else str(line)

        until("its place and the reason are shown", not_in_line, seconds=180)

    trainings.wait_for(job_id, "running")
    until("an epoch ends", lambda: None if len(trainings.losses(job_id)) >= 4 else "no epoch yet", seconds=200)
    assert len(trainings.pods(job_id)) == 2
    kubectl(installed.lab, "delete", "pod", "-n", JOBS_NAMESPACE, trainings.pods(job_id)[1], "--wait=false")
    job = trainings.wait_for(job_id, "succeeded")
    said = trainings.messages(job_id)
    assert any("continues after step" in message for message in said), said

    plain = trainings.create(PACKAGED, file, **numbers)
    trainings.wait_for(plain, "succeeded")
    assert trainings.losses(job_id) == pytest.approx(trainings.losses(plain), abs=1e-5)

    answer = client.whole(job["fine_tuned_model"], QUESTION.format("Spain"), wait=300)
    assert answer.status == 200, answer.error
    print(f"\n{answer.text}\n{trainings.losses(job_id)}")
    assert answer.text.startswith("Arrr!"), answer.text
    assert trainings.charged(job["fine_tuned_model"]) == job["trained_tokens"] == job["estimate"]["tokens"]
    trainings.until_nothing_is_left(job_id, plain)
    trainings.call("DELETE", f"/models/{job['fine_tuned_model']}")
