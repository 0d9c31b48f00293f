"""What is fetched or made in vain leaves the disk, since nobody could delete it; what can not fit is not begun."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import ModelNotFound
from llmariner.models.model import SourceRepository
from llmariner.models.weights import LoadingProgress, WeightsUnavailable
from llmariner.settings import ModelSettings
from llmariner.standalone.engine import tool_model
from llmariner.standalone.engine.tool_model import TOOL_MODEL
from llmariner.standalone.weights import LocalWeights

from .model_server import ModelServer, running_server
from .script_environment import no_file, script_environment
from .test_weights import MODEL, ignore_progress
from .tiny_model_files import CONFIG, gguf_model, safetensors

TOOLS = replace(MODEL, model_file_location=TOOL_MODEL)
HALF_DONE = """
import pathlib, sys
target = sys.argv[-1]
for suffix in (".part", ".work"):
    pathlib.Path(target + suffix).mkdir()
    pathlib.Path(target + suffix, "file").write_text("x")
raise SystemExit("it fails")
"""
MADE_ONCE = """
import json, pathlib, shutil, sys, time
target, ready = pathlib.Path(sys.argv[-1]), pathlib.Path(__file__).with_name("ready")
with pathlib.Path(__file__).with_name("runs").open("a") as runs:
    runs.write("run\\n")
part = target.with_name(target.name + ".part")
part.mkdir()
print(json.dumps({"done": 0, "total": 1, "what": "making"}), flush=True)
until = time.monotonic() + 90
while not ready.exists() and time.monotonic() < until:
    time.sleep(0.05)
shutil.copytree(ready, part, dirs_exist_ok=True)
part.replace(target)
"""
ENDLESS = """
import json, time
print(json.dumps({"done": 0, "total": 1, "what": "training"}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


@pytest.fixture
def weights(tmp_path: Path, server: ModelServer, script: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWeights:
    monkeypatch.setattr(tool_model, "_SCRIPT", script)
    settings = ModelSettings(hub=server.url)
    environment = script_environment(tmp_path)
    return LocalWeights(tmp_path / "models", environment, no_file, settings)


def left(folder: Path) -> set[str]:
    """The files in a folder, but the lock of its store."""
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"lock"}


def test_what_no_engine_can_serve_leaves_the_disk(
    server: ModelServer, weights: LocalWeights, script: Path, tmp_path: Path
) -> None:
    script.write_text(HALF_DONE)
    for files in (
        {"config.json": CONFIG, "model.safetensors": b"x" * 1000},
        {"config.json": b"[]", "model.safetensors": safetensors()},
        {"adapter_config.json": CONFIG, "model.safetensors": safetensors()},
        {"model/config.pbtxt": b"x"},
        {"model.gguf": gguf_model({"tokenizer.ggml.pre": "unheard-of"})},
    ):
        server.repositories["org/repository"] = files
        with pytest.raises(WeightsUnavailable):
            weights.fetch(MODEL, ignore_progress)
        assert left(tmp_path / "models") == set(), files
    with pytest.raises(WeightsUnavailable, match="it fails"):
        weights.fetch(TOOLS, ignore_progress)
    assert left(tmp_path / "models") == set()


def test_a_local_file_whose_conversion_fails_stays_where_it_is(weights: LocalWeights, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(gguf_model()[:-1000])
    with pytest.raises(WeightsUnavailable, match="ends before its tensor"):
        weights.fetch(
            replace(MODEL, source_repository=SourceRepository.LOCAL, model_file_location=str(folder)), ignore_progress
        )
    assert (left(folder), left(tmp_path / "models")) == ({"model.gguf"}, set())


class Memory:
    """A budget with room for all, or one that does not answer."""

    def __init__(self, *, silent: bool = False, small: bool = False) -> None:
        self._small = small
        self.held: set[str] = set()
        self.owners: list[str] = []
        self._silent = silent

    def reserve(self, owner: str, _project_id: str, _size_bytes: int) -> str:
        self.owners.append(owner)
        self.held.add(owner)  # also where the caller does not wait for the answer
        if self._silent:
            raise TimeoutError
        return ""

    def release(self, owner: str) -> None:
        self.held.discard(owner)

    def refusal(self, size_bytes: int) -> str:
        return "It needs 2560 MiB of memory." if self._small else ""


def test_a_training_whose_model_is_deleted_gives_back_its_disk_and_its_own_memory(
    weights: LocalWeights, script: Path, tmp_path: Path
) -> None:
    def deleted(progress: LoadingProgress) -> None:
        assert len(memory.held) == 1, progress
        raise ModelNotFound("m")

    script.write_text(ENDLESS)
    weights.memory = memory = Memory()
    for model in (TOOLS, replace(TOOLS, created_at=TOOLS.created_at + 1)):
        with pytest.raises(ModelNotFound):
            weights.fetch(model, deleted)
    assert (memory.held, left(tmp_path / "models")) == (set(), set())
    assert len(set(memory.owners)) == 2, "one that is created again under the id has a reservation of its own"


def test_a_budget_that_does_not_answer_is_asked_again_later(weights: LocalWeights) -> None:
    weights.memory = memory = Memory(silent=True)
    with pytest.raises(TimeoutError):
        weights.fetch(TOOLS, ignore_progress)
    assert memory.held == set()


def test_a_training_that_never_fits_is_refused(weights: LocalWeights) -> None:
    weights.memory = memory = Memory(small=True)
    with pytest.raises(WeightsUnavailable, match=r"needs 2560 MiB of memory.*then retry the model"):
        weights.fetch(TOOLS, ignore_progress)
    assert memory.owners == []


def test_a_conversion_that_does_not_fit_is_not_begun(
    weights: LocalWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=400 << 20))
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "x.gguf").write_bytes(gguf_model())
    local = replace(MODEL, source_repository=SourceRepository.LOCAL, model_file_location=str(folder))
    with pytest.raises(WeightsUnavailable, match=r"converted model needs 0\.5 GB on the disk, and 0\.4 GB are free"):
        weights.fetch(local, ignore_progress)


def test_a_fetch_that_was_killed_before_it_was_recorded_leaves_nothing_after_a_deletion(
    server: ModelServer, weights: LocalWeights, tmp_path: Path
) -> None:
    server.repositories["org/repository"] = {"config.json": CONFIG, "model.safetensors": safetensors()}
    later = replace(MODEL, created_at=MODEL.created_at + 1)
    for model in (MODEL, later):
        weights.fetch(model, ignore_progress)  # and the registry never heard of it
    weights.discard(MODEL.id, "", later)
    assert Path(weights.fetch(later, ignore_progress).folder).is_dir()
    assert len(list((tmp_path / "models").glob("*-*"))) == 1
    weights.discard(MODEL.id, "")
    assert left(tmp_path / "models") == set()


def test_what_does_not_fit_together_is_not_begun(
    server: ModelServer, weights: LocalWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=(512 << 20) + 1500))
    weight_files = {f"{number}.safetensors": safetensors(seed=number) for number in range(2)}
    server.repositories["org/repository"] = {"config.json": CONFIG, **weight_files}
    with pytest.raises(WeightsUnavailable, match=r"'config\.json' and the other files together need 0\.5 GB"):
        weights.fetch(MODEL, ignore_progress)
    assert server.total_sent() == 0


def test_partial_files_that_nobody_continues_make_room(
    server: ModelServer, weights: LocalWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    abandoned = blobs / f"sha256-{'0' * 64}.part"
    abandoned.write_bytes(b"x" * 1000)
    usage = shutil.disk_usage(tmp_path)

    def free(_path: object) -> object:
        return usage._replace(free=(600 << 20) if not abandoned.exists() else 0)

    monkeypatch.setattr(shutil, "disk_usage", free)
    server.repositories["org/repository"] = {"config.json": CONFIG, "model.safetensors": safetensors()}
    assert weights.fetch(MODEL, ignore_progress).size_bytes > 0
    assert not abandoned.exists()


def test_a_model_that_is_delivered_twice_at_once_is_made_once(
    weights: LocalWeights, script: Path, tmp_path: Path
) -> None:
    script.write_text(MADE_ONCE)
    waits = threading.Event()

    def on_progress(progress: LoadingProgress) -> None:
        if "under way" in progress.message:
            waits.set()

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(weights.fetch, TOOLS, on_progress) for _ in range(2)]
        assert waits.wait(60)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "config.json").write_bytes(CONFIG)
        (tmp_path / "new" / "model.safetensors").write_bytes(safetensors())
        (tmp_path / "new").rename(tmp_path / "ready")
        assert both[0].result(60) == both[1].result(60)
    assert (tmp_path / "runs").read_text() == "run\n"
    assert not list((tmp_path / "models").glob("*.lock"))


def test_a_conversion_whose_model_is_deleted_leaves_the_disk(
    server: ModelServer, weights: LocalWeights, tmp_path: Path
) -> None:
    server.repositories["org/repository"] = {"model.gguf": gguf_model()}

    def on_progress(progress: LoadingProgress) -> None:
        if "converting" in progress.message:
            raise ModelNotFound("deleted")

    with pytest.raises(ModelNotFound):
        weights.fetch(MODEL, on_progress)
    assert left(tmp_path / "models") == set()


def test_a_disk_that_is_full_at_the_end_keeps_nothing(
    server: ModelServer, weights: LocalWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    server.repositories["org/repository"] = {"config.json": CONFIG, "model.safetensors": safetensors()}
    with pytest.raises(WeightsUnavailable, match="No space left"):
        weights.fetch(MODEL, ignore_progress)
    assert left(tmp_path / "models") == set()
