"""Fetching files from a hub: ranges, resuming, digests, one copy of each content, room on the disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmariner.platform.model_files import FilesUnavailable, TransferInterrupted
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.fetch import FetchProgress, fetch_files
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ranges import TransferLimits

from .model_server import ModelServer, running_server
from .tiny_model_files import CONFIG, safetensors

REPOSITORY = "org/model"
BIG = safetensors(18 << 20)
QUICK = TransferLimits(first_pause=0.02, patience=60)


def ignore(_progress: FetchProgress) -> None:
    """Ignore the progress."""


def source_of(server: ModelServer, location: str = REPOSITORY, token: str = "") -> HuggingFaceSource:
    return HuggingFaceSource(location, endpoint=server.url, token=token)


def fetch(
    server: ModelServer,
    target: Path,
    blobs: BlobStore,
    report: Callable[[FetchProgress], None] = ignore,
    limits: TransferLimits = QUICK,
) -> Path:
    source = source_of(server)
    fetch_files(source, source.list_files().files, target, blobs, report, limits)
    return target


def stalls_after_two_ranges(_path: str, start: int, _count: int) -> str:
    """A fault: what is after the first two ranges does not come."""
    return "stall" if start >= 8 << 20 else ""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models" / "blobs")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "m"


def test_a_model_is_fetched_by_ranges_with_its_progress(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    files = {"config.json": CONFIG, "model.safetensors": BIG, "1_Pooling/config.json": b"{}", "empty.txt": b""}
    server.repositories[REPOSITORY] = {**files, ".gitattributes": b"x"}
    seen: list[FetchProgress] = []
    fetch(server, target, blobs, seen.append)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == files
    assert len({wanted for path, wanted, _ in server.requests if "/cdn/" in path}) > 3, "by several ranges"
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (sum(map(len, files.values())),) * 2


@pytest.mark.parametrize("kind", ["drop", "503"])
def test_a_source_that_fails_at_times_costs_only_what_is_missing(
    kind: str, server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    failed: set[int] = set()

    def fault(_path: str, start: int, _count: int) -> str:
        first = start not in failed and len(failed) < 6
        failed.add(start)
        return kind if first else ""

    server.fault = fault
    fetch(server, target, blobs)
    assert (target / "model.safetensors").read_bytes() == BIG
    assert server.total_sent() <= len(BIG) + 1


def test_a_source_that_stays_silent_is_given_up_and_resumed(
    server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    server.fault = lambda _path, start, _count: "503" if start >= 8 << 20 else ""
    with pytest.raises(FilesUnavailable, match="Retry the model"):
        fetch(server, target, blobs, limits=TransferLimits(first_pause=0.02, patience=2))
    assert not target.exists()
    server.fault = lambda *_: ""
    fetch(server, target, blobs)
    assert (target / "model.safetensors").read_bytes() == BIG
    assert server.total_sent() < len(BIG) + (8 << 20), "a finished range is not fetched again"


def test_a_source_that_sends_byte_by_byte_is_given_up(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    server.fault = lambda *_: "drip"
    with pytest.raises(FilesUnavailable, match=r"too slow.*less than 1 MiB in 1 s"):
        fetch(server, target, blobs, limits=TransferLimits(patience=1))


def test_content_that_is_not_what_the_source_said_is_refused(
    server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    for name, content, what in (("model.safetensors", BIG, "SHA-256"), ("config.json", CONFIG, "Git digest")):
        server.repositories[REPOSITORY] = {name: content}
        server.fault = lambda *_: "lie"
        with pytest.raises(FilesUnavailable, match=f"{what} differs"):
            fetch(server, target, blobs)
    assert not target.exists()
    assert not [path for path in (target.parent / "blobs").iterdir() if path.name != "lock"]


def test_damage_by_a_power_failure_is_found_and_fetched_again(
    server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}

    def interrupted(progress: FetchProgress) -> None:
        if progress.done_bytes >= 8 << 20:
            raise KeyboardInterrupt

    server.fault = stalls_after_two_ranges

    with pytest.raises(KeyboardInterrupt):
        fetch(server, target, blobs, interrupted)
    server.fault = lambda *_: ""
    (part,) = (target.parent / "blobs").glob("*.part")
    with part.open("r+b") as file:
        file.write(b"\0" * 100)
    part.with_suffix(".ranges").write_bytes(b"\1" * 99)
    fetch(server, target, blobs)
    assert (target / "model.safetensors").read_bytes() == BIG


def test_a_content_of_two_models_is_on_the_disk_once(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    server.repositories[REPOSITORY] = {"config.json": CONFIG, "model.safetensors": BIG, "copy.safetensors": BIG}
    other = target.with_name("other")
    fetch(server, target, blobs)
    sent = server.total_sent()
    fetch(server, other, blobs)
    inodes = {
        (folder / name).stat().st_ino
        for folder in (target, other)
        for name in ("model.safetensors", "copy.safetensors")
    }
    assert len(inodes) == 1
    assert server.total_sent() - sent < 1000, "the weights are here already"
    assert (target / "config.json").stat().st_ino == (other / "config.json").stat().st_ino
    shutil.rmtree(target)
    assert blobs.free_unused() == 0
    shutil.rmtree(other)
    assert blobs.free_unused() == len(BIG) + len(CONFIG)


def test_a_stored_file_is_given_only_where_the_source_has_it(
    server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    fetch(server, target, blobs)
    source = source_of(server)
    files = source.list_files().files
    server.repositories.clear()  # the listing names its digest, and nobody serves it
    with pytest.raises(FilesUnavailable):
        fetch_files(source, files, target.with_name("other"), blobs, ignore, QUICK)


def test_two_fetches_of_one_content_transfer_it_once(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    server.bytes_per_second = 20e6
    targets = [target, target, target.with_name("other")]
    threads = [threading.Thread(target=fetch, args=(server, each, blobs)) for each in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(each / "model.safetensors").read_bytes() == BIG for each in targets] == [True] * 3
    assert server.total_sent() < len(BIG) + 1000


def test_files_of_an_earlier_commit_are_not_mixed_with_later_ones(
    server: ModelServer, target: Path, blobs: BlobStore
) -> None:
    server.repositories[REPOSITORY] = {"config.json": b'{"a": 1}', "model.safetensors": BIG}

    def interrupted(progress: FetchProgress) -> None:
        if progress.done_bytes >= 8 << 20:
            raise KeyboardInterrupt

    server.fault = stalls_after_two_ranges

    with pytest.raises(KeyboardInterrupt):
        fetch(server, target, blobs, interrupted)
    server.commit, server.fault = "0" * 40, lambda *_: ""
    server.repositories[REPOSITORY]["config.json"] = b'{"a": 2}'
    fetch(server, target, blobs)
    assert (target / "config.json").read_bytes() == b'{"a": 2}'
    assert [path.name for path in target.parent.iterdir() if path.name.startswith("m")] == ["m"]


def test_a_server_without_ranges_serves_small_files(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    server.serves_ranges = False
    server.repositories[REPOSITORY] = {"model.safetensors": BIG[: 1 << 20]}
    fetch(server, target, blobs)
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    with pytest.raises(FilesUnavailable, match="no ranges"):
        fetch(server, target.with_name("other"), blobs)


def test_a_disk_without_room_is_named_before_the_transfer(
    server: ModelServer, target: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    usage = shutil.disk_usage(target.anchor)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=100_000_000))
    with pytest.raises(FilesUnavailable, match=r"needs 0\.6 GB .* 0\.1 GB are free\. Delete models"):
        fetch(server, target, blobs)
    assert server.total_sent() <= 1


def test_a_cancellation_does_not_wait_for_a_silent_source(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    server.repositories[REPOSITORY] = {"model.safetensors": BIG}
    server.fault = lambda *_: "stall"
    began = time.monotonic()

    def cancelled(_progress: FetchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, target, blobs, cancelled)
    assert time.monotonic() - began < 30, "the socket would wait for 60 s"


PROGRAM = """
import sys
from pathlib import Path
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.fetch import fetch_files
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
target = Path(sys.argv[2])
source = HuggingFaceSource("org/model", endpoint=sys.argv[1])
fetch_files(source, source.list_files().files, target, BlobStore(target.parent / "blobs"), lambda progress: None)
"""


def test_a_loader_killed_at_any_moment_resumes(server: ModelServer, target: Path, blobs: BlobStore) -> None:
    files = {"config.json": CONFIG, "a.safetensors": BIG, "b.safetensors": safetensors(18 << 20, seed=2)}
    server.repositories[REPOSITORY] = files
    server.bytes_per_second = 8e6
    generator = random.Random(7)
    kills = 0
    while kills < 6:
        wanted = server.total_sent() + generator.randint(1, 7 << 20)
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, str(target)], stderr=subprocess.PIPE)
        while process.poll() is None and server.total_sent() < wanted:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
    server.bytes_per_second = 0
    fetch(server, target, blobs)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files
    assert kills >= 1
    # At most the ranges that were under way are fetched again: four of 4 MiB for each kill.
    assert server.total_sent() < sum(map(len, files.values())) + kills * (17 << 20)
    assert not list((target.parent / "blobs").glob("*.part"))


def test_interruptions_of_a_listing_can_be_retried(server: ModelServer) -> None:
    source = source_of(server)
    server.released.set()
    source = HuggingFaceSource(REPOSITORY, endpoint="http://127.0.0.1:9")
    with pytest.raises(TransferInterrupted, match="does not answer"):
        source.list_files()
