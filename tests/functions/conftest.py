"""The session's installation, and callers of its functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.standalone.router import Router

from .http_calls import HttpRequest, HttpResponse, InProcessClient
from .installation import Installation
from .processes import CHECKOUT, boot_command, engine_command, process

Ask = Callable[[str, HttpRequest], HttpResponse]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    with process(engine_command(), {}, folder / "engine.log") as port:
        made = Installation(folder, f"http://127.0.0.1:{port}")
        yield made
        made.context.database.close()


@pytest.fixture(scope="session")
def in_process(installation: Installation) -> Iterator[InProcessClient]:
    caller = InProcessClient()
    yield caller
    caller.runner.run(installation.context.gateway.close())
    caller.runner.close()


@pytest.fixture(scope="session")
def ask(installation: Installation, in_process: InProcessClient) -> Ask:
    """Call one function in this process: `ask("models", HttpRequest("GET", "/v1/models"))`."""
    return lambda name, http_request: in_process.send(installation.application(name), http_request)


@pytest.fixture(scope="session")
def router(installation: Installation) -> Any:
    """All functions in one process, as in the standalone mode."""
    return Router(CHECKOUT / "functions", installation.context)


@pytest.fixture(scope="session")
def control(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the control plane function in a process of its own."""
    log = tmp_path_factory.mktemp("control") / "log"
    with process(boot_command(CHECKOUT / "functions/internal_gateway"), installation.environment, log) as port:
        yield port


@pytest.fixture(scope="session")
def admin(installation: Installation) -> dict[str, str]:
    """The headers of a caller with all scopes."""
    return {"authorization": f"Bearer {installation.keys.admin}"}


@pytest.fixture(scope="session")
def outsider(installation: Installation) -> dict[str, str]:
    """The headers of a caller from another organization."""
    return {"authorization": f"Bearer {installation.keys.outsider}"}
