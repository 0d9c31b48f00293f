"""Standalone weights: each model has its own folder, and nothing else is removed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import ModelNotFound, NotFound
from llmariner.models.model import ActivationStatus, LoadingStatus, Model, ModelConfig, SourceRepository, Task
from llmariner.models.weights import WeightsUnavailable
from llmariner.standalone.engine.scripts import ScriptInterrupted
from llmariner.standalone.weights import LocalWeights

from .scripted_hub import environment_with_hub, no_file

MODEL = Model(
    id="org/a",
    created_at=1_790_000_000,
    project_id=None,
    owned_by="system",
    source_repository=SourceRepository.HUGGING_FACE,
    model_file_location="org/repository",
    format="HUGGING_FACE",
    task=Task.GENERATE,
    base_model_id=None,
    loading_status=LoadingStatus.REQUESTED,
    loading_progress=0.0,
    loading_message="",
    loading_failure_reason="",
    activation_status=ActivationStatus.INACTIVE,
    folder="",
    size_bytes=0,
    config=ModelConfig(),
    revision=1,
    approved=True,
)


@pytest.fixture
def weights(tmp_path: Path) -> LocalWeights:
    return LocalWeights(tmp_path / "home" / "models", environment_with_hub(tmp_path), no_file)


def ignore_progress(_progress: float, _message: str) -> None:
    """Ignore the progress."""


def fetched(weights: LocalWeights, model: Model) -> Path:
    folder = Path(weights.fetch(model, ignore_progress).folder)
    assert (folder / "model.safetensors").is_file()
    return folder


def test_models_of_one_repository_have_separate_weights(weights: LocalWeights) -> None:
    first, second = fetched(weights, MODEL), fetched(weights, replace(MODEL, id="org/b"))
    weights.discard("org/b", str(second))
    assert (first.is_dir(), second.exists()) == (True, False)


def test_a_recreated_model_survives_the_deletion_of_the_first(weights: LocalWeights) -> None:
    old, new = fetched(weights, MODEL), fetched(weights, replace(MODEL, created_at=MODEL.created_at + 1))
    for _ in range(2):
        weights.discard(MODEL.id, str(old))
    assert (old.exists(), new.is_dir()) == (False, True)


def test_downloaded_weights_are_not_downloaded_again(weights: LocalWeights) -> None:
    folder = fetched(weights, MODEL)
    (folder / "touched").touch()
    assert (fetched(weights, replace(MODEL, revision=7, loading_progress=0.5)) / "touched").exists()


def test_ids_with_similar_file_names_have_different_folders(weights: LocalWeights) -> None:
    ids = ["org/a", "org-a", "org:a", "ORG/a", "..", "../..", "a" * 200, "a" * 201, "ä"]
    folders = [fetched(weights, replace(MODEL, id=each)) for each in ids]
    assert len(set(folders)) == len(ids)
    assert len({folder.parent for folder in folders}) == 1


def test_a_folder_that_was_not_downloaded_is_never_removed(weights: LocalWeights, tmp_path: Path) -> None:
    home = fetched(weights, MODEL).parent
    outside = tmp_path / "precious"
    named_alike = tmp_path / fetched(weights, MODEL).name
    for folder in (outside, named_alike):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    link = home / f"{named_alike.name}x"
    link.symlink_to(outside)
    by_detour = f"{home}/{named_alike.name}/../../../precious"
    folders = [str(path) for path in (outside, home / "../../precious", named_alike, link, home, home / "..", tmp_path)]
    for location in (*folders, by_detour, "/", ".", "hf://org/name", ""):
        weights.discard(MODEL.id, location)
    assert (outside / "model.safetensors").exists()
    assert (named_alike / "model.safetensors").exists()
    assert fetched(weights, MODEL).is_dir()


def test_a_local_model_inside_a_downloaded_folder_removes_nothing(weights: LocalWeights) -> None:
    folder = fetched(weights, MODEL)
    local = replace(MODEL, id="mine", source_repository=SourceRepository.LOCAL, model_file_location=str(folder))
    assert Path(weights.fetch(local, ignore_progress).folder) == folder
    weights.discard("mine", str(folder))
    assert folder.is_dir()


ENDLESS = replace(MODEL, model_file_location="endless/model")


def started(folder: Path) -> int:
    """The process id of the one download under way."""
    deadline = time.monotonic() + 20
    while not (found := [text for file in folder.glob("*.part/pid") if (text := file.read_text())]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(found[0])


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_download_stops_with_the_platform_and_resumes(weights: LocalWeights, tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def fetch() -> None:
        try:
            weights.fetch(ENDLESS, ignore_progress)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    pid = started(tmp_path / "home" / "models")
    weights.close()
    thread.join(20)
    assert [type(error) for error in raised] == [ScriptInterrupted]
    assert gone(pid)
    assert list((tmp_path / "home" / "models").glob("*.part"))
    with pytest.raises(ScriptInterrupted):
        weights.fetch(replace(MODEL, id="another"), ignore_progress)


def test_a_download_of_a_deleted_model_stops_and_leaves_nothing(weights: LocalWeights, tmp_path: Path) -> None:
    def deleted(_progress: float, _message: str) -> None:
        raise ModelNotFound(MODEL.id)

    with pytest.raises(ModelNotFound):
        weights.fetch(ENDLESS, deleted)
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_an_adapter_of_a_fine_tuning_job_is_made_of_its_file(tmp_path: Path) -> None:
    header = json.dumps({"base_model.model.q_proj.lora_A.weight": {"dtype": "F32", "shape": [4, 8]}}).encode()
    asked = []

    def read_file(project_id: str, file_id: str) -> Iterator[bytes]:
        asked.append((project_id, file_id))
        if file_id == "file-gone":
            raise NotFound("No such file.")
        yield len(header).to_bytes(8, "little") + header if file_id == "file-1" else b"a pickle, perhaps"

    weights = LocalWeights(tmp_path / "models", environment_with_hub(tmp_path), read_file)
    adapter = replace(
        MODEL, source_repository=SourceRepository.FINE_TUNING, base_model_id="org/base", project_id="proj_1"
    )
    for _ in range(2):
        folder = Path(weights.fetch(replace(adapter, model_file_location="file-1"), ignore_progress).folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert asked == [("proj_1", "file-1")], "it is fetched once"
    for file_id, said in (("file-gone", "was deleted"), ("file-2", "no adapter")):
        with pytest.raises(WeightsUnavailable, match=said):
            weights.fetch(replace(adapter, model_file_location=file_id), ignore_progress)
    weights.discard(adapter.id, str(folder))
    assert not folder.exists()
