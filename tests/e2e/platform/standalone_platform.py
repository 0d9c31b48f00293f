"""A whole platform of this machine, as `llma up` starts it, with the real engine: in a home of its own.

The cache folder (engine environment, models) is this machine's own and is shared with every other platform here; what is
missing in it is made by the first `up`, which takes minutes. Other end-to-end tests import the fixture `platform`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving.local_processes.engine import log_name
from llmariner.platform.serving.local_processes.memory import available_bytes
from llmariner.settings import StandaloneSettings, environment

__all__ = ["CHAT_MODEL", "EMBEDDING_MODEL", "Platform", "Stream", "platform", "the_one_engine_session"]

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
_LLMA = Path(sys.executable).with_name("llma")
_UP_SECONDS = 1200
_WAIT = {"prefer": "wait=300"}
_HELD = "LLMARINER_ENGINE_TESTS"


@contextlib.contextmanager
def the_one_engine_session() -> Iterator[None]:
    """Real engines are tested by one session of this machine at a time: they need most of a small machine."""
    cache = StandaloneSettings.load(environment()).cache
    cache.mkdir(parents=True, exist_ok=True)
    if os.environ.get(_HELD) == str(os.getpid()):
        yield  # held by this session already
        return
    with (cache / "engine-tests.lock").open("w") as file:
        deadline = time.monotonic() + 900
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            assert time.monotonic() < deadline, "another session tests real engines"
            time.sleep(1)
        os.environ[_HELD] = str(os.getpid())
        try:
            yield
        finally:
            del os.environ[_HELD]


@dataclass
class Stream:
    """A streamed answer as it comes."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    comments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        return str(self.response.headers["x-request-id"])

    def events(self) -> Iterator[Any]:
        """The events up to `[DONE]`; comments are kept aside."""
        while line := self.response.readline():
            if line.startswith(b": "):
                self.comments.append(json.loads(line[2:]))
            elif line == b"data: [DONE]\n":
                return
            elif line.startswith(b"data: "):
                yield json.loads(line[6:])

    def hang_up(self) -> None:
        self.response.close()
        self.connection.close()


class Platform:
    """A home folder, its port and its administrator's key. `registry_port`: where it looks for an Ollama registry."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.host, self.port = "127.0.0.1", _free_port()
        self.registry_port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMARINER_")}
        cache = str(StandaloneSettings.load(environment()).cache)
        self.environment |= {"LLMARINER_HOME": str(home), "LLMARINER_CACHE": cache, "LLMARINER_PORT": str(self.port)}
        self.environment |= {"LLMARINER_BASE_URL": self.base_url, "XDG_CONFIG_HOME": str(home / "config")}
        self.environment["LLMARINER_OLLAMA_REGISTRY"] = f"http://127.0.0.1:{self.registry_port}"
        # More threads than free cores cost an engine most of its speed.
        self.environment["LLMARINER_ENGINE_THREADS"] = "1"

    @property
    def api_key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.home / 'platform.db'}"

    @property
    def pid(self) -> int:
        return int(json.loads((self.home / "platform.json").read_text())["pid"])

    def llma(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command against this platform."""
        command = [str(_LLMA), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def up(self) -> float:
        """Start it; returns how many seconds that took."""
        began = time.monotonic()
        done = self.llma("up", seconds=_UP_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return time.monotonic() - began

    def down(self) -> None:
        done = self.llma("down")
        assert done.returncode == 0, done.stdout + done.stderr

    def open(self, path: str, body: dict[str, Any]) -> Stream:
        """Post a body; the answer's head has come."""
        connection = self.send(path, body)
        return Stream(connection, connection.getresponse())

    def send(self, path: str, body: dict[str, Any]) -> http.client.HTTPConnection:
        """Post a body, and wait for nothing."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=320)
        headers = {"authorization": f"Bearer {self.api_key}", "content-type": "application/json", **_WAIT}
        connection.request("POST", path, json.dumps(body), headers)
        return connection

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer; the header's request id is put into it as `request_id`."""
        stream = self.open(path, body)
        raw = stream.response.read()
        stream.hang_up()
        assert stream.response.status == 200, raw
        return {**json.loads(raw), "request_id": stream.request_id}

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        return self.post("/v1/chat/completions", self.chat_body(text, **fields))

    def chat_body(self, text: str, **fields: Any) -> dict[str, Any]:
        return {
            "model": CHAT_MODEL,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 40,
            **fields,
        }

    def log(self, model: str = CHAT_MODEL) -> str:
        return (self.home / "logs" / log_name(model)).read_text(errors="replace")

    def engine_metric(self, name: str, model: str = CHAT_MODEL) -> int:
        """A count that the engine itself keeps."""
        rows = self.engine_metrics(model).splitlines()
        return int(sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(f"{name}{{")))

    def engine_metrics(self, model: str) -> str:
        """What the model's engine counts, asked on the socket that it listens on."""
        path = re.findall(r"unix:(/\S+\.sock)", self.log(model))[-1]
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(path)
        connection.request("GET", "/metrics")
        counted = connection.getresponse().read().decode()
        connection.close()
        return counted

    def gateway_metrics(self) -> str:
        """What the functions of the token path count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def processes(self) -> list[int]:
        """The launcher and engines of this home, found by the mark in their environment."""
        mark, found = f"LLMARINER_ENGINES_OF={self.home / 'logs'}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


def _free_port() -> int:
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_THE_ONE = pytest.StashKey[Platform]()


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The one platform of this session, whichever folders' tests ask for it; ended with the session."""
    if _THE_ONE in pytestconfig.stash:
        return pytestconfig.stash[_THE_ONE]
    if os.environ.get("LLMARINER_E2E_CLUSTER") == "1":
        # Imported on use: the test cluster is not needed on one machine.
        from .on_cluster import ClusterPlatform

        made: Platform = ClusterPlatform(tmp_path_factory.mktemp("home"))
        made.up()
        pytestconfig.stash[_THE_ONE] = made
        return made
    if available_bytes() < 4 << 30:
        pytest.skip("a real engine needs 4 GiB of free memory")
    ends = contextlib.ExitStack()
    pytestconfig.add_cleanup(ends.close)
    ends.enter_context(the_one_engine_session())
    found = Platform(tmp_path_factory.mktemp("home"))
    ends.callback(_end, found)
    print(f"\nup after {found.up():.1f} s")
    pytestconfig.stash[_THE_ONE] = found
    return found


def _end(platform: Platform) -> None:
    if (platform.home / "platform.json").exists():
        platform.llma("down")
    shutil.rmtree(platform.home, ignore_errors=True)
