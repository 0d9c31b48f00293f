"""An engine with an unexpected first answer is served, and its InferenceService gets a warning."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.http_client import Client
from llmariner.platform.kube.resources import EVENTS, INFERENCE_SERVICES, PODS
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.kserve import answer_checks
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.platform.serving.kserve.addresses import DirectAddresses
from llmariner.platform.serving.kserve.answer_checks import AnswerChecks

from .conftest import free_port
from .kserve_cluster import ServingOnCluster, serving_on_cluster

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SMALL = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0)


@pytest.fixture
def cluster(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[ServingOnCluster]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL) as made:
        yield made


def looked(cluster: ServingOnCluster, serving: KServeServing | None = None) -> list[dict[str, Any]]:
    """The events that there are once what was begun is done."""

    async def over() -> None:
        await asyncio.gather(*(serving or cluster.serving)._answer_checks._tasks)

    cluster.driver.run(over())
    return cluster.controllers.listed(EVENTS)


def test_one_warning_per_engine_regardless_of_observers(cluster: ServingOnCluster) -> None:
    cluster.controllers.engine_arguments = ["--first-answer", "differs"]
    status = cluster.driver.ready(SMALL.id)
    assert cluster.driver.chat(SMALL.id, status.endpoint, max_tokens=2)
    (event,) = looked(cluster)
    (service,) = cluster.controllers.listed(INFERENCE_SERVICES)
    (pod,) = cluster.controllers.listed(PODS)
    assert (event["type"], event["reason"]) == ("Warning", "UnexpectedAnswer")
    assert event["involvedObject"]["uid"] == service["metadata"]["uid"]
    assert pod["metadata"]["name"] in event["message"]

    async def another() -> KServeServing:
        return KServeServing(cluster.serving._cluster, cluster.serving._settings, cluster.serving._lookup)

    fresh = cluster.driver.run(another())
    try:
        assert cluster.driver.run(fresh.statuses())[SMALL.id].phase is Phase.READY
        assert looked(cluster, fresh) == [event]
    finally:
        cluster.driver.run(fresh._answer_checks.close())
        fresh._client.close()


def test_an_engine_is_checked_once(cluster: ServingOnCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = AnswerChecks._fetch

    async def counting(self: AnswerChecks, engine: str) -> dict[str, Any]:
        asked.append(engine)
        return await original(self, engine)

    monkeypatch.setattr(AnswerChecks, "_fetch", counting)
    cluster.controllers.engine_arguments = ["--first-answer", "as_expected"]
    cluster.driver.ready(SMALL.id)
    for _ in range(3):
        cluster.driver.run_loop_for(0.6)
        cluster.driver.status(SMALL.id)
        cluster.driver.run(cluster.serving.statuses())
    assert looked(cluster) == []
    assert len(asked) == 1
    cluster.driver.sleep(SMALL.id)
    cluster.driver.wait_until(lambda _: not cluster.controllers.listed(PODS), SMALL.id)
    cluster.driver.ready(SMALL.id)
    assert looked(cluster) == []
    assert len(asked) == 2, "another engine is another processor, perhaps"


def test_a_rejected_event_is_in_the_log(cluster: ServingOnCluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.forbid("create events")
    cluster.controllers.engine_arguments = ["--first-answer", "differs"]
    with caplog.at_level(logging.WARNING):
        cluster.driver.ready(SMALL.id)
        assert looked(cluster) == []
    assert any("answers otherwise than expected" in line for line in caplog.messages)
    assert cluster.driver.status(SMALL.id).phase is Phase.READY


DIFFERS = {"answer": "differs", "reason": "r" * 5000, "usage": {}}
PENDING = {"answer": "pending"}


@pytest.mark.parametrize(
    ("answers", "reported"),
    [
        ([PENDING, PENDING, DIFFERS], True),
        ([PENDING, {"answer": "as_expected"}], False),
        ([[]], False),
        ([{}], False),
        ([{"answer": {"differs": 1}}], False),
        (["[" * 60_000], False),
        (["9" * 5000], False),
        ([{**DIFFERS, "more": "x" * 70_000}], False),
        (["no JSON"], False),
        ([""], False),
        ([None], False),
    ],
)
def test_status_requests_have_a_timeout_and_accept_known_values_only(
    answers: list[Any], reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[Any, ...]] = []

    def record(*arguments: Any) -> bool:
        recorded.append(arguments)
        return True

    monkeypatch.setattr(answer_checks, "record_event", record)
    monkeypatch.setattr(answer_checks, "_PAUSES", (0.0, 0.01, 0.01))
    left = list(answers)

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = left.pop(0)
        if answer is not None:
            raw = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(raw)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + raw)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
            port, client = server.sockets[0].getsockname()[1], Client()
            looking = AnswerChecks(None, client, "models", DirectAddresses())  # type: ignore[arg-type]
            spec = {"containers": [{"name": "kserve-container", "ports": [{"containerPort": port}]}]}
            metadata = {"name": "small-1", "uid": "1"}
            looking.check("small", [{"metadata": metadata, "spec": spec, "status": {"podIP": "127.0.0.1"}}])
            await asyncio.gather(*looking._tasks)
            client.close()

    asyncio.run(run())
    assert [arguments[4] for arguments in recorded] == (["UnexpectedAnswer"] if reported else [])
    assert all(len(arguments[5]) < 1024 for arguments in recorded)


def test_results_of_deleted_services_are_dropped() -> None:
    async def run() -> dict[str, set[str]]:
        client = Client()
        looking = AnswerChecks(None, client, "models", DirectAddresses())  # type: ignore[arg-type]
        for name in ("a", "b"):
            looking.check(name, [])
        looking.retain_only({"b"})
        await looking.close()
        client.close()
        return looking._checked_pods

    assert asyncio.run(run()).keys() == {"b"}
