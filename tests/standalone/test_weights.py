"""Standalone weights: each model has its own folder, and nothing else is removed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import ModelNotFound, NotFound
from llmariner.models.model import ActivationStatus, LoadingStatus, Model, ModelConfig, SourceRepository, Task
from llmariner.models.traits import ModelTraits
from llmariner.models.weights import LoadingProgress, WeightsUnavailable
from llmariner.settings import ModelSettings
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.scripts import ScriptInterrupted
from llmariner.standalone.weights import LocalWeights

from .model_server import COMMIT, ModelServer, running_server
from .script_environment import no_file, script_environment
from .tiny_model_files import CONFIG, gguf_model, safetensors

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


FILES = {"config.json": CONFIG, "model.safetensors": safetensors()}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        server.repositories["org/repository"] = dict(FILES)
        yield server


@pytest.fixture
def weights(tmp_path: Path, server: ModelServer) -> LocalWeights:
    settings = ModelSettings(hub=server.url, ollama_registry=server.url)
    return LocalWeights(tmp_path / "home" / "models", script_environment(tmp_path), no_file, settings)


def ignore_progress(_progress: LoadingProgress) -> None:
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


def test_a_download_stops_with_the_platform_and_resumes(weights: LocalWeights, server: ModelServer) -> None:
    server.fault = lambda *_: "stall"

    def stop(progress: LoadingProgress) -> None:
        if progress.total_bytes:
            weights.close()

    for _ in range(2):
        with pytest.raises(ScriptInterrupted):
            weights.fetch(MODEL, stop)


def test_a_download_of_a_deleted_model_stops_and_leaves_nothing(
    weights: LocalWeights, server: ModelServer, tmp_path: Path
) -> None:
    server.fault = lambda path, *_: "" if path == "config.json" else "stall"

    def deleted(progress: LoadingProgress) -> None:
        if progress.done_bytes >= len(CONFIG):
            raise ModelNotFound(MODEL.id)

    with pytest.raises(ModelNotFound):
        weights.fetch(MODEL, deleted)
    assert [path.name for path in (tmp_path / "home" / "models").iterdir()] == ["blobs"]


def test_what_a_failed_download_left_goes_with_its_model(
    weights: LocalWeights, server: ModelServer, tmp_path: Path
) -> None:
    server.fault = lambda path, *_: "" if path == "config.json" else "lie"
    home = tmp_path / "home" / "models"
    other = replace(MODEL, id="org/other", model_file_location="org/repository:main")
    for model in (MODEL, other):
        with pytest.raises(WeightsUnavailable, match="differs"):
            weights.fetch(model, ignore_progress)
    config = hashlib.sha256(CONFIG).hexdigest()
    for model_id, left in ((MODEL.id, 1), (other.id, 0)):
        weights.discard(model_id, "")
        assert len(list(home.glob("*.part"))) == left
        assert (home / "blobs" / f"sha256-{config}").exists() == (left > 0)


def test_a_disk_that_refuses_is_a_reason_of_the_failure(tmp_path: Path, server: ModelServer) -> None:
    (tmp_path / "models").write_text("no folder")
    settings = ModelSettings(hub=server.url)
    weights = LocalWeights(tmp_path / "models", script_environment(tmp_path), no_file, settings)
    with pytest.raises(WeightsUnavailable, match=r"can't be stored: File exists.*retry the model"):
        weights.fetch(MODEL, ignore_progress)


def test_what_the_files_say_is_reported(weights: LocalWeights, server: ModelServer) -> None:
    template = json.dumps({"chat_template": "{{ tools }}<tool_call>[TOOL_CALLS]"}).encode()
    server.repositories["org/repository"] |= {"tokenizer_config.json": template, "README.md": b"x" * 1000}
    seen: list[LoadingProgress] = []
    found = weights.fetch(MODEL, seen.append)
    assert (found.task, found.size_bytes) == (Task.GENERATE, len(FILES["model.safetensors"]))
    assert found.traits == ModelTraits(
        architecture="LlamaForCausalLM",
        context_length=2048,
        revision=COMMIT,
        chat_template="tokenizer_config.json",
        tool_parser="mistral",
        tool_parser_origin="tokenizer_config.json",
    )
    total = sum(map(len, FILES.values())) + len(template)
    assert (seen[0].message, seen[-1].done_bytes, seen[-1].total_bytes) == ("listing the files", total, total)
    assert weights.fetch(MODEL, ignore_progress) == found, "from the folder"


def test_weights_that_no_engine_serves_are_refused(weights: LocalWeights, server: ModelServer, tmp_path: Path) -> None:
    pickles = {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04."}
    cases: list[tuple[dict[str, bytes], str]] = [
        (pickles, "pickles.*LLMARINER_MODEL_PICKLES"),
        ({"README.md": b"x"}, "no weights"),
        ({"config.json": CONFIG, "model.safetensors": b"\x80\x04pickle"}, "its content is none"),
        ({"config.json": CONFIG, "model.safetensors": (1 << 60).to_bytes(8, "little") + b"{}"}, "its content is none"),
        ({"config.json": b"[]", "model.safetensors": safetensors()}, "no JSON object"),
        ({"model.safetensors": safetensors()}, "no config.json"),
        ({"a.gguf": gguf_model(), "b.gguf": gguf_model()}, "Name one file.*a.gguf, b.gguf"),
        ({"a.gguf": gguf_model({"general.architecture": "mamba"})}, "architecture 'mamba' can't be converted"),
        ({"a.gguf": b"\x80\x04" * 20}, "its content is none"),
        ({"m/config.pbtxt": b"x", "m/1/model.onnx": b"x"}, "NVIDIA_TRITON"),
    ]
    for number, (files, said) in enumerate(cases):
        server.repositories["org/repository"] = files
        with pytest.raises(WeightsUnavailable, match=said):
            weights.fetch(replace(MODEL, created_at=number), ignore_progress)
    settings = ModelSettings(hub=server.url, pickles=True)
    allowing = LocalWeights(
        tmp_path / "other", EngineEnvironment(tmp_path, tmp_path / "engine.lock"), no_file, settings
    )
    server.repositories["org/repository"] = pickles
    assert allowing.fetch(MODEL, ignore_progress).size_bytes == 3


def test_a_gguf_file_becomes_a_folder_that_the_engine_reads(server: ModelServer, tmp_path: Path) -> None:
    settings = ModelSettings(hub=server.url, ollama_registry=server.url)
    weights = LocalWeights(tmp_path / "models", script_environment(tmp_path), no_file, settings)
    server.repositories |= {
        "org/gguf": {"a.gguf": gguf_model(), "b.gguf": gguf_model({"general.architecture": "mamba"})},
        "tiny:latest": {"application/vnd.ollama.image.model": gguf_model()},
    }
    local = tmp_path / "local"
    local.mkdir()
    (local / "x.gguf").write_bytes(gguf_model())
    for source, location in (
        (SourceRepository.HUGGING_FACE, "org/gguf/a.gguf"),
        (SourceRepository.OLLAMA, "tiny"),
        (SourceRepository.LOCAL, str(local)),
    ):
        model = replace(MODEL, source_repository=source, model_file_location=location)
        found = weights.fetch(model, ignore_progress)
        assert (found.traits.converted_from, found.traits.architecture) == ("GGUF", "LlamaForCausalLM")
        assert (Path(found.folder) / "tokenizer.json").stat().st_mode & 0o444 == 0o444
        weights.discard(model.id, found.folder)
    assert sorted(path.name for path in tmp_path.glob("models/**/*")) == ["blobs", "lock"]


def test_local_folders_of_projects_have_no_links_out_of_them(weights: LocalWeights, tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder in (mine, others):
        folder.mkdir()
        (folder / "config.json").write_bytes(CONFIG)
    (others / "model.safetensors").write_bytes(safetensors())
    (mine / "model.safetensors").symlink_to(others / "model.safetensors")
    model = replace(MODEL, source_repository=SourceRepository.LOCAL, model_file_location=str(mine), approved=False)
    with pytest.raises(WeightsUnavailable, match="a link that leads out of it"):
        weights.fetch(model, ignore_progress)
    assert weights.fetch(replace(model, approved=True), ignore_progress).folder == str(mine)
    for location, said in (("relative", "absolute path"), (f"{tmp_path}/gone", "no folder"), ("pvc://x/y", "not here")):
        with pytest.raises(WeightsUnavailable, match=said):
            weights.fetch(replace(model, model_file_location=location), ignore_progress)


def test_a_volume_of_worker_clusters_is_taken_for_models_that_run_there_alone(weights: LocalWeights) -> None:
    volume = replace(MODEL, source_repository=SourceRepository.OBJECT_STORE, model_file_location="pvc://models/small")
    for allowed in ((), ("cluster-local",), ("cluster-local", "cluster-west")):
        with pytest.raises(WeightsUnavailable, match="Name the clusters that have it"):
            weights.fetch(replace(volume, config=ModelConfig(allowed_clusters=allowed)), ignore_progress)
    elsewhere = replace(volume, config=ModelConfig(allowed_clusters=("cluster-west",)))
    assert weights.fetch(elsewhere, ignore_progress).folder == "pvc://models/small"


def test_a_model_with_weights_of_its_own_is_unpacked_from_the_file_of_its_job(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (
            ("config.json", CONFIG),
            ("tokenizer_config.json", b"{}"),
            ("model.safetensors", safetensors()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    asked = []

    def read_file(project_id: str, file_id: str) -> Iterator[bytes]:
        asked.append((project_id, file_id))
        if file_id == "file-gone":
            raise NotFound("No such file.")
        yield packed.getvalue() if file_id == "file-1" else b"a pickle, perhaps"

    weights = LocalWeights(tmp_path / "models", script_environment(tmp_path), read_file)
    tuned = replace(MODEL, source_repository=SourceRepository.FINE_TUNING, base_model_id=None, project_id="proj_1")
    for _ in range(2):
        found = weights.fetch(replace(tuned, model_file_location="file-1"), ignore_progress)
    assert asked == [("proj_1", "file-1")], "it is fetched once"
    assert (found.size_bytes, found.task) == (len(safetensors()), Task.GENERATE)
    for file_id, said in (("file-gone", "was deleted"), ("file-2", "no archive of a model")):
        with pytest.raises(WeightsUnavailable, match=said):
            weights.fetch(replace(tuned, model_file_location=file_id), ignore_progress)
    assert list((tmp_path / "models" / "blobs").glob("sha256-*"))
    weights.discard(tuned.id, found.folder)
    assert not Path(found.folder).exists()
    assert not list((tmp_path / "models" / "blobs").glob("sha256-*")), "its room is free"


def test_an_adapter_of_a_fine_tuning_job_is_made_of_its_file(tmp_path: Path) -> None:
    header = json.dumps(
        {"base_model.model.q_proj.lora_A.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 0]}}
    ).encode()
    asked = []

    def read_file(project_id: str, file_id: str) -> Iterator[bytes]:
        asked.append((project_id, file_id))
        if file_id == "file-gone":
            raise NotFound("No such file.")
        yield len(header).to_bytes(8, "little") + header if file_id == "file-1" else b"a pickle, perhaps"

    weights = LocalWeights(tmp_path / "models", script_environment(tmp_path), read_file)
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
