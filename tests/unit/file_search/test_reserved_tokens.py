"""The tokens that limits reserve for a request with passages."""

from __future__ import annotations

import pytest

from llmariner.file_search.chat import _bounded
from llmariner.gateway.requests.parser import ModelRequest


def request(max_prompt_tokens: int) -> ModelRequest:
    return ModelRequest(
        model="m",
        stream=False,
        include_usage=False,
        continuous_usage=False,
        body=b"{}",
        max_prompt_tokens=max_prompt_tokens,
        max_completion_tokens=1,
    )


@pytest.mark.parametrize(
    ("whole", "plain", "context", "reserved"),
    [
        pytest.param(150, 100, 200, (150, False), id="every passage fits"),
        pytest.param(500, 100, 200, (200, True), id="passages beyond the context are left out"),
        pytest.param(500, 300, 200, (300, True), id="the conversation alone may be longer than the context"),
    ],
)
def test_passages_reserve_at_most_the_context(whole: int, plain: int, context: int, reserved: tuple[int, bool]) -> None:
    found = _bounded(request(whole), request(plain), context)
    assert (found.max_prompt_tokens, found.prompt_unbounded) == reserved
