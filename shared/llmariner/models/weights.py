"""The weights port: fetching a model's files to where its engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llmariner.models.model import Model, Task
from llmariner.models.restrictions import weight_uri

__all__ = ["FetchedWeights", "ReportProgress", "StorageUriFetcher", "WeightFetcher", "WeightsUnavailable"]

ReportProgress = Callable[[float, str], None]


class WeightsUnavailable(Exception):
    """The weights can't be fetched and a retry would not help; the message says why and what to do."""


@dataclass(frozen=True)
class FetchedWeights:
    """Where the weights are, their size, and the task of the model where its files name one."""

    folder: str
    size_bytes: int
    task: Task | None


class WeightFetcher(Protocol):
    """Adapters: `standalone.weights` (folders of this machine), `StorageUriFetcher` (a cluster)."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """Fetch the weights. `report` gets the progress (0 to 1) and a sentence.

        WeightsUnavailable where a retry would not help; the caller retries after any other exception.
        """

    def discard(self, model_id: str, folder: str) -> None:
        """Remove what `fetch` fetched; other folders are not touched. Idempotent."""


class StorageUriFetcher:
    """KServe's storage initializer fetches the weights when a model wakes: `fetch` returns their URI only."""

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port."""
        report(1.0, "")
        uri = weight_uri(model.source_repository, model.model_file_location)
        return FetchedWeights(uri, model.size_bytes, None)

    def discard(self, model_id: str, folder: str) -> None:
        """Nothing was fetched."""
