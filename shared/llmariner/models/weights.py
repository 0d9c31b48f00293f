"""The weights port: fetching a model's files to where its engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llmariner.models.model import Model, SourceRepository, Task
from llmariner.models.restrictions import weight_uri
from llmariner.models.traits import ModelTraits
from llmariner.platform.serving import OWN_FILE_SCHEME

__all__ = [
    "FetchedWeights",
    "LoadingDeferred",
    "LoadingProgress",
    "LoadingUnfinished",
    "ReportProgress",
    "StorageUriFetcher",
    "WeightFetcher",
    "WeightsUnavailable",
]


@dataclass(frozen=True)
class LoadingProgress:
    """How far a fetch is. `fraction`: 0 to 1. `estimate_seconds`: until it is done; None where nobody can say."""

    fraction: float
    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    estimate_seconds: float | None = None


ReportProgress = Callable[[LoadingProgress], None]


class WeightsUnavailable(Exception):
    """The weights can't be fetched and a retry would not help; the message says why and what to do."""


class LoadingUnfinished(Exception):
    """A bounded piece of the work is done; another call of `fetch` continues."""


class LoadingDeferred(Exception):
    """Nothing was done: others work on it, or are before it, and have it continue (`next_waiting`)."""


@dataclass(frozen=True)
class FetchedWeights:
    """Where the weights are, their size, and what their files say: the task, where they name one, and the traits."""

    folder: str
    size_bytes: int
    task: Task | None
    traits: ModelTraits = field(default_factory=ModelTraits)


class WeightFetcher(Protocol):
    """Adapters: `standalone.weights` (folders of this machine), `StorageUriFetcher` and `copies.fetcher` (a cluster)."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """Fetch the weights. `report` gets the progress; what it raises ends the fetch.

        WeightsUnavailable where a retry would not help; LoadingUnfinished and LoadingDeferred where `fetch` works in
        pieces; the caller retries after any other exception.
        """

    def discard(self, model_id: str, folder: str, successor: Model | None = None) -> None:
        """Remove what `fetch` fetched; other folders are not touched. Idempotent.

        `folder` empty: whatever it left for models of that id. `successor`: the present model of that id keeps its own.
        """

    def next_waiting(self, project_id: str | None) -> tuple[str, int] | None:
        """The model of the project (id, time of creation) whose loading is to continue next; None where none waits."""

    def stalled(self) -> list[tuple[str, int]]:
        """Models whose loading was begun and that nobody works on any more."""

    def remove_unused(self, *, seconds: float) -> None:
        """Remove what deleted models left. Returns after about so long; the next call continues."""

    def collect_garbage(self, *, seconds: float) -> None:
        """Remove what killed processes left, which takes a look at everything. Returns after about so long."""


class StorageUriFetcher:
    """KServe's storage initializer fetches the weights when a model wakes: `fetch` returns their URI only."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        report(LoadingProgress(1.0))
        if model.source_repository is SourceRepository.OLLAMA:
            raise WeightsUnavailable(
                "KServe does not fetch from an Ollama registry: that needs copies of models (LLMARINER_MODEL_COPIES=1). "
                "Otherwise register the Hugging Face repository of the same model, with 'source_repository' HUGGING_FACE."
            )
        if model.credential_id is not None:
            raise WeightsUnavailable(
                "KServe fetches this model when its engine starts, and has the installation's credentials alone. A "
                "project's credential needs copies of models (LLMARINER_MODEL_COPIES=1), and a hub or a bucket."
            )
        uri = weight_uri(model.source_repository, model.model_file_location)
        if uri.startswith(OWN_FILE_SCHEME) and model.base_model_id is None:
            raise WeightsUnavailable(
                "KServe does not fetch a model whose weights were all trained here: that needs copies of models "
                "(LLMARINER_MODEL_COPIES=1)."
            )
        return FetchedWeights(uri, model.size_bytes, None)

    def discard(self, model_id: str, folder: str, successor: Model | None = None) -> None:
        """Nothing was fetched."""

    def next_waiting(self, project_id: str | None) -> tuple[str, int] | None:
        """None: `fetch` does all at once."""
        return None

    def stalled(self) -> list[tuple[str, int]]:
        """None, as for `next_waiting`."""
        return []

    def remove_unused(self, *, seconds: float) -> None:
        """Nothing was fetched."""

    def collect_garbage(self, *, seconds: float) -> None:
        """Nothing was fetched."""
