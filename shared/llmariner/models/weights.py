"""The weights port: fetching a model's files to where its engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llmariner.models.model import Model, SourceRepository, Task
from llmariner.models.restrictions import weight_uri
from llmariner.models.traits import ModelTraits

__all__ = [
    "FetchedWeights",
    "LoadingProgress",
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


@dataclass(frozen=True)
class FetchedWeights:
    """Where the weights are, their size, and what their files say: the task, where they name one, and the traits."""

    folder: str
    size_bytes: int
    task: Task | None
    traits: ModelTraits = field(default_factory=ModelTraits)


class WeightFetcher(Protocol):
    """Adapters: `standalone.weights` (folders of this machine), `StorageUriFetcher` (a cluster)."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """Fetch the weights. `report` gets the progress; what it raises ends the fetch.

        WeightsUnavailable where a retry would not help; the caller retries after any other exception.
        """

    def discard(self, model_id: str, folder: str) -> None:
        """Remove what `fetch` fetched; other folders are not touched. Idempotent."""


class StorageUriFetcher:
    """KServe's storage initializer fetches the weights when a model wakes: `fetch` returns their URI only."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        report(LoadingProgress(1.0))
        if model.source_repository is SourceRepository.OLLAMA:
            raise WeightsUnavailable(
                "No engine of a cluster reads the models of an Ollama registry. Register the Hugging Face repository of "
                "the same model, with 'source_repository' HUGGING_FACE."
            )
        uri = weight_uri(model.source_repository, model.model_file_location)
        return FetchedWeights(uri, model.size_bytes, None)

    def discard(self, model_id: str, folder: str) -> None:
        """Nothing was fetched."""
