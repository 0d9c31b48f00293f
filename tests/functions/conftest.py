"""The session's installation, and callers of its functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.standalone.router import Router

from .asking import Answer, InProcess, Question
from .children import CHECKOUT, boot, engine, process
from .installation import Installation

Ask = Callable[[str, Question], Answer]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    with process(engine(), {}, folder / "engine.log") as port:
        made = Installation(folder, f"http://127.0.0.1:{port}")
        yield made
        made.context.database.close()


@pytest.fixture(scope="session")
def in_process(installation: Installation) -> Iterator[InProcess]:
    caller = InProcess()
    yield caller
    caller.runner.run(installation.context.gateway.close())
    caller.runner.close()


@pytest.fixture(scope="session")
def ask(installation: Installation, in_process: InProcess) -> Ask:
    """Ask a function on its own, in this process: `ask("models", Question("GET", "/v1/models"))`."""
    return lambda name, question: in_process.ask(installation.application(name), question)


@pytest.fixture(scope="session")
def router(installation: Installation) -> Any:
    """All functions in one process, as the local home serves them."""
    return Router(CHECKOUT / "functions", installation.context)


@pytest.fixture(scope="session")
def control(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the control function in a process of its own."""
    log = tmp_path_factory.mktemp("control") / "log"
    with process(boot(CHECKOUT / "functions/internal_gateway"), installation.environment, log) as port:
        yield port


@pytest.fixture(scope="session")
def admin(installation: Installation) -> dict[str, str]:
    """The headers of a caller who may do everything."""
    return {"authorization": f"Bearer {installation.keys.admin}"}


@pytest.fixture(scope="session")
def stranger(installation: Installation) -> dict[str, str]:
    """The headers of a caller from another project."""
    return {"authorization": f"Bearer {installation.keys.stranger}"}
