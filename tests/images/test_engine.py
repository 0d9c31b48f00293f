"""The engine's image on this machine's own vLLM: a real model, plainly and on demand, by a user of no rights, read-only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from images.build import PREFIX
from images.plan import ENGINE, ENGINE_LOCAL
from images.store import Store

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.engine_plugins.expected_answer import FILE, ExpectedText
from llmariner.platform.serving.local_processes.command_line import (
    ANSWER_CHECK_MIDDLEWARE,
    engine_arguments,
    engine_environment,
)
from llmariner.settings import StandaloneSettings
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED, install_model

from .conftest import Start
from .container import Container, Running
from .test_images import free_port

pytestmark = [pytest.mark.images, pytest.mark.engine]

TOKEN = "standby-0123456789"
assert isinstance(PACKAGED[0].expected, ExpectedText)
ANSWER = PACKAGED[0].expected.starts_with
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
FIRST_USAGE = {"prompt_tokens": 33, "completion_tokens": 8}


@pytest.fixture
def engine(built: Store, container: Start) -> Container:
    cache = StandaloneSettings.load(os.environ).cache
    environment = EngineEnvironment(cache, engine_lock())
    if not environment.is_installed:
        pytest.skip("the engine environment is not made: python -m llmariner.standalone.setup")
    python = Path(os.path.realpath(environment.python)).parents[1]
    weights = install_model(PACKAGED[0], cache)
    binds = {environment.folder: str(environment.folder), python: str(python), weights: "/mnt/models"}
    said = {key: value for key, value in engine_environment(1).items() if key != "PYTHONPATH"}  # the image has its own
    said |= {"STANDBY_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
    return container(ENGINE, said, binds)


def arguments(port: int) -> list[str]:
    """What follows `vllm` for the chat model."""
    folder = PACKAGED[0].folder(StandaloneSettings.load(os.environ).cache)
    model = EngineModel(id="smol", folder=str(folder), size_bytes=1, task="generate")
    found = [part.replace(str(folder), "/mnt/models") for part in engine_arguments(model, port)]
    return [*found, "--middleware", ANSWER_CHECK_MIDDLEWARE]


def capital_of_france(server: Running, port: int) -> str:
    body = {"model": "smol", "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    status, answer = server.answer(f"http://127.0.0.1:{port}/v1/chat/completions", body)
    assert status == 200, answer
    content: str = answer["choices"][0]["message"]["content"]
    return content


def first_answer_report(server: Running, port: int) -> dict[str, Any]:
    """As soon as the engine has it."""
    deadline = time.monotonic() + 60
    while (reported := server.answer(f"http://127.0.0.1:{port}/llmariner/answer")[1])["answer"] == "pending":
        assert time.monotonic() < deadline, server.words()
        time.sleep(0.05)
    return dict(reported)


def test_vllm_serves_as_in_the_upstream_image(engine: Container, tmp_path: Path) -> None:
    port = free_port()
    with engine.running(["vllm", *arguments(port)], tmp_path) as server:
        server.wait(f"http://127.0.0.1:{port}/health", 180)
        assert first_answer_report(server, port)["answer"] == "as_expected"
        assert capital_of_france(server, port) == ANSWER


def test_a_different_answer_of_the_processor_is_reported(engine: Container, tmp_path: Path) -> None:
    """What is expected here is wrong: as if this processor were."""
    weights = tmp_path / "weights"
    shutil.copytree(next(folder for folder, place in engine.binds.items() if place == "/mnt/models"), weights)
    wrong = {**asdict(PACKAGED[0].expected), "starts_with": "The capital of France is Rome."}
    (weights / FILE).write_text(json.dumps(wrong))
    engine.binds = {folder: place for folder, place in engine.binds.items() if place != "/mnt/models"}
    engine.binds = {**engine.binds, weights: "/mnt/models"}
    port = free_port()
    with engine.running(["vllm", *arguments(port)], tmp_path) as server:
        server.wait(f"http://127.0.0.1:{port}/health", 180)
        assert first_answer_report(server, port)["answer"] == "differs"
        (line,) = [line for line in server.log.read_text().splitlines() if line.startswith("expected answer: ")]
        assert "differs: this processor (" in line
        assert ANSWER in line


def test_a_standby_engine_serves_one_model_after_another(engine: Container, tmp_path: Path) -> None:
    control, port = free_port(), free_port()
    engine.environment = {**engine.environment, "CONTROL_PORT": str(control)}
    base, headers = f"http://127.0.0.1:{control}", {"Authorization": f"Bearer {TOKEN}"}
    order: dict[str, Any] = {"model": "smol", "argv": arguments(port)}
    with engine.running([], tmp_path) as server:
        server.wait(f"{base}/live", 10)
        assert server.answer(f"{base}/start", order)[0] == 401
        warm = server.wait(f"{base}/ready", 120)
        assert server.answer(f"{base}/start", {"model": "smol", "argv": ["bench"]}, headers)[0] == 400
        for _ in range(2):
            assert server.answer(f"{base}/start", order, headers)[0] == 202
            assert server.answer(f"{base}/start", order, headers)[0] == 409
            ready = server.wait(f"http://127.0.0.1:{port}/health", 60)
            reported = first_answer_report(server, port)
            assert (reported["answer"], reported["usage"]) == ("as_expected", FIRST_USAGE)
            engine_report = server.answer(f"{base}/status")[1]["engine"]
            assert (engine_report["answer"], engine_report["usage"]) == ("as_expected", FIRST_USAGE)
            assert capital_of_france(server, port) == ANSWER
            print(f"warm parent {warm:.1f} s, model {ready:.1f} s", file=sys.stderr)
            assert server.answer(f"{base}/stop", {"grace": 10}, headers)[0] == 202
            server.wait(f"{base}/ready", 30)
        status, said = server.answer(f"{base}/status")
        assert (status, said["warm"], said["engine"]) == (200, True, None)
        assert said["last"]["model"] == "smol"
    assert server.process.returncode == 0, server.words()


def test_a_standby_does_not_start_without_a_token(engine: Container, tmp_path: Path) -> None:
    engine.environment = {key: value for key, value in engine.environment.items() if key != "STANDBY_TOKEN"}
    done = engine.run([], tmp_path)
    assert done.returncode != 0
    assert "STANDBY_TOKEN is not set" in done.stderr


@pytest.mark.parametrize("name", [ENGINE, ENGINE_LOCAL])
def test_images_around_a_mounted_vllm_are_small(name: str, built: Store) -> None:
    assert built.image(PREFIX + name).size < 85_000_000
