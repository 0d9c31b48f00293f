"""Every function and consumer answers the probes that its Knative Service names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.manifests.declarations import Workload, read_declarations
from llmariner.manifests.services import knative_service
from llmariner.platform.database.migrate import upgrade

CHECKOUT = Path(__file__).parents[2]
WORKLOADS = {each.source: each for kind in read_declarations(CHECKOUT) for each in kind}
ENVIRONMENT = {
    "LLMARINER_PEPPER": "p" * 32,
    "LLMARINER_SERVICE_SECRET": "s" * 32,
    "LLMARINER_CONTROL_URL": "http://internal-gateway",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a database of this checkout's schema: on another one a workload is not ready."""
    file = tmp_path_factory.mktemp("probes") / "platform.db"
    context = Context({**ENVIRONMENT, "LLMARINER_DATABASE_URL": f"sqlite:///{file}"})
    upgrade(context.database)
    context.database.close()
    return {**ENVIRONMENT, "LLMARINER_DATABASE_URL": f"sqlite:///{file}"}


def paths(workload: Workload) -> set[str]:
    (container,) = knative_service(workload)["spec"]["template"]["spec"]["containers"]
    return {probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}


async def status(application: Any, path: str) -> int:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"user-agent", b"kube-probe/1.34")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await application(scope, receive, send)
    return next(int(message["status"]) for message in sent if "status" in message)


@pytest.mark.parametrize("source", list(WORKLOADS))
def test_a_workload_responds_to_its_probes(source: str, environment: dict[str, str]) -> None:
    workload = WORKLOADS[source]
    application = load(CHECKOUT / workload.folder)
    application.use_context(Context(environment))
    answers = {path: asyncio.run(status(application, path)) for path in paths(workload)}
    assert set(answers.values()) == {200}, answers
