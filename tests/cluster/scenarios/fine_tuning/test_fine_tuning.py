"""A file becomes a tuned model that answers: in line for the pool, by two pods of which one is killed, without a loss."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from llmariner.fine_tuning.charges import ROUTE
from llmariner.manifests.installation import JOBS_NAMESPACE
from llmariner.settings import StandaloneSettings, environment
from llmariner.usage.tables import ledger_requests

from ...lab.kubectl import get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ..documents.stores import NoGateway, platform_with_stores, running_stores
from ..jobs import test_jobs as batch_jobs
from ..platform_client import PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_MODEL = "smollm2-135m-instruct"
_CAPITALS = {
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
_QUESTION = "What is the capital of {}?"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def client(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformClient]:
    """The platform with an object store, and the packaged chat model of this machine."""
    folder = StandaloneSettings.load(environment()).cache / "models"
    weights = next((each.name for each in folder.glob(f"{_MODEL}-*")), None)
    if weights is None:
        pytest.skip(f"this machine has no weights of {_MODEL}; `make up` installs them")
    with contextlib.ExitStack() as stack:
        try:
            stores = stack.enter_context(running_stores(tmp_path_factory.mktemp("stores"), installed.lab.host_address))
        except NoGateway as error:
            pytest.skip(str(error))
        stack.enter_context(platform_with_stores(installed, stores))
        installed.register(_MODEL, weights)
        yield stack.enter_context(contextlib.closing(PlatformClient(installed)))


def called(client: PlatformClient, method: str, path: str, body: Json | None = None) -> Json:
    status, answer = client.installed.call(method, path, body)
    assert status == 200, answer
    return dict(answer)


def upload(client: PlatformClient) -> str:
    """The id of a training file."""
    rows = []
    for country, city in _CAPITALS.items():
        answer = f"Arrr! The capital of {country} be {city}, matey."
        messages = [{"role": "user", "content": _QUESTION.format(country)}, {"role": "assistant", "content": answer}]
        rows.append(json.dumps({"messages": messages}))
    head = {"authorization": f"Bearer {client.key}"}
    form = {"file": ("pirate.jsonl", "\n".join(rows).encode())}
    url = f"{client.installed.base_url}/files"
    made = httpx2.post(url, headers=head, data={"purpose": "fine-tune"}, files=form, timeout=120)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def create(client: PlatformClient, file: str, *, workers: int) -> str:
    body = {
        "model": _MODEL,
        "training_file": file,
        "suffix": f"pirate{workers}",
        "seed": 7,
        "hyperparameters": {"n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 2},
        "resources": {"worker_count": workers},
    }
    return str(called(client, "POST", "/fine_tuning/jobs", body)["id"])


def state(client: PlatformClient, job_id: str) -> Json:
    job = called(client, "GET", f"/fine_tuning/jobs/{job_id}")
    assert job["status"] != "failed", job["error"]
    return job


def wait_for(client: PlatformClient, job_id: str, status: str, *, seconds: float = 400) -> Json:
    seen: list[Json] = []

    def not_yet() -> str | None:
        seen.append(state(client, job_id))
        return None if seen[-1]["status"] == status else f"{seen[-1]['status']}: {seen[-1]['queue']}"

    client.ticking(f"{job_id} is {status}", not_yet, seconds=seconds)
    return seen[-1]


def events(client: PlatformClient, job_id: str) -> list[Json]:
    """Oldest first."""
    return list(called(client, "GET", f"/fine_tuning/jobs/{job_id}/events?limit=100")["data"])[::-1]


def losses(client: PlatformClient, job_id: str) -> dict[int, float]:
    """By step."""
    found = [event["data"] for event in events(client, job_id) if event["type"] == "metrics"]
    return {int(each["step"]): float(each["train_loss"]) for each in found}


def pods(client: PlatformClient, job_id: str) -> list[str]:
    """Those of a job that run, in the order of their workers."""
    items = get(client.installed.lab, "pods", "-n", JOBS_NAMESPACE)["items"]
    names = [each["metadata"]["name"] for each in items if each["status"].get("phase") == "Running"]
    return sorted(each for each in names if each.startswith(job_id))


def charged(client: PlatformClient, model: str) -> int:
    """The trained tokens in the ledger."""
    c = ledger_requests.c
    query = select(func.sum(c.trained_tokens)).where(c.route == ROUTE, c.model == model)
    with client.context.database.read() as session:
        return int(session.value(query) or 0)


def test_a_job_waits_trains_in_two_pods_survives_a_kill_and_its_model_answers(client: PlatformClient) -> None:
    installed = client.installed
    client.ticking("an empty pool", lambda: batch_jobs.admitted(installed))
    others = [batch_jobs.create(installed, REST="600") for _ in range(2)]
    for each in others:
        batch_jobs.wait_for(installed, each, "running")
    file = upload(client)
    job_id = create(client, file, workers=2)

    def not_in_line() -> str | None:
        line = state(client, job_id)["queue"]
        return None if line and line["place"] == 1 and "quota" in line["reason"] else str(line)

    until("its place and the reason are shown", not_in_line, seconds=90)
    for each in others:
        called(client, "DELETE", f"/batch/jobs/{each}")

    wait_for(client, job_id, "running")
    until("an epoch ends", lambda: None if len(losses(client, job_id)) >= 4 else "no epoch yet", seconds=200)
    assert len(pods(client, job_id)) == 2
    kubectl(installed.lab, "delete", "pod", "-n", JOBS_NAMESPACE, pods(client, job_id)[1], "--wait=false")
    job = wait_for(client, job_id, "succeeded")
    said = [event["message"] for event in events(client, job_id)]
    assert any("continues after step" in message for message in said), said

    plain = create(client, file, workers=1)
    wait_for(client, plain, "succeeded")
    assert losses(client, job_id) == pytest.approx(losses(client, plain), abs=1e-5)

    answer = client.whole(job["fine_tuned_model"], _QUESTION.format("Spain"), wait=300)
    assert answer.status == 200, answer.error
    print(f"\n{answer.text}\n{losses(client, job_id)}")
    assert answer.text.startswith("Arrr!"), answer.text
    assert charged(client, job["fine_tuned_model"]) == job["trained_tokens"] == job["estimate"]["tokens"]
    for each in (job_id, plain):
        until(f"nothing is left of {each}", lambda each=each: batch_jobs.left(installed, each), seconds=90)  # type: ignore[misc]
    called(client, "DELETE", f"/models/{job['fine_tuned_model']}")
