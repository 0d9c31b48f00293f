"""Each adapter of the serving port, with one model and a driver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from llmariner.boot import load
from llmariner.context import Context
from llmariner.gateway.control_plane.http_client import HttpControlPlane
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.settings import ProcessSettings
from llmariner.platform.serving.remote import RemoteServing
from llmariner.platform.serving.static import StaticServing
from llmariner.settings import ControlPlaneSettings, Secret
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.platform import checkout_root

from .driver import ServingDriver, processes
from .kserve_cluster import serving_on_cluster, upstream
from .real_engine import BASE, TIMEOUT_SECONDS, engine_of_this_machine, models_of, settings_of
from .scripted_engines import model, scripted_settings

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SECRET = "s" * 64
SCRIPTED = Path(__file__).parents[1] / "engines" / "scripted.py"


@dataclass
class Adapter:
    """An adapter, the model it serves, and whether that can sleep."""

    driver: ServingDriver
    model: str
    sleeps: bool


def free_port() -> int:
    """Below the ephemeral ports: the engine does not listen on it at once."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def _listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@contextmanager
def static(_: Path) -> Iterator[Adapter]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SCRIPTED), "--port", str(port)])
    try:
        with asyncio.Runner() as runner:
            driver = ServingDriver(runner, StaticServing(json.dumps({"small": f"http://127.0.0.1:{port}/"})))
            driver.run(_listens(port))
            yield Adapter(driver, "small", sleeps=False)
            driver.client.close()
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def child_processes(folder: Path) -> Iterator[Adapter]:
    with processes(scripted_settings(folder), model(folder, "small", "--ready-after", "0.3")) as (driver, _):
        yield Adapter(driver, "small", sleeps=True)


@contextmanager
def remote(folder: Path) -> Iterator[Adapter]:
    """The same engines, behind the control function over HTTP."""
    with processes(scripted_settings(folder), model(folder, "small", "--ready-after", "0.3")) as (
        inner,
        serving,
    ):
        context = Context(
            {
                "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
                "LLMARINER_PEPPER": "p" * 64,
                "LLMARINER_SERVICE_SECRET": SECRET,
                "LLMARINER_SERVING": "static",
            }
        )
        context.serving = serving
        application: Any = load(checkout_root() / "functions" / "internal_gateway")
        application.use_context(context)
        config = uvicorn.Config(application, port=0, http="httptools", ws="none", lifespan="off", log_level="warning")
        server = uvicorn.Server(config)

        async def start() -> asyncio.Task[None]:
            task = asyncio.create_task(server.serve())
            for _ in range(500):
                if server.started:
                    break
                await asyncio.sleep(0.01)
            return task

        task = inner.run(start())
        port = server.servers[0].sockets[0].getsockname()[1]
        control = HttpControlPlane(ControlPlaneSettings(url=f"http://127.0.0.1:{port}"), Secret(SECRET), issuer="test")
        driver = ServingDriver(inner.runner, RemoteServing(control))
        yield Adapter(driver, "small", sleeps=True)
        driver.client.close()
        control._client.close()
        server.should_exit = True
        inner.run(asyncio.wait_for(task, 20))


@pytest.fixture(scope="session")
def engines() -> Iterator[EngineEnvironment]:
    """This machine's engine environment, for this session alone."""
    with engine_of_this_machine() as found:
        yield found


@pytest.fixture(scope="session")
def settings(engines: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory) -> ProcessSettings:
    """Of an adapter with real engines and a warm parent."""
    return settings_of(engines, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def models(engines: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory) -> list[EngineModel]:
    """A base, an adapter of it, and a model that its engine refuses."""
    return models_of(engines, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def warm(settings: ProcessSettings, models: list[EngineModel]) -> Iterator[tuple[ServingDriver, ProcessServing]]:
    """One adapter with the real engine, and its one warm parent, for every test that needs it."""
    with processes(settings, *models) as both:
        both[0].timeout_seconds = TIMEOUT_SECONDS
        began = time.monotonic()
        both[0].run(both[1].launcher.start())
        print(f"\nthe parent of engines was warm after {time.monotonic() - began:.1f} s")
        yield both


@contextmanager
def kserve(folder: Path, crds: Path, schemas: Schemas) -> Iterator[Adapter]:
    """InferenceServices on a cluster in miniature."""
    small = EngineModel("small", "hf://org/small", "generate", 0, typical_wake_seconds=1.0)
    with serving_on_cluster(folder, schemas, crds, free_port(), small) as made:
        # Longer than an observation is reused, so that each phase is seen.
        made.controllers.engine_arguments = ["--ready-after", "1.2"]
        yield Adapter(made.driver, "small", sleeps=True)


@pytest.fixture(scope="session")
def upstream_schemas() -> tuple[Path, Schemas]:
    """The folder of upstream's CRDs, and a validator over them."""
    return upstream()


REAL = pytest.param("real", marks=[pytest.mark.engine, pytest.mark.timeout(900)])


@pytest.fixture(params=["static", "processes", "remote", "kserve", REAL])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    """Every adapter, the model asleep if it can be."""
    if request.param == "real":
        driver, _ = request.getfixturevalue("warm")
        driver.sleep(BASE)
        yield Adapter(driver, BASE, sleeps=True)
        driver.sleep(BASE)
        return
    if request.param == "kserve":
        with kserve(tmp_path, *request.getfixturevalue("upstream_schemas")) as made:
            yield made
        return
    makers = {"static": static, "processes": child_processes, "remote": remote}
    with makers[request.param](tmp_path) as made:
        yield made
