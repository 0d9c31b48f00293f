"""A real model on the cluster from none to one engine on a request, and back to none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.manifests.installation import MODELS_NAMESPACE
from llmariner.usage.tables import ledger_requests

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..platform_client import GENERATED, PARIS, PROMPTED, PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
# An engine's start on a busy small machine takes a minute and more.
_PATIENCE = 300
_IDLE_SECONDS = 60


@pytest.fixture(scope="module")
def client(installed: Installed) -> Iterator[PlatformClient]:
    """Only one real engine fits into the pool beside what the tests do."""
    client = PlatformClient(installed)
    installed.register_models()
    yield client
    client.sleep(MODEL)
    client.close()


@pytest.fixture
def asleep(client: PlatformClient) -> PlatformClient:
    client.sleep(MODEL)
    return client


def test_a_stream_opens_at_once_reports_phases_responds_and_is_counted(asleep: PlatformClient) -> None:
    answer = asleep.stream(MODEL, PARIS, wait=_PATIENCE)
    print(f"\nopened {answer.opened:.2f} s, first token {answer.first_token:.1f} s, phases {answer.phases}")
    print("messages", answer.messages)
    assert answer.error is None, answer.error
    assert answer.opened < 20
    assert "Paris" in answer.text
    assert {"starting", "loading"} <= set(answer.phases)
    row = asleep.row(answer.request_id)
    assert row["completion_tokens"] == answer.usage["completion_tokens"] == asleep.counted(MODEL, GENERATED)
    assert row["prompt_tokens"] == answer.usage["prompt_tokens"] == asleep.counted(MODEL, PROMPTED)
    assert asleep.first_answer(MODEL) == "as_expected"


def test_a_non_streamed_request_is_rejected_with_a_short_wait_and_held_with_a_long_one(asleep: PlatformClient) -> None:
    refused = asleep.whole(MODEL, PARIS, wait=3)
    assert refused.status == 503, refused.body
    assert refused.error is not None
    assert refused.error["code"] == "model_not_ready"
    assert refused.error["phase"] in ("asleep", "queued", "starting", "loading")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    held = asleep.whole(MODEL, PARIS, wait=_PATIENCE)
    assert held.status == 200, held.body
    assert "Paris" in held.text
    assert asleep.row(held.request_id)["completion_tokens"] == held.usage["completion_tokens"]


def test_a_disconnect_from_a_non_streamed_request_is_counted_to_the_token(client: PlatformClient) -> None:
    assert client.whole(MODEL, PARIS, wait=_PATIENCE, max_tokens=1).status == 200
    before = {name: client.counted(MODEL, name) for name in (GENERATED, PROMPTED)}
    began = time.time()
    connection = client.send(MODEL, "Tell a long story.", wait=_PATIENCE, max_tokens=3000, ignore_eos=True)
    until("tokens", lambda: None if client.counted(MODEL) > before[GENERATED] + 10 else "none yet")
    connection.close()
    row = _cancelled_since(client, began)
    made = {name: client.counted(MODEL, name) - count for name, count in before.items()}
    print(f"\nnobody waited for {made}")
    assert (row["completion_tokens"], row["prompt_tokens"]) == (made[GENERATED], made[PROMPTED])
    assert 10 <= made[GENERATED] < 3000


def test_an_idle_model_goes_to_sleep(client: PlatformClient) -> None:
    assert client.whole(MODEL, PARIS, wait=_PATIENCE, max_tokens=1).status == 200
    client.tick()
    time.sleep(5)
    assert client.awake(MODEL), "it was asked for just now"
    time.sleep(_IDLE_SECONDS)
    client.ticking("asleep by idleness", lambda: client.awake(MODEL))
    name = client.service(MODEL)
    assert get(client.installed.lab, "deployment", f"{name}-predictor", "-n", MODELS_NAMESPACE)["spec"]["replicas"] == 0


def test_a_wake_costs_little_more_than_the_engines_own_start(client: PlatformClient) -> None:
    """Figures: request to first token, and how much of it the engine's container itself ran until it was ready."""
    totals, starts = [], []
    for _ in range(3):
        client.sleep(MODEL)
        answer = client.stream(MODEL, PARIS, wait=_PATIENCE, max_tokens=4)
        assert answer.first_token is not None, answer.error
        totals.append(answer.first_token)
        (pod,) = client.installed.engine_pods(MODEL)
        starts.append(_engine_start(pod))
    total, start = statistics.median(totals), statistics.median(starts)
    print(f"\nwake {[round(each, 1) for each in totals]}, engine's start {[round(each, 1) for each in starts]}")
    print(f"median {total:.1f} s against {start:.1f} s")
    assert total - start < 30


def _engine_start(pod: dict[str, Any]) -> float:
    """Seconds from the start of the engine's process to its first answer, as the kubelet saw them (whole seconds)."""
    began = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    (ready,) = (each["lastTransitionTime"] for each in pod["status"]["conditions"] if each["type"] == "Ready")
    return _moment(ready) - _moment(began)


def _moment(stamp: str) -> float:
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


def _cancelled_since(client: PlatformClient, began: float) -> dict[str, Any]:
    """The one request of the model admitted since then, as soon as the ledger has it as cancelled."""
    ours = ledger_requests.c.admitted_at >= began, ledger_requests.c.model == MODEL
    rows: list[dict[str, Any]] = []

    def missing() -> str | None:
        with client.context.database.read() as session:
            rows[:] = [dict(row._mapping) for row in session.rows(select(ledger_requests).where(*ours))]
        return None if rows and all(row["outcome"] == "cancelled" for row in rows) else f"{rows}"

    until("cancelled in the ledger", missing, seconds=30)
    (row,) = rows
    return row
