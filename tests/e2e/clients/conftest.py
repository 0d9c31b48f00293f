"""Fixtures of the client tests: a platform, one that allows a request a minute, and variables with both addresses."""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..platform.standalone_platform import Platform, platform
from .outcomes import Outcomes, run

__all__ = ["Platform", "Variables", "cancelled_requests", "limited", "new_key", "platform", "tried", "variables"]

Variables = dict[str, str]


@pytest.fixture(scope="session")
def limited(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own that allows each key one request a minute; it starts no engine."""
    made = Platform(tmp_path_factory.mktemp("limited"))
    made.environment |= {"LLMARINER_REQUESTS_PER_MINUTE": "1", "LLMARINER_WARM_PARENT": "0"}
    made.up()
    yield made
    made.down()


@pytest.fixture(scope="session")
def variables(platform: Platform, limited: Platform) -> Callable[[], Variables]:
    """Makes the environment of one client's run: keys of its own, nothing of the user's."""

    def made() -> Variables:
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(platform.home),
            "OPENAI_BASE_URL": platform.base_url,
            "OPENAI_API_KEY": platform.api_key,
            "OPENAI_RESTRICTED_KEY": new_key(platform, scopes=["api.files.read", "api.model.read"]),
            "OPENAI_LIMITED_BASE_URL": limited.base_url,
            "OPENAI_LIMITED_KEY": new_key(limited),
        }

    return made


@pytest.fixture(scope="session")
def tried(platform: Platform, variables: Callable[[], Variables]) -> Callable[..., Outcomes]:
    """Runs a client's script, given as the words of its command."""

    def outcomes(*command: str | Path) -> Outcomes:
        before = cancelled_requests(platform)
        said = run(command, variables())
        said.cancelled = cancelled_requests(platform) - before
        return said

    return outcomes


def new_key(platform: Platform, scopes: list[str] | None = None) -> str:
    """The secret of a new key."""
    body = json.dumps({"name": f"client {secrets.token_hex(4)}", "scopes": scopes}).encode()
    head = {"authorization": f"Bearer {platform.api_key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{platform.base_url}/api_keys", body, head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["secret"])


def cancelled_requests(platform: Platform) -> int:
    """How many requests ended because the caller disconnected, since the platform started."""
    lines = platform.gateway_metrics().splitlines()
    counts = [line for line in lines if line.startswith("llmariner_requests_total") and 'outcome="cancelled"' in line]
    return sum(int(line.rsplit(" ", 1)[1]) for line in counts)
