"""How a cluster's installation has weights fetched, by its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmariner.models.weights import StorageUriFetcher, WeightFetcher
from llmariner.settings import ModelSettings, ObjectSettings

if TYPE_CHECKING:
    from llmariner.context import Context

__all__ = ["cluster_weights"]


def cluster_weights(context: Context) -> WeightFetcher:
    """KServe's storage initializer fetches weights, or the platform copies them. Imports what the settings ask for."""
    settings = ModelSettings.load(context.env)
    direct: WeightFetcher = StorageUriFetcher()
    if settings.inspection:
        from llmariner.models.hub_inspection import InspectingUriFetcher

        direct = InspectingUriFetcher(settings)
    if not settings.copies:
        return direct
    from llmariner.fine_tuning.archive_source import archive_source
    from llmariner.models.copies.fetcher import CopyingFetcher

    return CopyingFetcher(
        context.database,
        lambda: context.objects,
        settings,
        ObjectSettings.load(context.env).s3,
        direct,
        lambda model: context.source_credentials.of_model(model),  # noqa: PLW0108 - most installations have none
        trained=lambda model: archive_source(model, lambda: context.files),
    )
