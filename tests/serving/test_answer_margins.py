"""The documented questions to the packaged model have one answer on every processor.

Processors round differently: bfloat16 with AMX moves log probabilities by up to 0.13. So every token of an answer that
somebody relies on must be likelier by far than the one after it. Log probabilities are asked for as they are once a grammar
has taken away what a form forbids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.standalone.platform import checkout_root

from .driver import ServingDriver
from .questions import ASKED, OPEN, QUESTIONS
from .real_engine import BASE

LEAST = 0.5


@pytest.fixture(scope="module")
def endpoint(
    warm: tuple[ServingDriver, ProcessServing], models: list[EngineModel]
) -> Iterator[tuple[ServingDriver, str]]:
    """The packaged model, its log probabilities taken after the grammar."""
    driver, _ = warm
    driver.sleep(BASE)
    status = driver.ready("margins")
    assert status.endpoint is not None
    yield driver, status.endpoint
    driver.sleep("margins")


@pytest.mark.engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ASKED)
def test_every_token_of_an_answer_is_far_likelier_than_the_next(what: str, endpoint: tuple[ServingDriver, str]) -> None:
    body, expected = ASKED[what]
    driver, url = endpoint
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    answer = driver.ask(url, path, {"model": "margins", "temperature": 0, **body})
    choice = answer["choices"][0]
    assert text_of(choice) == expected
    margins = dict(margins_of(choice["logprobs"]))
    assert margins
    assert {token: margin for token, margin in margins.items() if margin < LEAST} == {}


def text_of(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"])
    (call,) = choice["message"].get("tool_calls") or [None]
    return str(call["function"]["arguments"] if call else choice["message"]["content"])


def margins_of(logprobs: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Each token, numbered, and by how much it is likelier than the next."""
    if "content" in logprobs:
        tops = [[top["logprob"] for top in token["top_logprobs"]] for token in logprobs["content"]]
        tokens = [token["token"] for token in logprobs["content"]]
    else:
        tops, tokens = [list(top.values()) for top in logprobs["top_logprobs"]], logprobs["tokens"]
    for number, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        first, second = sorted(top, reverse=True)[:2]
        yield f"{number} {token!r}", first - second


# What is said to a model: as a message's content, as a prompt, as an argument, or as anything that asks.
SAID = (
    re.compile(r"""(?:content|prompt)["']?\s*[:=]\s*\\?["']([A-Za-z0-9][^"'\\]*)"""),
    re.compile(r"""(?:--completion |invoke\(|stream\(|platform\.chat\(|chat_body\()"([^"]+)\""""),
    re.compile(r"""["']([A-Z][^"'\\]{8,}\?)\\?["']"""),
)


def places() -> Iterator[Path]:
    root = checkout_root()
    yield root / "README.md"
    for folder in ("docs", "tests/e2e", "tests/images", "tests/serving"):
        for kind in ("*.md", "*.py", "*.mjs", "*.sh"):
            yield from (root / folder).rglob(kind)


def test_every_documented_question_is_checked_or_open() -> None:
    answers = {answer for _, answer in ASKED.values()}
    known, unknown = {*QUESTIONS, *answers, *OPEN}, []
    for file in places():
        said = {text for pattern in SAID for text in pattern.findall(file.read_text())}
        unknown += [f"{file.relative_to(checkout_root())}: {text}" for text in sorted(said - known)]
    assert unknown == [], "put them into questions.py"
