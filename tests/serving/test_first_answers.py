"""The real engine checks the expected answer of its weights at its start and reports the result."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.engine_plugins.expected_answer import FILE
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.command_line import ANSWER_CHECK_MIDDLEWARE
from llmariner.platform.serving.local_processes.engine import log_name
from llmariner.platform.serving.local_processes.settings import ProcessSettings
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel

from .driver import ServingDriver

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

CHAT, EMBEDDINGS = PACKAGED
REPORTED_COUNTS = {"vllm:prompt_tokens_total": "prompt_tokens", "vllm:generation_tokens_total": "completion_tokens"}


def model_of(packaged: PackagedModel, folder: Path, **changes: Any) -> EngineModel:
    """The packaged weights, with another word on what they are expected to answer."""
    folder.mkdir()
    for file in packaged.folder(StandaloneSettings.load(environment()).cache).iterdir():
        (folder / file.name).symlink_to(file)
    (folder / FILE).unlink(missing_ok=True)
    (folder / FILE).write_text(json.dumps(asdict(packaged.expected) | changes))
    checked = ("--middleware", ANSWER_CHECK_MIDDLEWARE)
    return EngineModel("asked", str(folder), packaged.task, 270 << 20, typical_wake_seconds=8, extra_args=checked)


def counted(driver: ServingDriver, endpoint: str, name: str) -> int:
    async def metrics() -> str:
        response = await driver.client.request(endpoint, "GET", "/metrics", headers=[], body=b"")
        return (await response.read()).decode()

    return sum(int(float(found)) for found in re.findall(rf"^{name}{{.*}} (\S+)$", driver.run(metrics()), re.MULTILINE))


async def status(driver: ServingDriver, endpoint: str | None, path: str) -> tuple[int, str]:
    """Of an error, with its message."""
    assert endpoint is not None
    response = await driver.client.request(endpoint, "GET", path, headers=[], body=b"")
    return response.status, json.loads(await response.read())["error"]["message"]


@pytest.mark.parametrize(
    ("packaged", "changes", "answer"),
    [
        (CHAT, {}, "as_expected"),
        (CHAT, {"starts_with": "The capital of France is Rome."}, "differs"),
        (EMBEDDINGS, {}, "as_expected"),
        (EMBEDDINGS, {"unlike_below": -0.9}, "differs"),
    ],
)
def test_an_engine_reports_its_answer_check_and_its_duration(
    packaged: PackagedModel,
    changes: dict[str, Any],
    answer: str,
    warm: tuple[ServingDriver, ProcessServing],
    settings: ProcessSettings,
    tmp_path: Path,
) -> None:
    driver, _ = warm
    driver.registered["asked"] = model_of(packaged, tmp_path / "weights", **changes)
    try:
        endpoint = driver.ready("asked").endpoint
        assert endpoint is not None
        deadline = time.monotonic() + 60
        while (reported := driver.ask(endpoint, "/llmariner/answer"))["answer"] == "pending":
            assert time.monotonic() < deadline
            driver.run_loop_for(0.05)
        assert reported["answer"] == answer, reported
        assert reported["usage"] == {own: counted(driver, endpoint, name) for name, own in REPORTED_COUNTS.items()}
        assert reported["usage"]["prompt_tokens"] > 0
        _, line = (settings.logs / log_name("asked")).read_text().split("expected answer: ")
        assert line.startswith("as expected" if answer == "as_expected" else "differs: this processor (")
    finally:
        driver.sleep("asked")
        del driver.registered["asked"]


def test_the_check_is_in_no_prefix_cache(warm: tuple[ServingDriver, ProcessServing], tmp_path: Path) -> None:
    driver, _ = warm
    model = model_of(CHAT, tmp_path / "weights")
    reported = ("--enable-prompt-tokens-details", "--block-size", "32")
    driver.registered["asked"] = EngineModel(
        "asked", model.folder, "generate", 270 << 20, typical_wake_seconds=8, extra_args=(*model.extra_args, *reported)
    )
    body = {"model": "asked", "messages": [{"role": "user", "content": asdict(CHAT.expected)["question"]}]}
    try:
        endpoint = driver.ready("asked").endpoint
        while driver.ask(endpoint, "/llmariner/answer")["answer"] == "pending":
            driver.run_loop_for(0.05)
        # The middleware that meters is there as well.
        assert driver.run(status(driver, endpoint, "/llmariner/usage/req_0")) == (
            404,
            "no request of this id ended here",
        )
        details = [
            driver.ask(endpoint, "/v1/chat/completions", {**body, "max_tokens": 4})["usage"]["prompt_tokens_details"]
            for _ in range(2)
        ]
    finally:
        driver.sleep("asked")
        del driver.registered["asked"]
    first, again = ((each or {}).get("cached_tokens") or 0 for each in details)
    assert (first, again > 0) == (0, True)
