"""Looks at repositories of a hub before a cluster's engines fetch them: commit, size, format, and what the small files say.

No weights pass through: KServe's storage initializer fetches them, at the commit that was looked at.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmariner.models.formats import choose_files, read_json
from llmariner.models.inspection import SMALL_FILES, folder_task, folder_traits
from llmariner.models.model import Model
from llmariner.models.weights import (
    FetchedWeights,
    LoadingProgress,
    ReportProgress,
    StorageUriFetcher,
    WeightsUnavailable,
)
from llmariner.platform.model_files import FilesUnavailable, Listing, RemoteFile, TransferInterrupted, check_files
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.fetch import fetch_files
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ranges import TransferLimits
from llmariner.settings import ModelSettings

__all__ = ["InspectingUriFetcher"]

# As objects of Python, JSON may be 25 times as large, and a function has 256 MiB.
_MAX_SMALL_BYTES = 4 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
# A delivery lasts a minute at most; small files come at once or not at all.
_LIMITS = TransferLimits(workers=1, patience=20.0)


class InspectingUriFetcher(StorageUriFetcher):
    """See `WeightFetcher`: `fetch` returns a URI with the commit. Other locations than `hf://` are not looked at."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        fetched = super().fetch(model, report)
        if not fetched.folder.startswith("hf://"):
            return fetched
        report(LoadingProgress(0.5, "looking at the repository"))
        try:
            return self._inspected(fetched, model)
        except FilesUnavailable as error:
            raise WeightsUnavailable(str(error)) from error

    def _inspected(self, fetched: FetchedWeights, model: Model) -> FetchedWeights:
        settings = self._settings
        source = HuggingFaceSource(
            fetched.folder,
            endpoint=settings.hub,
            token=settings.hub_token.reveal(),
            private_allowed=settings.private_addresses,
        )
        if source.only:
            raise FilesUnavailable(
                "A cluster's engines fetch whole repositories: write owner/name or owner/name:revision."
            )
        listing = _listed(source)
        files = choose_files(listing.files, "", pickles_allowed=settings.pickles)
        check_files(files)
        size = sum(file.size for file in files if file.path.endswith(_WEIGHTS))
        if not size:
            raise FilesUnavailable(
                "A cluster's engines read Hugging Face folders, and the repository has another format."
            )
        found = _with_small_files(fetched, source, files, model)
        uri = f"hf://{source.repository}:{listing.revision}"
        return replace(found, folder=uri, size_bytes=size, traits=replace(found.traits, revision=listing.revision))


def _listed(source: HuggingFaceSource) -> Listing:
    for attempt in range(_ATTEMPTS):
        try:
            return source.list_files()
        except TransferInterrupted as error:
            if attempt + 1 == _ATTEMPTS:
                raise FilesUnavailable(
                    f"{error} Check that functions reach HF_ENDPOINT, or set LLMARINER_MODEL_INSPECTION=0; then create the "
                    "model again."
                ) from error
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError


def _with_small_files(
    fetched: FetchedWeights, source: HuggingFaceSource, files: Sequence[RemoteFile], model: Model
) -> FetchedWeights:
    """The task and the traits of a base model."""
    small = [file for file in files if file.path in SMALL_FILES and file.size <= _MAX_SMALL_BYTES]
    wanted = "config.json" if model.base_model_id is None else "adapter_config.json"
    if wanted not in {file.path for file in small}:
        raise FilesUnavailable(f"The repository has no {wanted} beside its weights.")
    if model.base_model_id is not None:
        return fetched
    with tempfile.TemporaryDirectory(prefix="llmariner-model-") as place:
        folder = Path(place, "model")
        fetch_files(source, small, folder, BlobStore(Path(place, "blobs")), lambda _progress: None, _LIMITS)
        traits = folder_traits(folder, read_json(folder / "config.json"))
        return replace(fetched, task=folder_task(folder, traits), traits=traits)
