"""What every client is tried against: one platform, one that allows a request a minute, and the variables naming both."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .outcomes import Outcomes, run

UP_SECONDS = 1800
DOWN_SECONDS = 60

Variables = dict[str, str]


@dataclass(frozen=True)
class Platform:
    """A platform that runs: `base_url` without /v1, its administrator's key, its home folder."""

    base_url: str
    api_key: str
    home: Path


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with its two models. One thread an engine: more threads than free cores cost it most of its speed."""
    with _up(tmp_path_factory.mktemp("platform"), LLMARINER_ENGINE_THREADS="1") as running:
        yield running


@pytest.fixture(scope="session")
def limited(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own that allows each key one request a minute; it starts no engine."""
    bounds = {"LLMARINER_REQUESTS_PER_MINUTE": "1", "LLMARINER_WARM_PARENT": "0"}
    with _up(tmp_path_factory.mktemp("limited"), **bounds) as running:
        yield running


@pytest.fixture(scope="session")
def variables(platform: Platform, limited: Platform) -> Callable[[], Variables]:
    """Makes the environment of one client's run: keys of its own, nothing of the user's."""

    def made() -> Variables:
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(platform.home),
            "OPENAI_BASE_URL": v1(platform),
            "OPENAI_API_KEY": platform.api_key,
            "OPENAI_RESTRICTED_KEY": new_key(platform, scopes=["api.files.read", "api.model.read"]),
            "OPENAI_LIMITED_BASE_URL": v1(limited),
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


def v1(platform: Platform) -> str:
    """The base URL as SDKs take it."""
    return platform.base_url.removesuffix("/v1") + "/v1"


def new_key(platform: Platform, scopes: list[str] | None = None) -> str:
    """The secret of a new key."""
    body = json.dumps({"name": f"client {secrets.token_hex(4)}", "scopes": scopes}).encode()
    head = {"authorization": f"Bearer {platform.api_key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{v1(platform)}/api_keys", body, head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["secret"])


def cancelled_requests(platform: Platform) -> int:
    """How many requests ended because the caller hung up, since the platform started."""
    with urllib.request.urlopen(platform.base_url.removesuffix("/v1") + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("llmariner_requests_total") and 'outcome="cancelled"' in line]
    return sum(int(line.rsplit(" ", 1)[1]) for line in counts)


@contextmanager
def _up(home: Path, **settings: str) -> Iterator[Platform]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "LLMARINER_HOME": str(home), "LLMARINER_PORT": str(port), **settings}
    llma = str(Path(sys.executable).with_name("llma"))
    started = subprocess.run([llma, "up"], check=False, capture_output=True, text=True, timeout=UP_SECONDS, env=env)
    assert started.returncode == 0, started.stdout[-2000:] + started.stderr[-2000:]
    try:
        yield Platform(f"http://127.0.0.1:{port}", (home / "admin.key").read_text().strip(), home)
    finally:
        subprocess.run([llma, "down"], check=True, capture_output=True, timeout=DOWN_SECONDS, env=env)
