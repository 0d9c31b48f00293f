"""The server process of Milvus Lite: who may speak to it, when it starts, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from llmariner.platform.serving.static import StaticServing
from llmariner.platform.vectors import Chunk, Collection, VectorIndexUnavailable
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.settings import Secret, StandaloneSettings, VectorSettings
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.standalone.platform import StandalonePlatform

from .test_daemon import environment_of

COLLECTION = Collection("test/embedding", 4)
HERE = Chunk("vsf_1-0", "vs_1", "file-1", "here", [1.0, 0.0, 0.0, 0.0], {})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusLiteProcess]:
    process = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus-lite.log")
    yield process
    process.close()


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]:
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.02)


def test_starts_when_it_is_used_and_ends_when_it_is_closed(server: MilvusLiteProcess, tmp_path: Path) -> None:
    assert server.pid is None
    assert not (tmp_path / "milvus").exists()
    server.settings()
    pid = server.pid
    assert pid is not None
    assert server.settings() is server.settings()

    server.close()

    wait_until_ended(pid)
    with pytest.raises(VectorIndexUnavailable, match="stopping"):
        server.settings()


def addresses_of_listeners(port: int) -> set[str]:
    """The last four bytes, in hexadecimal, of the local addresses that anything listens on at a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {
        fields[1].split(":")[0][-8:] for fields in lines if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")
    }


def test_only_the_platform_and_only_this_machine_may_ask(server: MilvusLiteProcess) -> None:
    settings = server.settings()
    port = int(settings.uri.rsplit(":", 1)[1])
    assert addresses_of_listeners(port) == {"0100007F"}
    for token in ("", "wrong", "root:Milvus"):
        wrong = VectorSettings(settings.uri, token=Secret(token), seconds=2)
        outsider = MilvusIndex(partial(lambda known, _seconds: known, wrong))
        with pytest.raises(VectorIndexUnavailable):
            outsider.ensure(COLLECTION)


def test_folder_is_private_and_token_is_no_argument(server: MilvusLiteProcess, tmp_path: Path) -> None:
    token = server.settings().token.reveal().encode()
    assert (tmp_path / "milvus").stat().st_mode & 0o777 == 0o700
    assert token not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert token not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_a_caller_may_wait_for_less_than_the_start(server: MilvusLiteProcess) -> None:
    with pytest.raises(VectorIndexUnavailable, match="is starting"):
        server.settings(0.001)
    first = server.settings()
    assert server.settings(0.001) is first


def test_a_start_ends_with_the_platform(tmp_path: Path) -> None:
    starting = MilvusLiteProcess(tmp_path / "milvus", tmp_path / "milvus-lite.log")
    with pytest.raises(VectorIndexUnavailable, match="is starting"):
        starting.settings(0.001)
    starting.close()
    assert starting.pid is None
    with pytest.raises(VectorIndexUnavailable, match="stopping"):
        starting.settings()


def test_starts_again_after_a_crash(server: MilvusLiteProcess) -> None:
    index = MilvusIndex(server.settings)
    index.upsert(COLLECTION, "proj_1", [HERE])
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    assert index.chunk_counts(COLLECTION, "proj_1", "vs_1") == {"file-1": 1}
    assert server.pid not in (None, first)
    index.close()


PARENT = """
import sys, time
from pathlib import Path
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
server = MilvusLiteProcess(Path(sys.argv[1]), Path(sys.argv[2]))
print(server.settings().uri, server.pid, flush=True)
time.sleep(600)
"""


def test_ends_with_a_killed_platform_and_frees_the_folder_for_the_next(
    server: MilvusLiteProcess, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "milvus"), str(tmp_path / "milvus-lite.log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    parent.stdout.close()

    index = MilvusIndex(server.settings)
    index.upsert(COLLECTION, "proj_1", [HERE])

    wait_until_ended(orphan)
    assert index.chunk_counts(COLLECTION, "proj_1", "vs_1") == {"file-1": 1}
    index.close()


def test_failed_start_names_the_log_and_is_not_repeated_at_once(tmp_path: Path) -> None:
    (tmp_path / "milvus").mkdir()
    (tmp_path / "milvus" / "LOCK").mkdir()
    log = tmp_path / "milvus-lite.log"
    server = MilvusLiteProcess(tmp_path / "milvus", log)
    with pytest.raises(VectorIndexUnavailable, match=r"ended with status 1. See .*milvus-lite.log"):
        server.settings()
    size = log.stat().st_size
    assert size > 0
    with pytest.raises(VectorIndexUnavailable):
        server.settings()
    assert log.stat().st_size == size
    server.close()


def platform_of(env: dict[str, str]) -> StandalonePlatform:
    settings = StandaloneSettings.load(env)
    return StandalonePlatform(settings, env, EngineEnvironment(settings.cache, engine_lock()))


def test_platform_has_an_index_of_its_own_and_ends_it(tmp_path: Path) -> None:
    env = environment_of(tmp_path / "home", tmp_path / "cache")
    # It is stopped without having been started, and so has no serving adapter of its own.
    platform = platform_of(env)
    platform.context.serving = StaticServing("{}")
    platform.prepare()
    platform.context.vectors.upsert(COLLECTION, "proj_1", [HERE])
    assert (tmp_path / "home" / "vectors").stat().st_mode & 0o777 == 0o700
    (pid,) = children_with(b"milvus_lite.server")

    asyncio.run(platform.stop())

    wait_until_ended(pid)
    assert (tmp_path / "home" / "logs" / "milvus-lite.log").exists()


def children_with(argument: bytes) -> list[int]:
    """Child processes of this process whose command line has a text."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if argument in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_platform_uses_the_milvus_of_its_settings(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        env = environment_of(tmp_path / "home", tmp_path / "cache") | {"LLMARINER_MILVUS_URI": uri}
        with pytest.raises(VectorIndexUnavailable):
            platform_of(env).context.vectors.ensure(COLLECTION)
    assert not (tmp_path / "home" / "vectors").exists()
