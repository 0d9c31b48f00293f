"""Weights in standalone mode: local folders, and folders fetched from repositories."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.errors import ModelNotFound, NotFound
from llmariner.fine_tuning.adapter_file import InvalidAdapter, write_adapter_folder
from llmariner.fine_tuning.file_locations import made_file
from llmariner.fine_tuning.model_archive import InvalidArchive, write_model_folder
from llmariner.models.formats import (
    Format,
    choose_files,
    folder_format,
    has_gguf,
    read_json,
    weight_files,
)
from llmariner.models.inspection import folder_task, folder_traits
from llmariner.models.model import Model, SourceRepository
from llmariner.models.sources import CredentialOf, no_credential, open_source
from llmariner.models.weights import (
    FetchedWeights,
    LoadingProgress,
    ReportProgress,
    StorageUriFetcher,
    WeightsUnavailable,
)
from llmariner.platform.jobs.local_processes.settings import MemoryBudget
from llmariner.platform.model_files import FilesUnavailable, ModelSource, RemoteFile, TransferInterrupted, check_files
from llmariner.platform.model_files.blobs import BlobStore, locked, remove_unlocked
from llmariner.platform.model_files.fetch import PART, FetchProgress, fetch_files
from llmariner.platform.model_files.ranges import TransferLimits
from llmariner.settings import ModelSettings, S3Settings
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.scripts import ScriptInterrupted, Scripts
from llmariner.standalone.engine.tool_model import TOOL_MODEL, TRAINING_BYTES, make_tool_model

__all__ = ["VOLUME_SCHEME", "LocalWeights"]

VOLUME_SCHEME = "pvc://"
"""Of weights in a volume of a worker cluster."""

ReadFile = Callable[[str, str], Iterator[bytes]]
_GGUF_SUFFIX = ".gguf-files"
_ORIGIN = ".origin.json"
_SPARE_BYTES = 512 << 20
_BLOBS = "blobs"
_MEMORY_POLL_SECONDS = 2.0


class LocalWeights:
    """See `models.weights.WeightFetcher`. `folder`: contains a subfolder for each fetched model, and the files' contents.

    `read_file`: the bytes of a project's file (project id, file id), for what fine-tuning jobs made.
    A subfolder's name is derived from the model's id, creation time and repository, so a model that is created again under
    the same id has another folder.
    """

    def __init__(
        self,
        folder: Path,
        environment: EngineEnvironment,
        read_file: ReadFile,
        settings: ModelSettings = ModelSettings(),  # noqa: B008
        s3: S3Settings = S3Settings(),  # noqa: B008
        *,
        credential_of: CredentialOf = no_credential,
        limits: TransferLimits = TransferLimits(),  # noqa: B008
    ) -> None:
        self._folder = folder
        self._blobs = BlobStore(folder / _BLOBS)
        self._scripts = Scripts(environment)
        self._read_file = read_file
        self._settings = settings
        self._s3 = s3
        self._credential_of = credential_of
        self._limits = limits
        self._cache = environment.cache
        self._closed = threading.Event()
        self.memory: MemoryBudget | None = None
        """Of engines and jobs, once they run: what is trained here takes memory too."""

    def close(self) -> None:
        """Stop running downloads; the next start resumes them."""
        self._closed.set()
        self._scripts.close()

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        try:
            if (file := made_file(model)) is not None:
                make = self._adapter if model.base_model_id is not None else partial(self._trained_model, report=report)
                return self._inspected_own(make(model, *file), model)
            if model.source_repository is SourceRepository.HUGGING_FACE and model.model_file_location == TOOL_MODEL:
                return self._inspected_own(self._tool_model(model, report), model)
            if _is_on_workers(model):
                return StorageUriFetcher().fetch(model, report)
            with open_source(model, self._settings, self._s3, self._credential_of) as source:
                return self._local(model, report) if source is None else self._fetched(model, source, report)
        except FilesUnavailable as error:
            raise WeightsUnavailable(str(error)) from error
        except TimeoutError:  # an OSError, and no fault of the disk
            raise
        except OSError as error:
            raise WeightsUnavailable(
                f"The weights can't be stored: {error.strerror or type(error).__name__}. Look after the disk of this "
                "machine, then retry the model."
            ) from error
        except TransferInterrupted as error:
            raise WeightsUnavailable(
                f"{error} What is here already is kept for a week: retry the model when the network works."
            ) from error

    def discard(self, model_id: str, folder: str, successor: Model | None = None) -> None:
        """See the port. Removes `folder` only if it was fetched for this model, and files that no other model uses."""
        if not folder:
            self._discard_unrecorded(model_id, successor)
            return
        path = Path(folder).resolve()
        if path.parent == self._folder.resolve() and path.name.startswith(_folder_prefix(model_id)):
            shutil.rmtree(path, ignore_errors=True)
            self._blobs.free_unused()

    def next_waiting(self, project_id: str | None) -> tuple[str, int] | None:
        """None: `fetch` does all at once."""
        return None

    def stalled(self) -> list[tuple[str, int]]:
        """None: a delivery is repeated until it is done."""
        return []

    def remove_unused(self, *, seconds: float) -> None:
        """Remove contents that no model uses."""
        self._blobs.free_unused()

    def collect_garbage(self, *, seconds: float) -> None:
        """Nothing more than `remove_unused` does."""

    def _discard_unrecorded(self, model_id: str, successor: Model | None) -> None:
        """Remove what fetches left that failed, or that were killed before the registry had their folder.

        A fetch that is under way, of a later model of that id, keeps its own.
        """
        kept = set() if successor is None else {successor.folder, str(self._target(successor))}
        for path in self._folder.glob(f"{glob.escape(_folder_prefix(model_id))}*"):
            if path.name.endswith(PART):
                remove_unlocked(path)
            elif path.is_dir() and str(path) not in kept and not path.name.endswith(_GGUF_SUFFIX):
                shutil.rmtree(path, ignore_errors=True)
        self._blobs.free_unused()

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

    def _trained_model(self, model: Model, project_id: str, file_id: str, *, report: ReportProgress) -> Path:
        """The folder of a model that a fine-tuning job made with weights of its own, of its file."""
        target = self._target(model)

        def check() -> None:
            if self._closed.is_set():
                raise ScriptInterrupted("the copy of the model")

        with self._turn(target, report):
            if not target.is_dir():
                try:
                    write_model_folder(self._read_file(project_id, file_id), target, self._blobs, check)
                except NotFound as error:
                    raise WeightsUnavailable(
                        f"The file '{model.model_file_location}' of the model was deleted."
                    ) from error
                except InvalidArchive as error:
                    raise WeightsUnavailable(
                        f"'{model.model_file_location}' is no archive of a model: {error}."
                    ) from error
        return target

    def _target(self, model: Model) -> Path:
        registration = json.dumps([model.created_at, model.project_id, model.model_file_location])
        return self._folder / f"{_folder_prefix(model.id)}{_digest(registration)}"

    def _fetched(self, model: Model, source: ModelSource, report: ReportProgress) -> FetchedWeights:
        target = self._target(model)
        with self._turn(target, report), self._removed_after(ModelNotFound, target=target):
            if not target.is_dir():
                self._fetch_into(target, source, report)
        return self._inspected_own(target, model)

    def _fetch_into(self, target: Path, source: ModelSource, report: ReportProgress) -> None:
        self._report(report, LoadingProgress(0.0, "listing the files"))
        listing = source.list_files()
        files = choose_files(listing.files, source.only, pickles_allowed=self._settings.pickles)
        check_files(files)
        is_gguf = has_gguf(files)
        if is_gguf:
            _check_convertible(source, files)
        place = target.with_name(target.name + _GGUF_SUFFIX) if is_gguf else target
        fetch_files(source, files, place, self._blobs, self._on_progress(report), self._limits)
        if is_gguf:
            with self._removed_after(FilesUnavailable, target=target):
                self._convert(next(place.rglob("*.gguf")), target, report)
            shutil.rmtree(place, ignore_errors=True)
            self._blobs.free_unused()
        self._write_origin(target, listing.revision, Format.GGUF if is_gguf else "")

    def _write_origin(self, target: Path, revision: str, converted_from: str) -> None:
        with self._removed_after(OSError, target=target):  # the disk is full
            (target / _ORIGIN).write_text(json.dumps({"revision": revision, "converted_from": converted_from}))

    def _tool_model(self, model: Model, report: ReportProgress) -> Path:
        """The folder of the packaged model that is made on this machine."""
        target = self._target(model)

        def on_progress(fraction: float, what: str) -> None:
            self._report(report, LoadingProgress(min(0.99, fraction), what))

        with self._turn(target, report), self._removed_after(ModelNotFound, FilesUnavailable, target=target):
            if not target.is_dir():
                with self._reserved_memory(model, report):
                    self._make_tool_model(target, on_progress)
        return target

    def _make_tool_model(self, target: Path, on_progress: Callable[[float, str], None]) -> None:
        try:
            make_tool_model(self._scripts, self._cache, target, on_progress)
        except OSError as error:
            raise FilesUnavailable(f"The model could not be made: {str(error)[-600:]}") from error

    @contextlib.contextmanager
    def _reserved_memory(self, model: Model, report: ReportProgress) -> Iterator[None]:
        """Wait for the memory of a training, which is of the engines' budget."""
        # A model that is created again under an id waits while the training of the deleted one ends.
        owner, project_id = f"model {self._target(model).name}", model.project_id or ""
        if self.memory and (refusal := self.memory.refusal(TRAINING_BYTES)):
            raise FilesUnavailable(
                f"The model is trained on this machine, which takes memory. {refusal} Set LLMARINER_MEMORY_GIB to "
                "more, or use a machine with more memory; then retry the model."
            )
        try:
            while reason := self.memory.reserve(owner, project_id, TRAINING_BYTES) if self.memory else "":
                self._report(report, LoadingProgress(0.0, reason))
                self._closed.wait(_MEMORY_POLL_SECONDS)
            yield
        finally:
            if self.memory:
                self.memory.release(owner)

    def _local(self, model: Model, report: ReportProgress) -> FetchedWeights:
        folder, target = _local_folder(model), self._target(model)
        if target.is_dir():
            return self._inspected_own(target, model)
        if model.base_model_id is None and folder_format(folder, pickles_allowed=self._settings.pickles) is Format.GGUF:
            files = sorted(folder.rglob("*.gguf"))
            if len(files) > 1:
                raise FilesUnavailable(
                    f"The folder {folder} has {len(files)} GGUF files. Name a folder with one of them."
                )
            with self._turn(target, report), self._removed_after(ModelNotFound, FilesUnavailable, target=target):
                if not target.is_dir():
                    self._convert(files[0], target, report)
                    self._write_origin(target, "", Format.GGUF)
            return self._inspected_own(target, model)
        return self._inspected(folder, model)

    def _report(self, report: ReportProgress, progress: LoadingProgress) -> None:
        if self._closed.is_set():
            raise ScriptInterrupted("the download")
        report(progress)

    def _on_progress(self, report: ReportProgress) -> Callable[[FetchProgress], None]:
        def on_progress(found: FetchProgress) -> None:
            done, total = found.done_bytes, found.total_bytes
            message = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
            fraction = min(0.99, done / max(1, total))
            self._report(report, LoadingProgress(fraction, message, done, total, found.estimate_seconds))

        return on_progress

    def _convert(self, file: Path, target: Path, report: ReportProgress) -> None:
        from llmariner.models.gguf.conversion import conversion_of_file, write_folder  # NumPy is for those that convert

        conversion = conversion_of_file(file)
        total = sum(each.size for each in conversion.list_files().files)
        if (needed := total + _SPARE_BYTES) > (free := shutil.disk_usage(target.parent).free):
            raise FilesUnavailable(
                f"The converted model needs {needed / 1e9:,.1f} GB on the disk, and {free / 1e9:,.1f} GB are "
                "free. Delete models that are not needed, then retry this one."
            )

        def on_progress(done: int) -> None:
            self._report(report, LoadingProgress(0.99, f"converting: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"))

        part = target.with_name(f"{target.name}.converting{PART}")
        shutil.rmtree(part, ignore_errors=True)
        write_folder(conversion, part, on_progress)
        os.replace(part, target)

    @contextlib.contextmanager
    def _turn(self, target: Path, report: ReportProgress) -> Iterator[None]:
        """Wait while another delivery makes a folder: of the event again, or of a model of the same id and second."""
        if target.is_dir():
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{target.name}.lock")
        waits = LoadingProgress(0.0, "another delivery of this model is under way")
        with locked(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, lambda: self._report(report, waits)):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _removed_after(self, *errors: type[Exception], target: Path) -> Iterator[None]:
        """After these errors, remove the folder of a model and what was made beside it: nothing names them any more."""
        try:
            yield
        except errors:
            for path in target.parent.glob(f"{glob.escape(target.name)}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            self._blobs.free_unused()
            raise

    def _inspected_own(self, target: Path, model: Model) -> FetchedWeights:
        """As `_inspected`, of a folder of the platform's own, which is removed if no engine can serve it."""
        with self._removed_after(FilesUnavailable, target=target):
            return self._inspected(target, model)

    def _inspected(self, folder: Path, model: Model) -> FetchedWeights:
        """Size, format, task and traits of the weights in a folder. FilesUnavailable if no engine here can serve them."""
        format_found = folder_format(folder, pickles_allowed=self._settings.pickles)
        if format_found is not Format.HUGGING_FACE:
            raise FilesUnavailable(
                f"The model's format is {format_found}, and the engine of a single machine reads Hugging Face folders."
            )
        adapter = model.base_model_id is not None
        name = "adapter_config.json" if adapter else "config.json"
        if not (folder / name).is_file():
            raise FilesUnavailable(f"No readable {name} in {folder}: it must be a Hugging Face model folder.")
        config = read_json(folder / name)
        size = sum(path.stat().st_size for path in weight_files(folder))
        if adapter:
            return FetchedWeights(str(folder), size, None)
        origin = read_json(folder / _ORIGIN)
        found = folder_traits(folder, config)
        traits = replace(
            found, revision=str(origin.get("revision", "")), converted_from=str(origin.get("converted_from", ""))
        )
        return FetchedWeights(str(folder), size, folder_task(folder, traits), traits=traits)


def _folder_prefix(model_id: str) -> str:
    """The prefix of a model's folder names: readable and unique to the id."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', model_id).lstrip('.')[:64]}-{_digest(model_id)}-"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_on_workers(model: Model) -> bool:
    """Whether the weights are in a volume of the worker clusters on which alone the model may run."""
    allowed = model.config.allowed_clusters
    return model.model_file_location.startswith(VOLUME_SCHEME) and bool(allowed) and LOCAL_CLUSTER_ID not in allowed


def _local_folder(model: Model) -> Path:
    location = model.model_file_location.removeprefix("file://")
    path = Path(location).expanduser()
    if location.startswith(VOLUME_SCHEME):
        raise FilesUnavailable(
            f"'{location}' is not here: a volume is in a worker cluster. Name the clusters that have it, without "
            f"'{LOCAL_CLUSTER_ID}', as 'allowed_cluster_ids'; then retry the model."
        )
    if "://" in location or not path.is_absolute():
        raise FilesUnavailable(f"'{location}' is not here: a single machine takes the absolute path of a local folder.")
    if not path.is_dir():
        raise FilesUnavailable(f"There is no folder {path} on this machine.")
    if not model.approved:
        _check_links(path)
    return path


def _check_links(folder: Path) -> None:
    """FilesUnavailable for links that lead out of a folder: who may write there could name another project's weights."""
    whole = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(whole):
            raise FilesUnavailable(f"{path.name} in the folder is a link that leads out of it.")


def _check_convertible(source: ModelSource, files: Sequence[RemoteFile]) -> None:
    """FilesUnavailable for a GGUF file that can't be converted, by a look at its header where the source is not too slow."""
    from llmariner.models.gguf.conversion import conversion_of_source

    with contextlib.suppress(TransferInterrupted):
        conversion_of_source(source, files)
