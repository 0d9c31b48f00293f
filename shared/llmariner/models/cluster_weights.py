"""How a cluster's installation has weights fetched, by its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmariner.models.weights import StorageUriFetcher, WeightFetcher
from llmariner.platform.database import Database
from llmariner.platform.objects import ObjectStore
from llmariner.settings import Environment, ModelSettings, ObjectSettings

if TYPE_CHECKING:
    from llmariner.models.source_credentials import SourceCredentials

__all__ = ["cluster_weights"]


def cluster_weights(
    env: Environment,
    database: Callable[[], Database],
    objects: Callable[[], ObjectStore],
    credentials: Callable[[], SourceCredentials],
) -> WeightFetcher:
    """KServe's storage initializer fetches weights, or the platform copies them. Imports what the settings ask for."""
    settings = ModelSettings.load(env)
    direct: WeightFetcher = StorageUriFetcher()
    if settings.inspection:
        from llmariner.models.hub_inspection import InspectingUriFetcher

        direct = InspectingUriFetcher(settings)
    if not settings.copies:
        return direct
    from llmariner.models.copies.fetcher import CopyingFetcher

    return CopyingFetcher(
        database(), objects, settings, ObjectSettings.load(env).s3, direct, lambda model: credentials().of_model(model)
    )
