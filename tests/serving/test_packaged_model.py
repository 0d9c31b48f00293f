"""The converted packaged chat model: its default system message, and that its answers end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmariner.models.gguf import REVISION
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.standalone.engine import packages
from llmariner.standalone.engine.packages import PACKAGED

from .driver import ServingDriver
from .questions import CAPITAL, GET_WEATHER
from .real_engine import BASE

DEFAULT = "You are a helpful assistant that answers in one short sentence."
USER = {"role": "user", "content": CAPITAL}
PROMPT_END = f"<|im_start|>user\n{CAPITAL}<|im_end|>\n<|im_start|>assistant\n"


def system(text: str) -> str:
    return f"<|im_start|>system\n{text}<|im_end|>\n"


def prompt(driver: ServingDriver, messages: list[dict[str, Any]], **fields: Any) -> str:
    """What the engine makes of messages."""
    endpoint = driver.ready(BASE).endpoint
    tokens = driver.ask(endpoint, "/tokenize", {"model": BASE, "messages": messages, **fields})["tokens"]
    return str(driver.ask(endpoint, "/detokenize", {"model": BASE, "tokens": tokens})["prompt"])


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_a_system_message_replaces_the_default(
    warm: tuple[ServingDriver, ProcessServing],
) -> None:
    driver, _ = warm
    assert prompt(driver, [USER]) == system(DEFAULT) + PROMPT_END
    for role in ("system", "developer"):
        assert (
            prompt(driver, [{"role": role, "content": "You are terse."}, USER]) == system("You are terse.") + PROMPT_END
        )
    late = prompt(driver, [USER, {"role": "system", "content": "You are terse."}])
    assert late.startswith("<|im_start|>user")
    assert DEFAULT not in late


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_tool_definitions_include_an_example_call(warm: tuple[ServingDriver, ProcessServing]) -> None:
    driver, _ = warm
    offered = prompt(driver, [USER], tools=[GET_WEATHER])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "..."}}\n</tool_call>' in offered
    assert offered.endswith(PROMPT_END)
    bare = prompt(driver, [USER], tools=[{"type": "function", "function": {"name": "now"}}])
    assert '{"name": "now", "arguments": {}}' in bare


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_an_answer_ends_without_a_token_limit(warm: tuple[ServingDriver, ProcessServing]) -> None:
    driver, _ = warm
    endpoint = driver.ready(BASE).endpoint
    body = {"model": BASE, "messages": [USER], "temperature": 0, "ignore_eos": True}
    answer = driver.ask(endpoint, "/v1/chat/completions", body)
    assert answer["usage"]["completion_tokens"] == 256
    longer = driver.ask(endpoint, "/v1/chat/completions", {**body, "max_tokens": 300})
    assert longer["usage"]["completion_tokens"] == 300


def test_another_template_or_conversion_rebuilds_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, embeddings = PACKAGED
    before = chat.folder(tmp_path), embeddings.folder(tmp_path)
    template = tmp_path / "template"
    template.write_text(packages._TEMPLATE.read_text() + "\n")
    for name, changed in (("_TEMPLATE", template), ("_LONGEST_ANSWER", 7), ("REVISION", REVISION + 1)):
        with monkeypatch.context() as patched:
            patched.setattr(packages, name, changed)
            assert chat.folder(tmp_path) != before[0]
            assert embeddings.folder(tmp_path) == before[1]
    assert chat.folder(tmp_path) == before[0]
