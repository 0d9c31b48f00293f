"""The weights port: bringing a model's files to where its engine reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llmariner.models.model import Model, Task
from llmariner.models.restrictions import weight_uri

__all__ = ["FetchedWeights", "Report", "StorageUriWeights", "Weights", "WeightsUnavailable"]

Report = Callable[[float, str], None]


class WeightsUnavailable(Exception):
    """The weights can't be had, and trying again would not help; the message says why and what to do."""


@dataclass(frozen=True)
class FetchedWeights:
    """Where the weights are, how many bytes, and what the model is for where its files say so."""

    folder: str
    size_bytes: int
    task: Task | None


class Weights(Protocol):
    """Adapters: `local.weights` (folders of this machine), `StorageUriWeights` (a cluster)."""

    def fetch(self, model: Model, report: Report) -> FetchedWeights:
        """Bring them; `report` is told progress (0 to 1) and a sentence. WeightsUnavailable; anything else is retried."""

    def discard(self, model_id: str, folder: str) -> None:
        """Remove what `fetch` brought; other folders are left alone. Idempotent."""


class StorageUriWeights:
    """On a cluster KServe's storage initializer brings weights when a model wakes: here only the address is settled."""

    def fetch(self, model: Model, report: Report) -> FetchedWeights:
        """See the port."""
        report(1.0, "")
        uri = weight_uri(model.source_repository, model.model_file_location)
        return FetchedWeights(uri, model.size_bytes, None)

    def discard(self, model_id: str, folder: str) -> None:
        """Nothing was brought."""
