"""Weights in standalone mode: local folders, and snapshots of a Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from llmariner.errors import ModelNotFound, NotFound
from llmariner.fine_tuning.adapter_file import InvalidAdapter, file_of, write_adapter_folder
from llmariner.models.model import Model, SourceRepository, Task
from llmariner.models.weights import FetchedWeights, ReportProgress, WeightsUnavailable
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.scripts import Scripts

__all__ = ["LocalWeights"]

ReadFile = Callable[[str, str], Iterator[bytes]]
_FETCH = Path(__file__).parent / "engine" / "fetch_snapshot.py"


class LocalWeights:
    """See `models.weights.WeightFetcher`. `folder`: contains a subfolder for each fetched model.

    `read_file`: the bytes of a project's file (project id, file id), for adapters that fine-tuning jobs made.
    A subfolder's name is derived from the model's id, creation time and repository, so a model that is created again under
    the same id has another folder.
    """

    def __init__(self, folder: Path, environment: EngineEnvironment, read_file: ReadFile) -> None:
        self._folder = folder
        self._scripts = Scripts(environment)
        self._read_file = read_file

    def close(self) -> None:
        """Stop running downloads; the next start resumes them."""
        self._scripts.close()

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        file = file_of(model.model_file_location, model.project_id or "")
        # Whom a file belongs to was decided by the platform, which approves the models that it makes of files.
        if model.source_repository is SourceRepository.FINE_TUNING and model.approved and file is not None:
            return _inspected(self._adapter(model, *file), adapter=True)
        if model.source_repository in (
            SourceRepository.LOCAL,
            SourceRepository.OBJECT_STORE,
            SourceRepository.FINE_TUNING,
        ):
            return _inspected(_local_folder(model), adapter=model.base_model_id is not None)
        if model.source_repository is SourceRepository.HUGGING_FACE:
            return _inspected(self._snapshot(model, report), adapter=model.base_model_id is not None)
        raise WeightsUnavailable(
            "Ollama models need an Ollama runtime, which a single machine does not run; use HUGGING_FACE."
        )

    def discard(self, model_id: str, folder: str) -> None:
        """See the port. Removes `folder` only if it was fetched for this model."""
        if not folder:
            return
        path = Path(folder).resolve()
        if path.parent == self._folder.resolve() and path.name.startswith(_folder_prefix(model_id)):
            shutil.rmtree(path, ignore_errors=True)

    def _adapter(self, model: Model, project_id: str, file_id: str) -> Path:
        """The folder of an adapter that a fine-tuning job made: its file, as that project has it."""
        target = self._target(model)
        if target.is_dir():
            return target
        try:
            parts = self._read_file(project_id, file_id)
            write_adapter_folder(parts, target, model.base_name or "")
        except NotFound as error:
            raise WeightsUnavailable(f"The file '{model.model_file_location}' of the adapter was deleted.") from error
        except InvalidAdapter as error:
            raise WeightsUnavailable(
                f"'{model.model_file_location}' is no adapter that engines load: {error}."
            ) from error
        return target

    def _target(self, model: Model) -> Path:
        registration = json.dumps([model.created_at, model.project_id, model.model_file_location])
        return self._folder / f"{_folder_prefix(model.id)}{_digest(registration)}"

    def _snapshot(self, model: Model, report: ReportProgress) -> Path:
        target = self._target(model)
        if target.is_dir():
            return target
        self._folder.mkdir(parents=True, exist_ok=True)

        def on_progress(progress: dict[str, object]) -> None:
            done, total = int(str(progress["done"])), max(1, int(str(progress["total"])))
            report(min(0.99, done / total), f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

        try:
            self._scripts.run(_FETCH, [model.model_file_location, str(target)], on_progress)
        except ModelNotFound:  # the model was deleted meanwhile
            shutil.rmtree(target.with_name(target.name + ".part"), ignore_errors=True)
            raise
        except OSError as error:
            raise WeightsUnavailable(
                f"{model.model_file_location} could not be fetched from the hub. Check the name and the network, "
                f"then delete the model and create it again. {str(error)[-600:]}"
            ) from error
        return target


def _folder_prefix(model_id: str) -> str:
    """The prefix of a model's folder names: readable and unique to the id."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', model_id).lstrip('.')[:64]}-{_digest(model_id)}-"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _local_folder(model: Model) -> Path:
    location = model.model_file_location.removeprefix("file://")
    path = Path(location).expanduser()
    if "://" in location or not path.is_absolute():
        raise WeightsUnavailable(
            f"'{location}' is not here: a single machine takes the absolute path of a local folder."
        )
    return path


def _inspected(folder: Path, *, adapter: bool) -> FetchedWeights:
    """Size and task of the weights in a folder. Raises WeightsUnavailable if no engine can serve them."""
    name = "adapter_config.json" if adapter else "config.json"
    try:
        config = json.loads((folder / name).read_text())
        sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"No readable {name} in {folder}: it must be a Hugging Face model folder.") from error
    if not sizes:
        raise WeightsUnavailable(f"No .safetensors file in {folder}; other formats are not served.")
    architectures = config.get("architectures") or []
    embeds = any(word in name for name in architectures for word in ("Bert", "Embedding", "SentenceTransformer"))
    task = None if adapter else Task.EMBED if embeds or (folder / "modules.json").is_file() else Task.GENERATE
    return FetchedWeights(str(folder), sum(sizes), task)
