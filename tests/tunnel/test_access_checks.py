"""Open requests end with the right of their caller, whatever the checks of others come to."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.errors import PermissionDenied
from llmariner.sessions.access_checks import AccessChecks


@pytest.mark.parametrize("order", [("broken", "lost"), ("lost", "broken")])
def test_a_check_that_breaks_keeps_no_other_request_open(
    monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    monkeypatch.setattr("llmariner.sessions.access_checks._CHECK_SECONDS", 0.01)
    ended: list[str] = []

    def check(name: str) -> None:
        if name == "lost":
            raise PermissionDenied("You lost the right.")
        raise RuntimeError(name)

    async def scenario() -> None:
        checks, done = AccessChecks(), asyncio.Event()

        def end(name: str) -> None:
            ended.append(name)
            done.set()

        first, second = order
        with (
            checks.hold(first, lambda: check(first), lambda: end(first)),
            checks.hold(second, lambda: check(second), lambda: end(second)),
        ):
            await asyncio.wait_for(done.wait(), 20)

    asyncio.run(scenario())
    assert set(ended) == {"lost"}
